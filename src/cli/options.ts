/**
 * The one table of options. From it come the parser, --help and the schema of --config files.
 * A config key is the flag's name with underscores, and so is a method option's CSV column. Sizes in tokens carry their
 * unit there: `budget_tokens`, `context_tokens`.
 */
import { METHOD_NAMES, METHODS } from '../../eval/methods.js';
import { BENCH_OPTIONS } from './options_bench.js';
import { LONGBENCH_OPTIONS } from './options_longbench.js';
import { TEXT_OPTIONS } from './options_ppl.js';
import { PROMPT_OPTIONS } from './options_prompt.js';
import { PULL_OPTIONS } from './options_pull.js';
import { QUANTIZE_OPTIONS } from './options_quantize.js';
import { ISO_OPTIONS, REPORT_OPTIONS, REPRO_OPTIONS } from './options_report.js';
import { SWEEP_OPTIONS } from './options_sweep.js';

export type CommandName =
  | 'passkey'
  | 'longbench'
  | 'score'
  | 'ppl'
  | 'analyze'
  | 'sweep'
  | 'report'
  | 'repro'
  | 'iso'
  | 'bench'
  | 'generate'
  | 'demo'
  | 'logits'
  | 'tokenize'
  | 'data'
  | 'model'
  | 'doctor';
export type OptionType =
  | 'string'
  | 'int'
  | 'number'
  | 'size'
  | 'flag'
  | 'switch'
  | 'ints'
  | 'numbers'
  | 'names';
export type OptionValue = string | number | boolean | number[] | string[];

export interface OptionSpec {
  /** Long flag without dashes. */
  name: string;
  short?: string;
  type: OptionType;
  /** What stands after the flag in --help. */
  placeholder?: string;
  default?: OptionValue;
  choices?: readonly string[];
  /** What a text must look like where the choices cannot be listed. */
  pattern?: { source: RegExp; wanted: string };
  min?: number;
  max?: number;
  /** `min` itself is too small. */
  aboveMin?: boolean;
  powerOfTwo?: boolean;
  help: string;
  section: 'Command' | 'Method' | 'Global';
  commands: readonly CommandName[];
  /** Cannot stand in a config file. */
  cliOnly?: boolean;
  hidden?: boolean;
}

const RUNS: readonly CommandName[] = ['passkey', 'longbench', 'ppl', 'analyze', 'generate', 'demo', 'logits'];
const WITH_MODEL: readonly CommandName[] = [...RUNS, 'tokenize', 'doctor'];
const ALL: readonly CommandName[] = [
  ...WITH_MODEL,
  'sweep',
  'score',
  'report',
  'repro',
  'iso',
  'bench',
  'data',
  'model',
];
/** Commands that take a run's settings, whether they run it or have it run. */
const RUNNING: readonly CommandName[] = [...RUNS, 'repro'];
/** Evaluations, which leave a folder of results. */
const TABLES: readonly CommandName[] = ['passkey', 'longbench', 'ppl', 'analyze'];
const PASSKEY: readonly CommandName[] = ['passkey'];
const ONE_METHOD: readonly CommandName[] = ['generate', 'demo', 'logits'];

const command = (o: Omit<OptionSpec, 'section'>): OptionSpec => ({ section: 'Command', ...o });
const method = (
  o: Omit<OptionSpec, 'section' | 'commands'> & { commands?: readonly CommandName[] },
): OptionSpec => ({
  section: 'Method',
  commands: RUNNING,
  ...o,
});
const global = (
  o: Omit<OptionSpec, 'section' | 'commands'> & { commands?: readonly CommandName[] },
): OptionSpec => ({
  section: 'Global',
  commands: ALL,
  ...o,
});

const methodList = METHODS.map((m) => `${m.name}: ${m.help}`).join('; ');

export const OPTIONS: readonly OptionSpec[] = [
  // passkey
  command({
    name: 'context',
    type: 'int',
    min: 1,
    default: 10_000,
    placeholder: 'TOKENS',
    commands: PASSKEY,
    help: 'length of the prompt in tokens',
  }),
  command({
    name: 'samples',
    type: 'int',
    min: 1,
    default: 20,
    placeholder: 'N',
    commands: PASSKEY,
    help: 'prompts per cell; each has its own key and depth',
  }),
  command({
    name: 'depths',
    type: 'numbers',
    min: 0,
    max: 100,
    placeholder: 'LIST',
    commands: PASSKEY,
    help: "depths of the key in percent, used in turn (default: the protocol's floor(100/N)*(i+1))",
  }),
  ...LONGBENCH_OPTIONS,
  ...TEXT_OPTIONS,
  ...PROMPT_OPTIONS,
  // doctor
  command({
    name: 'write-selfcheck',
    type: 'flag',
    commands: ['doctor'],
    hidden: true,
    cliOnly: true,
    help: "write the model's expected self-check output",
  }),
  ...SWEEP_OPTIONS,
  ...REPORT_OPTIONS,
  ...REPRO_OPTIONS,
  ...ISO_OPTIONS,
  ...BENCH_OPTIONS,
  ...PULL_OPTIONS,
  ...QUANTIZE_OPTIONS,
  // methods
  method({
    name: 'method',
    short: 'm',
    type: 'names',
    choices: METHOD_NAMES,
    default: ['full', 'quest', 'streaming', 'h2o', 'tova'],
    placeholder: 'LIST',
    commands: PASSKEY,
    help: `KV methods, separated by commas. ${methodList}`,
  }),
  method({
    name: 'method',
    short: 'm',
    type: 'string',
    choices: METHOD_NAMES,
    default: 'quest',
    placeholder: 'NAME',
    commands: ONE_METHOD,
    help: `KV method. ${methodList}`,
  }),
  method({
    name: 'budget',
    short: 'b',
    type: 'ints',
    min: 1,
    default: [32, 64, 128, 256, 512],
    placeholder: 'LIST',
    commands: PASSKEY,
    help: 'KV budgets in tokens, separated by commas; each method runs at each of them',
  }),
  method({
    name: 'budget',
    short: 'b',
    type: 'int',
    min: 1,
    default: 1024,
    placeholder: 'TOKENS',
    commands: ['generate', 'logits'],
    help: 'KV budget in tokens',
  }),
  method({
    name: 'budget',
    short: 'b',
    type: 'int',
    min: 1,
    default: 256,
    placeholder: 'TOKENS',
    commands: ['demo'],
    help: 'KV budget in tokens',
  }),
  method({
    name: 'page-size',
    type: 'int',
    min: 1,
    max: 128,
    powerOfTwo: true,
    default: 16,
    placeholder: 'TOKENS',
    help: 'tokens per page of the KV cache, a power of two',
  }),
  method({
    name: 'skip-layers',
    type: 'int',
    min: 0,
    default: 2,
    placeholder: 'N',
    help: 'leave the first N layers dense',
  }),
  method({
    name: 'group',
    type: 'string',
    choices: ['max', 'mean', 'head'],
    default: 'max',
    placeholder: 'MODE',
    help: "how `quest` merges the scores of a KV head's query heads; `head` gives each its own pages (`quest-paper` always does)",
  }),
  method({
    name: 'sinks',
    type: 'int',
    min: 0,
    default: 4,
    placeholder: 'N',
    help: 'first tokens that `streaming` keeps',
  }),
  method({
    name: 'h2o-prefill',
    type: 'flag',
    help: '`h2o` starts from the attention of the prefill, not from zero',
  }),
  // global
  global({
    name: 'model',
    type: 'string',
    default: 'quest-tiny',
    placeholder: 'REF',
    commands: WITH_MODEL,
    help: 'a folder in Hugging Face layout, ORG/NAME on the hub (pulled on first use), or a built-in name',
  }),
  global({
    name: 'device',
    type: 'string',
    pattern: { source: /^(auto|cpu|cuda(:\d{1,3})?)$/, wanted: 'auto, cpu, cuda or cuda:N' },
    default: 'auto',
    placeholder: 'NAME',
    commands: [...RUNNING, 'bench', 'doctor', 'iso'],
    help: 'where to compute: auto (a GPU when one can be used), cpu, cuda or cuda:N',
  }),
  global({
    name: 'threads',
    type: 'int',
    min: 0,
    max: 1024,
    default: 0,
    placeholder: 'N',
    commands: [...RUNNING, 'bench', 'doctor', 'iso'],
    help: 'CPU threads; 0 uses all cores. Results do not depend on it',
  }),
  global({
    name: 'seed',
    type: 'int',
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    default: 0,
    placeholder: 'N',
    commands: ['passkey', 'analyze', 'generate', 'repro'],
    help: 'seed of everything random',
  }),
  global({
    name: 'out',
    short: 'o',
    type: 'string',
    placeholder: 'DIR',
    commands: TABLES,
    help: 'folder for results; the same folder resumes (default: runs/<command>-<hash of the plan>)',
  }),
  global({
    name: 'format',
    type: 'string',
    choices: ['table', 'csv', 'json', 'md'],
    default: 'table',
    placeholder: 'F',
    commands: [...RUNNING, 'bench', 'doctor', 'sweep', 'score', 'iso', 'data', 'model'],
    help: 'form of the result on standard output',
  }),
  global({
    name: 'max-memory',
    type: 'size',
    placeholder: 'SIZE',
    commands: RUNNING,
    help: 'refuse a run that needs more, e.g. 8G (default: what this machine has free)',
  }),
  global({
    name: 'config',
    type: 'string',
    placeholder: 'FILE.yaml',
    cliOnly: true,
    help: 'read options from a file; the command line wins',
  }),
  global({
    name: 'dry-run',
    type: 'flag',
    cliOnly: true,
    commands: [...RUNNING, 'bench', 'sweep'],
    help: 'say what would be done and what it would cost, and stop',
  }),
  global({ name: 'quiet', short: 'q', type: 'flag', help: 'no progress and no notes' }),
  global({ name: 'verbose', short: 'v', type: 'flag', help: 'more notes, and stack traces with errors' }),
];

/** `skip-layers` -> `skip_layers`. */
export const configKey = (name: string): string => name.replaceAll('-', '_');

/** The options of one command, in the table's order. */
export function optionsOf(name: CommandName): OptionSpec[] {
  return OPTIONS.filter((o) => o.commands.includes(name));
}
