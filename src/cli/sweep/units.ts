/**
 * From the sweep's file to its units. A unit is one ordinary run of quest: all methods and budgets of one task, model,
 * context and seed, because they share their prefills.
 */
import { createHash } from 'node:crypto';
import { resolveTasks } from '../../../datasets/longbench.js';
import { type Cell, makeCells } from '../../../eval/methods.js';
import { QuestError } from '../../errors.js';
import type { MethodName } from '../../runtime/addon.js';
import { checkConfig } from '../config.js';
import { type CommandName, configKey, optionsOf } from '../options.js';
import { methodSettings } from '../session.js';
import { createSettings, type Settings } from '../settings.js';
import { nearest } from '../suggest.js';
import { AXES, type OptionInput, type Options, type SweepFile } from './file.js';

/** How a task runs, and which of its options are the axes of the grid. */
interface SweepTask {
  command: CommandName;
  args: readonly string[];
  context: string;
  seeded: boolean;
  /** Tokens that the unit reads, roughly: for progress and for packing. */
  tokens(settings: Settings, cells: number): number;
}

/** Rows and tokens of a LongBench task, where nothing else is known. */
const LONGBENCH_ROWS = 200;
const LONGBENCH_TOKENS = 12_000;

export const SWEEP_TASKS: Readonly<Record<string, SweepTask>> = {
  passkey: {
    command: 'passkey',
    args: [],
    context: 'context',
    seeded: true,
    tokens: (s) => s.number('samples') * s.number('context'),
  },
  longbench: {
    command: 'longbench',
    args: [],
    context: 'max-length',
    seeded: false,
    tokens: (s) =>
      (s.maybeNumber('limit') ?? LONGBENCH_ROWS) * (s.maybeNumber('max-length') ?? LONGBENCH_TOKENS),
  },
  ppl: {
    command: 'ppl',
    args: [],
    context: 'tokens',
    seeded: false,
    tokens: (s, cells) => s.number('tokens') * cells,
  },
  recall: {
    command: 'analyze',
    args: ['recall'],
    context: 'context',
    seeded: true,
    tokens: (s, cells) => s.number('samples') * s.number('context') * cells,
  },
};

export interface Unit {
  /** Names its folder: task, model, context, seed, and a hash of every option but methods and budgets. */
  id: string;
  /** `passkey`, `longbench/qasper`, `ppl`, `recall`. */
  task: string;
  model: string;
  contextTokens: number | undefined;
  seed: number | undefined;
  /** The command line after `quest`, without device, threads and folder. */
  argv: string[];
  /** What it computes, for the table of a unit that failed. */
  cells: { method: string; budgetTokens: number | undefined }[];
  tokens: number;
  /** Of the whole unit: another one needs to be run again. */
  hash: string;
}

const sha256 = (value: unknown): string => createHash('sha256').update(JSON.stringify(value)).digest('hex');
const slug = (text: string): string =>
  text
    .toLowerCase()
    .replace(/[^a-z0-9.]+/g, '-')
    .replace(/^[-.]+|[-.]+$/g, '')
    .slice(0, 40);

/** An option's values, each once; `undefined` alone where it was not given. */
function axisValues(options: Options, name: string): (string | number | undefined)[] {
  const given = options[name];
  if (given === undefined) return [undefined];
  if (typeof given === 'boolean')
    throw new QuestError('E_SWEEP', `${name} is ${given}`, { hint: `give a value or a list of ${name}` });
  const list = Array.isArray(given)
    ? given
    : typeof given === 'string'
      ? given.split(',').map((part) => part.trim())
      : [given];
  return [...new Set(list)];
}

function taskOf(name: string): SweepTask {
  const found = Object.hasOwn(SWEEP_TASKS, name) ? SWEEP_TASKS[name] : undefined;
  if (found !== undefined) return found;
  const names = Object.keys(SWEEP_TASKS);
  if (name === 'sparsity')
    throw new QuestError('E_SWEEP', 'sparsity is no task of quest sweep: it searches for budgets itself', {
      hint: 'run quest analyze sparsity; a grid of methods and budgets has nothing to set in it',
    });
  const near = nearest(name, names);
  throw new QuestError('E_SWEEP', `there is no task "${name}" that quest sweep knows`, {
    hint: near === undefined ? `choose from ${names.join(', ')}` : `did you mean ${near}?`,
  });
}

/** What the command takes of the shared options, with all that the task has of its own. */
function ownOptions(task: SweepTask, shared: Options, own: Options): Record<string, OptionInput> {
  const known = new Set(optionsOf(task.command).map((spec) => configKey(spec.name)));
  const fitting = Object.entries(shared).filter(([key]) => known.has(key));
  return Object.fromEntries([...fitting, ...Object.entries(own)].filter(([key]) => !isAxis(key)));
}

const isAxis = (key: string): boolean => (AXES as readonly string[]).includes(key);

/** Options as flags, in a fixed order. */
function flags(options: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(options)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([key, value]) => {
      const flag = `--${key.replaceAll('_', '-')}`;
      if (typeof value === 'boolean') return value ? [flag] : [];
      return [flag, String(value)];
    });
}

/** One run of every combination of task, model, context and seed. Every option is checked as its command checks it. */
export function makeUnits(file: SweepFile, source: string): Unit[] {
  checkShared(file, source);
  return file.tasks.flatMap(({ name, options: own }) => {
    const task = taskOf(name);
    const grid = { ...file.shared, ...own };
    const options = ownOptions(task, file.shared, own);
    const settingsOf = (values: Record<string, unknown>) =>
      createSettings(task.command, {}, { file: source, values: checkConfig(values, task.command, source) });
    // LongBench's tasks share nothing, so each is a unit.
    const parts =
      task.command === 'longbench'
        ? resolveTasks(settingsOf(options).names('task'), settingsOf(options).flag('e'))
        : [undefined];
    const combined = parts.flatMap((part) =>
      axisValues(grid, 'model').flatMap((model) =>
        axisValues(grid, 'context').flatMap((context) =>
          (task.seeded ? axisValues(grid, 'seed') : [undefined]).map((seed) => ({
            part,
            model,
            context,
            seed,
          })),
        ),
      ),
    );
    return combined.map(({ part, model, context, seed }): Unit => {
      const identity: Record<string, unknown> = {
        ...options,
        ...(part !== undefined && { task: part }),
        ...(model !== undefined && { model: String(model) }),
        ...(context !== undefined && { [configKey(task.context)]: context }),
        ...(seed !== undefined && { seed }),
      };
      const columns = {
        ...(grid.method !== undefined && { method: axisValues(grid, 'method') }),
        ...(grid.budget !== undefined && { budget: axisValues(grid, 'budget') }),
      };
      const settings = settingsOf({ ...identity, ...columns });
      const cells = cellsOf(settings);
      const contextTokens = settings.maybeNumber(task.context);
      const modelName = settings.string('model');
      const label = part === undefined ? name : `${name}/${part}`;
      const names = [
        label,
        modelName.split('/').at(-1)!,
        contextTokens,
        seed === undefined ? '' : `s${seed}`,
      ];
      const spelled = names.filter((one) => one !== undefined && one !== '').map((one) => slug(String(one)));
      return {
        id: [...spelled, sha256([label, identity]).slice(0, 6)].join('-'),
        task: label,
        model: modelName,
        contextTokens,
        seed: task.seeded ? settings.number('seed') : undefined,
        argv: [task.command, ...task.args, ...flags({ ...identity, ...columns })],
        cells: cells.map(({ method }) => ({
          method: method.method,
          budgetTokens: method.budgetTokens === 0 ? undefined : method.budgetTokens,
        })),
        tokens: task.tokens(settings, cells.length),
        hash: sha256([label, identity, columns]).slice(0, 16),
      };
    });
  });
}

/** Methods of recall, whose option has no default of its own. */
const METHODS_OF_TABLES = ['full', 'quest', 'streaming', 'h2o', 'tova'];

/** Methods x budgets, checked; options that a model's preset changes are checked when it runs. */
function cellsOf(settings: Settings): Cell[] {
  const names = (settings.resolved().method?.value ?? METHODS_OF_TABLES) as MethodName[];
  return makeCells(names, settings.numbers('budget'), methodSettings(settings));
}

/** A shared option that no task has is a mistake. */
function checkShared(file: SweepFile, source: string): void {
  const commands = file.tasks.map(({ name }) => taskOf(name).command);
  const known = new Set(commands.flatMap((one) => optionsOf(one).map((spec) => configKey(spec.name))));
  for (const key of Object.keys(file.shared)) {
    if (isAxis(key) || known.has(key)) continue;
    const near = nearest(key, [...known, ...AXES]);
    throw new QuestError('E_SWEEP', `${source} has an unknown key "${key}"`, {
      hint:
        near === undefined
          ? `its axes are ${AXES.join(', ')}; other keys are options of its tasks`
          : `did you mean ${near}?`,
    });
  }
}
