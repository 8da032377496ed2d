/** Options of `quest longbench`; part of the one table in options.ts. */
import { TASK_NAMES } from '../../datasets/longbench_tasks.js';
import { METHOD_NAMES, METHODS } from '../../eval/methods.js';
import type { CommandName, OptionSpec } from './options.js';

const LONGBENCH: readonly CommandName[] = ['longbench'];

const option = (
  o: Omit<OptionSpec, 'section' | 'commands'>,
  section: OptionSpec['section'] = 'Command',
): OptionSpec => ({
  section,
  commands: LONGBENCH,
  ...o,
});

export const LONGBENCH_OPTIONS: readonly OptionSpec[] = [
  option({
    name: 'task',
    short: 't',
    type: 'names',
    choices: [...TASK_NAMES, 'paper', 'all'],
    default: ['paper'],
    placeholder: 'LIST',
    help: 'tasks, separated by commas; paper means the six of the paper, all means all',
  }),
  option({ name: 'e', type: 'flag', help: 'LongBench-E: the 13 tasks that it has, by length bucket too' }),
  option({
    name: 'data',
    type: 'string',
    placeholder: 'DIR',
    help: 'folder of datasets (default: QUEST_DATA, else quest/data in the cache folder)',
  }),
  option({
    name: 'sample',
    type: 'flag',
    help: 'the small built-in set instead of LongBench: nothing to download, scores that compare with nothing',
  }),
  option({
    name: 'limit',
    type: 'int',
    min: 1,
    placeholder: 'N',
    help: 'only the first N rows of each task',
  }),
  option({
    name: 'max-length',
    type: 'int',
    min: 64,
    placeholder: 'TOKENS',
    help: 'prompts of more tokens, BOS counted and the chat format not, lose their middle (default: what the model holds beside the answer; 31500 for LongChat)',
  }),
  option({
    name: 'chat',
    type: 'string',
    choices: ['auto', 'none'],
    default: 'auto',
    placeholder: 'MODE',
    help: "the model's chat format around prompts, where it has one and the task wants it",
  }),
  option({
    name: 'predict-only',
    type: 'flag',
    help: 'write predictions without scores; `quest score` makes the table',
  }),
  option(
    {
      name: 'method',
      short: 'm',
      type: 'names',
      choices: METHOD_NAMES,
      default: ['full', 'quest', 'streaming', 'h2o', 'tova'],
      placeholder: 'LIST',
      help: `KV methods, separated by commas. ${METHODS.map((m) => `${m.name}: ${m.help}`).join('; ')}`,
    },
    'Method',
  ),
  option(
    {
      name: 'budget',
      short: 'b',
      type: 'ints',
      min: 1,
      default: [256, 512, 1024, 2048, 4096],
      placeholder: 'LIST',
      help: 'KV budgets in tokens, separated by commas; each method runs at each of them',
    },
    'Method',
  ),
];
