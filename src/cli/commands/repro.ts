/** quest repro: the paper's tables and figures. Each is an ordinary command with a preset, run as if it had been typed. */
import { createHash } from 'node:crypto';
import { basename, isAbsolute, join, relative } from 'node:path';
import { randomSpec } from '../../../eval/efficiency/shapes.js';
import { QuestError } from '../../errors.js';
import { packageRoot } from '../../model/package_root.js';
import type { ReportPage } from '../../report/html.js';
import type { ReportRun } from '../../report/html-run.js';
import type { Format } from '../../report/table.js';
import { chooseDevice } from '../../runtime/index.js';
import { COMMANDS, type CommandContext } from '../commands.js';
import { readConfig } from '../config.js';
import { type CommandName, configKey, type OptionValue, optionsOf } from '../options.js';
import { createSettings, type Settings } from '../settings.js';
import { nearest } from '../suggest.js';
import { readRuns, writeReportPage } from './report.js';

/** One preset of `configs/` with the command that it is for. */
interface Preset {
  name: string;
  command: CommandName;
  args: readonly string[];
  /** Overrides that this experiment takes beside those of every run; `limit` stands for `samples` where that is the option. */
  takes: readonly string[];
}

const TEXT = ['dataset', 'books', 'data', 'tokens'];
const CELLS = ['method', 'budget'];
const PASSKEY = { command: 'passkey', args: [], takes: ['context', 'limit', ...CELLS] } as const;

const LONGBENCH = {
  command: 'longbench',
  args: [],
  takes: ['task', 'data', 'sample', 'limit', 'max-length', ...CELLS],
} as const;

const KERNELS = { command: 'bench', args: ['kernels'] } as const;

const EXPERIMENTS: Readonly<Record<string, { title: string; presets: readonly Preset[] }>> = {
  table1: {
    title: 'Table 1',
    presets: [
      { name: 'table1-10k', ...PASSKEY },
      { name: 'table1-100k', ...PASSKEY },
    ],
  },
  fig3: {
    title: 'Figure 3',
    presets: [{ name: 'fig3', command: 'analyze', args: ['sparsity'], takes: [...TEXT, 'scored'] }],
  },
  fig4: {
    title: 'Figure 4',
    presets: [{ name: 'fig4', command: 'analyze', args: ['recall'], takes: ['context', 'limit', ...CELLS] }],
  },
  fig6: {
    title: 'Figure 6',
    presets: [{ name: 'fig6', command: 'ppl', args: [], takes: [...TEXT, ...CELLS] }],
  },
  fig7: { title: 'Figure 7', presets: [{ name: 'fig7', ...LONGBENCH }] },
  fig8: { title: 'Figure 8', presets: [{ name: 'fig8', ...KERNELS, takes: ['budget'] }] },
  fig9: { title: 'Figure 9', presets: [{ name: 'fig9', ...KERNELS, takes: ['context', 'budget'] }] },
  fig10: {
    title: 'Figure 10',
    presets: [{ name: 'fig10', command: 'bench', args: ['e2e'], takes: ['context', 'budget'] }],
  },
  fig11: { title: 'Figure 11', presets: [{ name: 'fig11', ...LONGBENCH }] },
};

/** Overrides of every run. */
const SHARED = [
  ...['model', 'device', 'threads', 'seed', 'max-memory', 'format', 'quiet', 'verbose'],
  ...['page-size', 'skip-layers', 'group', 'sinks', 'h2o-prefill'],
];
/** Of those, what does not change a result. */
const INCIDENTAL = ['device', 'threads', 'max-memory', 'format', 'quiet', 'verbose'];

function chosen(name: string): { title: string; presets: readonly Preset[] } {
  if (name === 'all')
    return { title: 'all', presets: Object.values(EXPERIMENTS).flatMap(({ presets }) => presets) };
  const found = EXPERIMENTS[name];
  if (found !== undefined) return found;
  const names = [...Object.keys(EXPERIMENTS), 'all'];
  const near = nearest(name, names);
  throw new QuestError('E_USAGE', `the paper has no "${name}" that quest repro knows`, {
    hint: near === undefined ? `choose from ${names.join(', ')}` : `did you mean ${near}?`,
  });
}

/** What was given on the command line or in a config file, by option name. */
function givenOverrides(settings: Settings): Map<string, OptionValue> {
  const given = new Map<string, OptionValue>();
  const resolved = settings.resolved();
  for (const { name, cliOnly } of optionsOf('repro')) {
    const entry = resolved[configKey(name)];
    const typed = entry?.source === 'command line' || entry?.source === 'config file';
    if (entry !== undefined && typed && !cliOnly && name !== 'out') given.set(name, entry.value);
  }
  return given;
}

/** Whether an override means something to a preset. Benchmarks take only what is an option of theirs. */
function takesOption(preset: Preset, option: string): boolean {
  if (preset.takes.includes(option)) return true;
  const own = preset.command !== 'bench' || optionsOf('bench').some(({ name }) => name === option);
  return own && SHARED.includes(option);
}

/** The overrides of one preset, by the names of its command's options. */
function overridesFor(preset: Preset, given: ReadonlyMap<string, OptionValue>): Map<string, OptionValue> {
  const known = new Set(optionsOf(preset.command).map(({ name }) => name));
  const own = new Map<string, OptionValue>();
  for (const [name, value] of given) {
    if (!takesOption(preset, name)) continue;
    const target = name === 'limit' && !known.has('limit') ? 'samples' : name;
    if (known.has(target)) own.set(target, value);
  }
  return own;
}

function checkOverrides(name: string, presets: readonly Preset[], given: ReadonlyMap<string, OptionValue>) {
  const useless = [...given.keys()].find((option) => presets.every((preset) => !takesOption(preset, option)));
  if (useless === undefined) return;
  const users = Object.entries(EXPERIMENTS).filter(([, e]) => e.presets.some((p) => takesOption(p, useless)));
  throw new QuestError('E_USAGE', `--${useless} has no meaning for quest repro ${name}`, {
    hint: `leave it out; it belongs to ${users.map(([one]) => one).join(', ')}`,
  });
}

/** The preset as a command line. */
function commandLine(preset: Preset, file: string, overrides: ReadonlyMap<string, OptionValue>, out: string) {
  const flags = [...overrides].flatMap(([name, value]) =>
    value === true ? [`--${name}`] : value === false ? [] : [`--${name}`, String(value)],
  );
  return [preset.command, ...preset.args, '--config', file, ...flags, '--out', out];
}

/** Runs one preset exactly as its command would with that command line. */
async function runPreset(
  context: CommandContext,
  preset: Preset,
  given: ReadonlyMap<string, OptionValue>,
  out: string,
): Promise<number> {
  const path = join(packageRoot(), 'configs', `${preset.name}.yaml`);
  const near = relative(process.cwd(), path);
  const file = near.startsWith('..') || isAbsolute(near) ? path : near;
  const overrides = overridesFor(preset, given);
  const argv = commandLine(preset, file, overrides, out);
  context.out.note(`== ${preset.name}: quest ${argv.join(' ')}`);
  const raw: Record<string, unknown> = { out };
  for (const [name, value] of overrides)
    raw[configKey(name)] = Array.isArray(value) ? value.join(',') : value;
  if (context.settings.flag('dry-run')) raw.dry_run = true;
  const settings = createSettings(preset.command, raw, { file, values: readConfig(file, preset.command) });
  const { run } = await COMMANDS.find(({ name }) => name === preset.command)!.load();
  return run({ settings, args: [...preset.args], argv, out: context.out, signal: context.signal });
}

/** Figure 11 is made from the finished runs of its preset: the table on the terminal, and a section of the report. */
async function isoSection(context: CommandContext, runs: readonly ReportRun[]): Promise<ReportPage['extra']> {
  const own = runs.filter(({ folder }) => basename(folder) === 'fig11');
  if (own.length === 0) return [];
  const [{ isoTables }, { measureAttention }] = await Promise.all([
    import('./iso.js'),
    import('./iso_measure.js'),
  ]);
  const iso = createSettings('iso', {}, undefined);
  const { wide, long, notes } = await isoTables(own, iso.number('tolerance'), (rows) =>
    measureAttention(context, rows, iso.string('heads')),
  );
  const format = context.settings.string('format') as Format;
  await context.out.table(format === 'table' || format === 'md' ? wide : long, format);
  for (const note of notes) context.out.note(note);
  const table = {
    columns: wide.columns.map(({ key, title }) => title ?? key),
    rows: wide.rows.map((row) => row.map((cell) => String(cell ?? ''))),
    right: wide.columns.map(({ align }) => align === 'right'),
  };
  return [{ title: 'Budgets for lossless scores (Figure 11)', table, notes }];
}

/** Where results go: a folder per set of overrides, so that each resumes its own. */
function outputRoot(settings: Settings, given: ReadonlyMap<string, OptionValue>): string {
  const out = settings.maybeString('out');
  if (out !== undefined) return out;
  const entries = [...given]
    .filter(([name]) => !INCIDENTAL.includes(name))
    .sort(([a], [b]) => (a < b ? -1 : 1));
  if (entries.length === 0) return join('runs', 'repro');
  const hash = createHash('sha256').update(JSON.stringify(entries)).digest('hex').slice(0, 8);
  return join('runs', `repro-${hash}`);
}

/** Benchmarks of the paper time a GPU: within `all` they would take hours of a CPU, and show something else. */
function withoutBenchmarks(
  presets: readonly Preset[],
  device: string,
  note: (text: string) => void,
): readonly Preset[] {
  const { device: used } = chooseDevice(randomSpec('llama2-7b', 'fp16', 1024), device);
  if (used !== 'cpu') return presets;
  for (const { name, command } of presets)
    if (command === 'bench')
      note(`${name} is left out: it times a GPU; quest repro ${name} --device cpu times this machine`);
  return presets.filter(({ command }) => command !== 'bench');
}

/** A context of another model's, which the model named by --model cannot hold: no failure of the rest. */
const isTooLong = (error: QuestError, given: ReadonlyMap<string, OptionValue>): boolean =>
  error.code === 'E_CONTEXT' && given.has('model') && !given.has('context');

/** Runs `quest repro NAME`. */
export async function run(context: CommandContext): Promise<number> {
  const { settings, args, out, signal } = context;
  const name = args[0]!;
  const { title, presets: all } = chosen(name);
  const wanted = name === 'all' ? withoutBenchmarks(all, settings.string('device'), out.note) : all;
  const given = givenOverrides(settings);
  checkOverrides(name, wanted, given);
  // With a context of its own, Table 1 has one part: the other differs in nothing but model, context and budgets.
  const presets = given.has('context') ? wanted.filter((p) => p.name !== 'table1-100k') : wanted;
  if (presets.length < wanted.length) out.note('table1-100k is left out: --context makes one part of both');
  const root = outputRoot(settings, given);
  const finished: string[] = [];
  const failed: { name: string; error: QuestError }[] = [];
  let exitCode = 0;
  for (const preset of presets) {
    const folder = join(root, preset.name);
    try {
      exitCode ||= await runPreset(context, preset, given, folder);
      finished.push(folder);
    } catch (error) {
      // One experiment that cannot run keeps nobody from the others; anything unexpected does.
      signal.throwIfAborted();
      if (!(error instanceof QuestError) || presets.length === 1 || error.exitCode === 130) throw error;
      const hint = error.hint === undefined ? '' : ` (${error.hint})`;
      out.note(`${preset.name} is left out: ${error.message}${hint}`);
      if (!isTooLong(error, given)) failed.push({ name: preset.name, error });
    }
  }
  if (finished.length > 0 && !settings.flag('dry-run')) {
    const runs = readRuns(finished, out.note);
    const page = join(root, `${name}.html`);
    const heading = name === 'all' ? "Quest: the paper's evaluations" : `Quest: ${title} of the paper`;
    const written = await writeReportPage(runs, page, heading, await isoSection(context, runs));
    out.note(`report: ${written.html} and ${written.markdown}`);
  }
  if (failed.length === 0) return exitCode;
  const { error } = failed[0]!;
  throw new QuestError(
    error.code,
    `${failed.map((one) => one.name).join(', ')} could not run: ${error.message}`,
    { hint: error.hint, exitCode: error.exitCode, cause: error },
  );
}
