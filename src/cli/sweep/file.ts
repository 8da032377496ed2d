/** The sweep's YAML file: tasks, axes of the grid, and options that its runs share. */
import { z } from 'zod';
import { QuestError } from '../../errors.js';
import { readTextFile } from '../../reading.js';
import { parseYaml } from '../config.js';
import { nearest } from '../suggest.js';

/** The axes of the grid beside the task. Names are those of flags and config keys. */
export const AXES = ['model', 'context', 'seed', 'method', 'budget'] as const;
export type Axis = (typeof AXES)[number];

/** Options that the sweep sets itself for each of its runs, and where to say it instead. */
const OWN: Readonly<Record<string, string>> = {
  device: 'name the devices with quest sweep --devices',
  out: 'name the folder with quest sweep --out',
  format: 'say it with quest sweep --format',
  predict_only: 'a sweep is made of scores',
  quiet: 'say it on the command line of quest sweep',
  verbose: 'say it on the command line of quest sweep',
};

const scalar = z.union([z.string(), z.number()]);
const value = z.union([scalar, z.boolean(), z.array(scalar).min(1)]);
const options = z.record(z.string(), value);
const fileSchema = z
  .object({
    task: z.union([
      z.string(),
      z.array(z.string()).min(1),
      z.record(z.string(), z.union([options, z.null()])),
    ]),
    slurm: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).optional(),
  })
  .catchall(value);

export type OptionInput = z.infer<typeof value>;
export type Options = Readonly<Record<string, OptionInput>>;

export interface SweepFile {
  /** Tasks in order, each with the options that it alone has. */
  tasks: readonly { name: string; options: Options }[];
  /** Axes and options of all tasks. */
  shared: Options;
  /** sbatch options by name. */
  slurm: Readonly<Record<string, string | number | boolean>>;
}

const TASK_WANTED = "a task's name, a list of names, or names with options of their own are wanted";
const EXAMPLE = 'see configs/sweep.yaml for an example';

function refuseOwn(keys: Iterable<string>, file: string): void {
  for (const key of keys) {
    const hint = OWN[key];
    if (hint !== undefined)
      throw new QuestError('E_SWEEP', `${file} sets "${key}", which the sweep sets itself`, { hint });
  }
}

/** Reads and checks the file; what its options may be is checked with the runs that have them. */
export function readSweepFile(file: string): SweepFile {
  const rules = { code: 'E_SWEEP', hint: 'give the path of a YAML file', what: 'the sweep ' };
  const text = readTextFile(file, rules);
  const content = parseYaml(text, file, EXAMPLE);
  const { data, error } = fileSchema.safeParse(content);
  if (data === undefined) {
    const issue = error.issues[0]!;
    const keys = content !== null && typeof content === 'object' ? Object.keys(content) : [];
    const near = keys.includes('task') ? undefined : nearest('task', keys);
    const place = issue.path.join('.') || 'the file';
    const problem = place === 'task' ? TASK_WANTED : issue.message;
    throw new QuestError('E_SWEEP', `${file}: ${place}: ${problem}`, {
      hint: near === undefined ? EXAMPLE : `did you mean task instead of ${near}?`,
    });
  }
  const { task, slurm = {}, ...shared } = data;
  const list = typeof task === 'string' ? [task] : task;
  const tasks = Array.isArray(list)
    ? list.map((name) => ({ name, options: {} }))
    : Object.entries(list).map(([name, own]) => ({ name, options: own ?? {} }));
  const twice = tasks.find(({ name }, i) => tasks.findIndex((other) => other.name === name) !== i);
  if (twice !== undefined)
    throw new QuestError('E_SWEEP', `${file} names the task ${twice.name} twice`, {
      hint: 'name it once; its options can be lists',
    });
  if (tasks.length === 0) throw new QuestError('E_SWEEP', `${file} names no task`, { hint: EXAMPLE });
  refuseOwn([Object.keys(shared), ...tasks.map((one) => Object.keys(one.options))].flat(), file);
  return { tasks, shared: shared as Options, slurm };
}
