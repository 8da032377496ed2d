/** quest sweep: a grid of runs on the devices of this machine or on a Slurm cluster, merged into one table. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { QuestError } from '../../errors.js';
import { writeFileAtomic } from '../../report/files.js';
import { type SweepCell, sweepLongTable, sweepPanels, sweepWideTable } from '../../report/sweep.js';
import { type Format, renderCsv, renderMarkdown } from '../../report/table.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import { environment, MANIFEST_NAME } from '../manifest.js';
import { startProgress } from '../progress.js';
import { holdRunFolder } from '../run_folder.js';
import type { Settings } from '../settings.js';
import { readSweepFile } from '../sweep/file.js';
import { parseDevices, runLocal } from '../sweep/local.js';
import { mergeUnits } from '../sweep/merge.js';
import { refuseQueued, runSlurm } from '../sweep/slurm.js';
import {
  batchScript,
  checkSbatch,
  packUnits,
  SLURM_FOLDER,
  type SlurmOptions,
} from '../sweep/slurm_script.js';
import { checkSweepFolder, failureOf, isDone, PLAN_NAME, readUnits, writeUnits } from '../sweep/store.js';
import { makeUnits, type Unit } from '../sweep/units.js';

function outputFolder(settings: Settings, units: readonly Unit[]): string {
  const hash = createHash('sha256').update(JSON.stringify(units.map(({ id }) => id)));
  return settings.maybeString('out') ?? join('runs', `sweep-${hash.digest('hex').slice(0, 8)}`);
}

/** `mem=64G` -> mem: 64G; an option without a value is a flag. */
function sbatchOptions(settings: Settings, fromFile: SlurmOptions['sbatch']): SlurmOptions['sbatch'] {
  const options: Record<string, string | number | boolean> = { ...fromFile };
  for (const text of settings.source('sbatch') === 'default' ? [] : settings.names('sbatch')) {
    const [name = '', ...value] = text.split('=');
    options[name] = value.length === 0 ? true : value.join('=');
  }
  for (const name of ['partition', 'account', 'time', 'gres']) {
    const value = settings.maybeString(name);
    if (value !== undefined) options[name] = value;
  }
  checkSbatch(options);
  return options;
}

const SLURM_ONLY = ['max-parallel', 'pack-tokens', 'partition', 'account', 'time', 'gres', 'sbatch'];

function slurmOptions(settings: Settings, fromFile: SlurmOptions['sbatch']): SlurmOptions | undefined {
  if (settings.string('executor') === 'slurm')
    return {
      sbatch: sbatchOptions(settings, fromFile),
      maxParallel: settings.maybeNumber('max-parallel'),
      packTokens: settings.number('pack-tokens'),
      devices: settings.names('devices'),
    };
  const useless = [...SLURM_ONLY, 'poll-seconds'].find((name) => settings.source(name) === 'command line');
  if (useless === undefined) return undefined;
  throw new QuestError('E_USAGE', `--${useless} is for --executor slurm`, {
    hint: 'leave it out, or add --executor slurm',
  });
}

/** `--dry-run`: every unit with its command, and the script that would be submitted. */
function describeSweep(folder: string, units: readonly Unit[], slurm: SlurmOptions | undefined): string {
  const cells = units.reduce((sum, unit) => sum + unit.cells.length, 0);
  const open = units.filter((unit) => !isDone(folder, unit));
  const tokens = open.reduce((sum, unit) => sum + unit.tokens, 0);
  const lines = [
    `sweep    ${plural(units.length, 'unit')}, ${plural(cells, 'cell')} -> ${folder}`,
    `open     ${plural(open.length, 'unit')}, about ${tokens.toLocaleString('en-US')} prompt tokens`,
    ...units.map(
      (unit) =>
        `${isDone(folder, unit) ? 'done' : 'unit'}     ${unit.id}\n         quest ${unit.argv.join(' ')}`,
    ),
  ];
  if (slurm !== undefined && open.length > 0) {
    const packs = packUnits(open, slurm.packTokens);
    lines.push(`slurm    ${plural(packs.length, 'array element')}, submitted with sbatch:`, '');
    lines.push(batchScript(folder, packs, slurm));
  }
  return `${lines.join('\n').trimEnd()}\n`;
}

/** Tables, picture and manifest at the top of the folder. */
async function writeResults(
  context: CommandContext,
  folder: string,
  units: readonly Unit[],
  cells: readonly SweepCell[],
  started: Date,
): Promise<void> {
  writeFileAtomic(join(folder, 'table.csv'), renderCsv(sweepLongTable(cells)));
  writeFileAtomic(join(folder, 'table.md'), renderMarkdown(sweepWideTable(cells)));
  const [{ sweepChart }, { renderSvg }] = await Promise.all([
    import('../../report/sweep-chart.js'),
    import('../../report/svg.js'),
  ]);
  const chart = sweepChart(sweepPanels(cells));
  if (chart !== undefined) writeFileAtomic(join(folder, 'figure.svg'), await renderSvg(chart));
  const failed = units.filter((unit) => !isDone(folder, unit));
  const manifest = {
    command: ['quest', ...context.argv].join(' '),
    options: context.settings.resolved(),
    started: started.toISOString(),
    ended: new Date().toISOString(),
    units: units.length,
    cells: cells.length,
    failed: failed.map((unit) => ({ unit: unit.id, ...failureOf(folder, unit) })),
    environment: environment(undefined),
  };
  writeFileAtomic(join(folder, MANIFEST_NAME), `${JSON.stringify(manifest, null, 2)}\n`);
}

/** What an array element calls: some units of a sweep that someone else has planned and will merge. */
async function runUnits(context: CommandContext): Promise<number> {
  const { settings, out, signal } = context;
  const folder = settings.string('out');
  const all = readUnits(folder);
  if (all === undefined)
    throw new QuestError('E_SWEEP', `${folder} holds no sweep (${PLAN_NAME} is missing)`, {
      hint: '--units goes with --out of a sweep that was started before',
    });
  const units = settings.names('units').map((id) => {
    const found = all.find((unit) => unit.id === id);
    if (found !== undefined) return found;
    throw new QuestError('E_SWEEP', `the sweep in ${folder} has no unit "${id}"`, {
      hint: `see ${join(folder, PLAN_NAME)} for its units`,
    });
  });
  const devices = parseDevices(settings.names('devices'));
  const started = performance.now();
  await runLocal(units, { folder, devices, signal, note: out.note, exclusive: true, onProgress: () => {} });
  const failed = units.filter((unit) => !isDone(folder, unit)).length;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  out.note(`${plural(units.length, 'unit')} in ${seconds} s, ${failed} failed`);
  return failed > 0 ? 1 : 0;
}

/** Runs `quest sweep`. */
export async function run(context: CommandContext): Promise<number> {
  const started = new Date();
  const { settings, args, out, signal } = context;
  const [source] = args;
  if (settings.source('units') !== 'default') return runUnits(context);
  if (source === undefined)
    throw new QuestError('E_USAGE', 'quest sweep wants the file of the sweep', {
      hint: 'e.g. quest sweep configs/sweep.yaml',
    });
  const file = readSweepFile(source);
  const units = makeUnits(file, source);
  const devices = parseDevices(settings.names('devices'));
  const slurm = slurmOptions(settings, file.slurm);
  const folder = outputFolder(settings, units);
  checkSweepFolder(folder, units);
  if (settings.flag('dry-run')) {
    out.data(describeSweep(folder, units, slurm));
    return 0;
  }
  const giveBack = holdRunFolder(folder);
  let failure: unknown;
  try {
    checkSweepFolder(folder, units);
    if (slurm === undefined && existsSync(join(folder, SLURM_FOLDER))) await refuseQueued(folder);
    writeUnits(folder, units);
    const done = units.filter((unit) => isDone(folder, unit)).length;
    const there = done > 0 ? `, ${done} of which are there` : '';
    out.note(`sweep: ${plural(units.length, 'unit')}${there} -> ${folder}`);
    const progress = await startProgress(out, 'sweep');
    const shared = {
      ...{ folder, signal },
      note: (text: string) => progress.note(text),
      onProgress: (fraction: number, label: string) => progress.update(fraction, label),
    };
    try {
      if (slurm === undefined) await runLocal(units, { ...shared, devices, exclusive: false });
      else await runSlurm(units, { ...shared, ...slurm, pollSeconds: settings.number('poll-seconds') });
    } catch (error) {
      if (!signal.aborted || (error instanceof QuestError && error.hint !== undefined)) throw error;
      throw new QuestError('E_INTERRUPTED', `interrupted; what is finished is kept in ${folder}`, {
        hint: 'the same command goes on from there',
        exitCode: 130,
        cause: error,
      });
    } finally {
      progress.stop();
    }
    const cells = mergeUnits(folder, units);
    await writeResults(context, folder, units, cells, started);
    const format = settings.string('format') as Format;
    const forReaders = format === 'table' || format === 'md';
    await out.table(forReaders ? sweepWideTable(cells) : sweepLongTable(cells), format);
    const failed = units.filter((unit) => !isDone(folder, unit)).length;
    out.note(
      `${units.length - failed} of ${plural(units.length, 'unit')}; table, figure and manifest are in ${folder}` +
        (failed > 0 ? `; ${failed} failed: what they said is in unit.log of their folders` : ''),
    );
    return failed > 0 ? 1 : 0;
  } catch (error) {
    failure = error;
    throw error;
  } finally {
    giveBack(failure);
  }
}
