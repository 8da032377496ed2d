/** Options of `quest bench`; part of the one table in options.ts. */
import { KERNELS } from '../../eval/efficiency/kernels.js';
import { SHAPES } from '../../eval/efficiency/shapes.js';
import type { CommandName, OptionSpec } from './options.js';

const BENCH: readonly CommandName[] = ['bench'];

const command = (o: Omit<OptionSpec, 'section' | 'commands'>): OptionSpec => ({
  section: 'Command',
  commands: BENCH,
  ...o,
});

export const BENCH_OPTIONS: readonly OptionSpec[] = [
  command({
    name: 'kernel',
    type: 'names',
    choices: KERNELS,
    default: ['dense', 'estimate', 'topk', 'attention', 'sparse'],
    placeholder: 'LIST',
    help: 'kernels: what to time; `sparse` is estimate, topk and attention as one',
  }),
  command({
    name: 'context',
    type: 'ints',
    min: 1,
    max: 1 << 24,
    placeholder: 'LIST',
    help: 'tokens in the cache (default: 8K to 128K on a GPU, 4K to 32K on a CPU; e2e: 8K to 32K)',
  }),
  command({
    name: 'budget',
    type: 'names',
    default: ['512', '1024', '2048', '4096'],
    placeholder: 'LIST',
    help: 'budgets in tokens; e2e: `full` too, for a line of the dense step itself',
  }),
  command({
    name: 'page-size',
    type: 'ints',
    min: 1,
    max: 128,
    powerOfTwo: true,
    default: [16],
    placeholder: 'LIST',
    help: 'tokens per page; e2e takes one',
  }),
  command({
    name: 'heads',
    type: 'names',
    default: ['32/32', '32/8'],
    placeholder: 'LIST',
    help: 'kernels, compare: query heads / KV heads of a layer, of 128 each',
  }),
  command({
    name: 'shape',
    type: 'names',
    choices: Object.keys(SHAPES),
    default: ['llama2-7b'],
    placeholder: 'LIST',
    help: 'e2e, compare: models by shape, with random weights',
  }),
  command({
    name: 'weights',
    type: 'names',
    choices: ['fp16', 'int4'],
    default: ['fp16'],
    placeholder: 'LIST',
    help: 'e2e: what the matrices are stored as',
  }),
  command({
    name: 'steps',
    type: 'int',
    min: 1,
    default: 256,
    placeholder: 'N',
    help: 'e2e: decode steps of one repeat',
  }),
  command({
    name: 'repeats',
    type: 'int',
    min: 1,
    default: 5,
    placeholder: 'N',
    help: 'e2e: repeats, each from the same prefill; the median counts',
  }),
  command({
    name: 'skip-layers',
    type: 'int',
    min: 0,
    default: 2,
    placeholder: 'N',
    help: 'e2e: layers that stay dense',
  }),
  command({
    name: 'noise',
    type: 'number',
    min: 0,
    default: 1,
    placeholder: 'PERCENT',
    help: 'kernels: repeat until the spread is this small, or for --seconds',
  }),
  command({
    name: 'seconds',
    type: 'number',
    min: 0,
    default: 0.5,
    placeholder: 'S',
    help: 'kernels: at most this long for one case',
  }),
  command({
    name: 'python',
    type: 'string',
    default: 'python3',
    placeholder: 'FILE',
    help: 'compare: the Python that has PyTorch',
  }),
  command({
    name: 'out',
    short: 'o',
    type: 'string',
    placeholder: 'DIR',
    help: 'folder for results; the same folder resumes (default: runs/bench-<name>-<hash of device and axes>)',
  }),
];
