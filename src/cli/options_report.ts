/** Options of `quest report`, `quest repro` and `quest iso`; part of the one table in options.ts. */
import { METHOD_NAMES, METHODS } from '../../eval/methods.js';
import type { CommandName, OptionSpec } from './options.js';
import { LONGBENCH_OPTIONS } from './options_longbench.js';
import { TEXT_OPTIONS } from './options_ppl.js';

const REPORT: readonly CommandName[] = ['report'];
const REPRO: readonly CommandName[] = ['repro'];
const ISO: readonly CommandName[] = ['iso'];

const command = (o: Omit<OptionSpec, 'section'>): OptionSpec => ({ section: 'Command', ...o });

/** The option of another command, without its default: what is not given is as in the preset. */
function override(specs: readonly OptionSpec[], name: string, forWhich: string): OptionSpec {
  const spec = specs.find((one) => one.name === name)!;
  return { ...spec, default: undefined, commands: REPRO, help: `${forWhich}: ${spec.help}` };
}

export const REPORT_OPTIONS: readonly OptionSpec[] = [
  command({
    name: 'out',
    short: 'o',
    type: 'string',
    default: 'report.html',
    placeholder: 'FILE.html',
    commands: REPORT,
    help: 'the page; the same as Markdown and the Pareto figure are written beside it',
  }),
];

export const REPRO_OPTIONS: readonly OptionSpec[] = [
  command({
    name: 'out',
    short: 'o',
    type: 'string',
    placeholder: 'DIR',
    commands: REPRO,
    help: 'folder for the runs and the report; the same folder resumes (default: runs/repro, with a hash of what was overridden)',
  }),
  command({
    name: 'model',
    type: 'string',
    placeholder: 'REF',
    commands: REPRO,
    help: "another model than the paper's: a folder, ORG/NAME on the hub (pulled on first use), or a built-in name",
  }),
  command({
    name: 'limit',
    type: 'int',
    min: 1,
    placeholder: 'N',
    commands: REPRO,
    help: 'samples: prompts of table1 and fig4, rows of each task of fig7 and fig11',
  }),
  command({
    name: 'context',
    type: 'int',
    min: 1,
    placeholder: 'TOKENS',
    commands: REPRO,
    help: 'table1, fig4: length of the prompts in tokens; fig9, fig10: tokens in the cache',
  }),
  command({
    name: 'tokens',
    type: 'int',
    min: 2,
    placeholder: 'N',
    commands: REPRO,
    help: 'fig3, fig6: length of the text in tokens',
  }),
  command({
    name: 'scored',
    type: 'int',
    min: 1,
    placeholder: 'N',
    commands: REPRO,
    help: 'fig3: last tokens, whose perplexity is compared',
  }),
  override(TEXT_OPTIONS, 'dataset', 'fig3, fig6'),
  override(TEXT_OPTIONS, 'books', 'fig3, fig6'),
  override(TEXT_OPTIONS, 'data', 'fig3, fig6, fig7, fig11'),
  override(LONGBENCH_OPTIONS, 'task', 'fig7, fig11'),
  override(LONGBENCH_OPTIONS, 'sample', 'fig7, fig11'),
  override(LONGBENCH_OPTIONS, 'max-length', 'fig7, fig11'),
  {
    section: 'Method',
    name: 'method',
    short: 'm',
    type: 'names',
    choices: METHOD_NAMES,
    placeholder: 'LIST',
    commands: REPRO,
    help: `all but fig3: KV methods, separated by commas. ${METHODS.map((m) => `${m.name}: ${m.help}`).join('; ')}`,
  },
  {
    section: 'Method',
    name: 'budget',
    short: 'b',
    type: 'ints',
    min: 1,
    placeholder: 'LIST',
    commands: REPRO,
    help: 'all but fig3: KV budgets in tokens, separated by commas',
  },
];

export const ISO_OPTIONS: readonly OptionSpec[] = [
  command({
    name: 'tolerance',
    type: 'number',
    min: 0,
    max: 100,
    default: 1,
    placeholder: 'POINTS',
    commands: ISO,
    help: "lossless is a score of at least full's minus this many points",
  }),
  command({
    name: 'attention',
    type: 'string',
    placeholder: 'FILE.csv',
    commands: ISO,
    help: 'attention times of a kernel benchmark (default: the column stays empty)',
  }),
  command({
    name: 'measure',
    type: 'flag',
    commands: ISO,
    help: 'measure the attention times now, on --device, at the mean contexts and lossless budgets',
  }),
  command({
    name: 'heads',
    type: 'string',
    default: '32/32',
    placeholder: 'N/N',
    commands: ISO,
    help: "query and KV heads of the layer that --measure times, or whose times to take from --attention; 32/32 is the paper's model",
  }),
];
