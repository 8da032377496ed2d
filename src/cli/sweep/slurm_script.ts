/** The batch script of a sweep: a job array whose elements each run a pack of units one after another. */
import { createHash } from 'node:crypto';
import { join, resolve } from 'node:path';
import { QuestError } from '../../errors.js';
import { packageRoot } from '../../model/package_root.js';
import type { Unit } from './units.js';

export interface SlurmOptions {
  /** sbatch options by name, e.g. partition, gres. */
  sbatch: Readonly<Record<string, string | number | boolean>>;
  /** Elements that run at a time, at most. */
  maxParallel: number | undefined;
  /** Units are packed into one element up to this many tokens. */
  packTokens: number;
  /** Devices of each element. */
  devices: readonly string[];
}

/** Folder of scripts and logs in the sweep's folder. */
export const SLURM_FOLDER = 'slurm';
/** Slurm's own default of MaxArraySize is 1001. */
const MOST_ELEMENTS = 1000;
/** Set by the script itself; another value would break the sweep. */
const OWN = [
  ...['array', 'chdir', 'error', 'export-file', 'input', 'job-name', 'no-requeue', 'open-mode', 'output'],
  ...['parsable', 'requeue', 'test-only', 'wait', 'wrap'],
];
/** What needs no quoting in an #SBATCH line. */
const SAFE = /^[\w.:,=@%+/[\]()&|*!~-]+$/;

/** The job's name: the same sweep finds its jobs again by it, whatever became of the process that submitted them. */
export const jobName = (folder: string): string =>
  `quest-${createHash('sha256').update(resolve(folder)).digest('hex').slice(0, 12)}`;

/** Packs units of one model, in their order, until a pack holds `packTokens`; larger packs where there would be too many. */
export function packUnits(units: readonly Unit[], packTokens: number): Unit[][] {
  const packs: { units: Unit[]; tokens: number }[] = [];
  for (const unit of units) {
    const last = packs.at(-1);
    if (
      last !== undefined &&
      last.units[0]!.model === unit.model &&
      last.tokens + unit.tokens <= packTokens
    ) {
      last.units.push(unit);
      last.tokens += unit.tokens;
    } else packs.push({ units: [unit], tokens: unit.tokens });
  }
  if (packs.length <= MOST_ELEMENTS) return packs.map((pack) => pack.units);
  const per = Math.ceil(packs.length / MOST_ELEMENTS);
  return Array.from({ length: Math.ceil(packs.length / per) }, (_, i) =>
    packs.slice(i * per, (i + 1) * per).flatMap((pack) => pack.units),
  );
}

/** Checks sbatch options that came from the command line or the sweep's file. */
export function checkSbatch(options: SlurmOptions['sbatch']): void {
  for (const [name, value] of Object.entries(options)) {
    if (OWN.includes(name))
      throw new QuestError('E_SLURM', `the sbatch option ${name} is set by the sweep itself`, {
        hint: name === 'array' ? 'use --max-parallel and --pack-tokens' : 'leave it out',
      });
    if (!/^[a-z][a-z0-9-]*$/.test(name) || (typeof value !== 'boolean' && !SAFE.test(String(value))))
      throw new QuestError('E_SLURM', `the sbatch option ${name}=${value} cannot stand in a batch script`, {
        hint: 'write it as in --name=value of sbatch, without spaces and quotes, e.g. mem=64G',
      });
  }
}

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

/** The whole script. sbatch is called in the sweep's folder, so that logs are named without their path. */
export function batchScript(folder: string, packs: readonly Unit[][], options: SlurmOptions): string {
  const { sbatch, maxParallel, devices } = options;
  const throttle = maxParallel === undefined ? '' : `%${maxParallel}`;
  const directives = [
    `--job-name=${jobName(folder)}`,
    `--array=0-${packs.length - 1}${throttle}`,
    '--requeue',
    '--open-mode=append',
    `--output=${SLURM_FOLDER}/%A_%a.log`,
    ...Object.entries(sbatch).flatMap(([name, value]) => {
      if (value === false) return [];
      return [value === true ? `--${name}` : `--${name}=${value}`];
    }),
  ];
  const lists = packs.map((units) => `  ${units.map(({ id }) => id).join(',')}`);
  const quest = [process.execPath, join(packageRoot(), 'bin', 'quest.js')].map(quoted).join(' ');
  return `#!/bin/bash
${directives.map((line) => `#SBATCH ${line}`).join('\n')}

# Units of each element; what an element that starts again has finished already is not computed again.
units=(
${lists.join('\n')}
)
exec ${quest} sweep --units "\${units[$SLURM_ARRAY_TASK_ID]}" --devices ${quoted(devices.join(','))} --out ${quoted(resolve(folder))}
`;
}
