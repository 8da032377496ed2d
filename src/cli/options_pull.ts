/** Options of `quest data` and `quest model`; part of the one table in options.ts. */
import type { CommandName, OptionSpec } from './options.js';

const DATA: readonly CommandName[] = ['data'];
const MODEL: readonly CommandName[] = ['model'];

const option = (o: Omit<OptionSpec, 'section'>): OptionSpec => ({ section: 'Command', ...o });

export const PULL_OPTIONS: readonly OptionSpec[] = [
  option({
    name: 'data',
    type: 'string',
    placeholder: 'DIR',
    commands: DATA,
    help: 'folder of datasets (default: QUEST_DATA, else quest/data in the cache folder)',
  }),
  option({
    name: 'revision',
    type: 'string',
    placeholder: 'REV',
    commands: MODEL,
    help: 'branch, tag or commit on the hub (default: main)',
  }),
  option({
    name: 'parallel',
    type: 'int',
    min: 1,
    max: 32,
    default: 4,
    placeholder: 'N',
    commands: MODEL,
    help: 'pull: files at once',
  }),
  option({
    name: 'force',
    type: 'flag',
    cliOnly: true,
    commands: [...DATA, ...MODEL],
    help: 'pull: fetch again what is there',
  }),
  option({
    name: 'context',
    type: 'int',
    min: 1,
    placeholder: 'TOKENS',
    commands: MODEL,
    help: 'info: memory for this many tokens (default: all that the model supports)',
  }),
  option({
    name: 'batch',
    type: 'int',
    min: 1,
    default: 1,
    placeholder: 'N',
    commands: MODEL,
    help: 'info: sequences side by side',
  }),
  option({
    name: 'page-size',
    type: 'int',
    min: 1,
    max: 128,
    powerOfTwo: true,
    default: 16,
    placeholder: 'TOKENS',
    commands: MODEL,
    help: 'info: tokens per page of the KV cache',
  }),
  option({
    name: 'max-memory',
    type: 'size',
    placeholder: 'SIZE',
    commands: MODEL,
    help: 'info: plan with at most this much on each device, e.g. 8G (default: what each has free)',
  }),
  option({
    name: 'gpu-memory',
    type: 'size',
    placeholder: 'SIZE',
    commands: MODEL,
    help: 'info: plan for a GPU with this much free, too; none need be there, but the build must have the CUDA backend',
  }),
  option({
    name: 'dry-run',
    type: 'flag',
    cliOnly: true,
    commands: [...DATA, ...MODEL],
    help: 'pull: say how much would be downloaded, and stop',
  }),
];
