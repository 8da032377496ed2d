/** Options of the commands that take one text: generate, demo, logits, tokenize. Part of the one table in options.ts. */
import { METHOD_NAMES } from '../../eval/methods.js';
import type { CommandName, OptionSpec } from './options.js';

const GENERATE: readonly CommandName[] = ['generate'];
const PROMPTED: readonly CommandName[] = ['generate', 'demo'];
const LOGITS: readonly CommandName[] = ['logits'];
const TOKENIZE: readonly CommandName[] = ['tokenize'];

const command = (o: Omit<OptionSpec, 'section'>): OptionSpec => ({ section: 'Command', ...o });

export const PROMPT_OPTIONS: readonly OptionSpec[] = [
  // generate
  command({
    name: 'prompt',
    short: 'p',
    type: 'string',
    placeholder: 'TEXT',
    commands: PROMPTED,
    help: 'text to continue, or that --instruction is about',
  }),
  command({
    name: 'prompt-file',
    type: 'string',
    placeholder: 'FILE',
    commands: PROMPTED,
    help: 'read that text from a file (- is standard input)',
  }),
  command({
    name: 'instruction',
    short: 'i',
    type: 'string',
    placeholder: 'TEXT',
    commands: PROMPTED,
    help: "what to do with the text; stands after it, in the model's chat format, and is fed through the method as decode steps",
  }),
  command({
    name: 'chat',
    type: 'string',
    choices: ['auto', 'none'],
    default: 'auto',
    placeholder: 'MODE',
    commands: PROMPTED,
    help: "with --instruction: the model's chat format where it has one, or none",
  }),
  command({
    name: 'max-length',
    type: 'int',
    min: 64,
    placeholder: 'TOKENS',
    commands: PROMPTED,
    help: 'a prompt of more tokens, instruction and chat format counted, loses the middle of its text',
  }),
  command({
    name: 'max-tokens',
    short: 'n',
    type: 'int',
    min: 1,
    default: 128,
    placeholder: 'N',
    commands: PROMPTED,
    help: 'generate at most this many tokens',
  }),
  command({
    name: 'context',
    type: 'int',
    min: 200,
    placeholder: 'TOKENS',
    commands: ['demo'],
    help: 'without a prompt: how much of Moby-Dick comes before (default: 16000, or what the model holds)',
  }),
  command({
    name: 'temperature',
    type: 'number',
    min: 0,
    default: 0,
    placeholder: 'T',
    commands: GENERATE,
    help: 'sampling temperature; 0 takes the likeliest token',
  }),
  command({
    name: 'top-p',
    type: 'number',
    min: 0,
    aboveMin: true,
    max: 1,
    default: 1,
    placeholder: 'P',
    commands: GENERATE,
    help: 'sample from the likeliest tokens that hold this probability',
  }),
  command({
    name: 'compare',
    type: 'string',
    choices: METHOD_NAMES,
    placeholder: 'METHOD',
    commands: GENERATE,
    help: 'run this method too from the same prefill and show where the texts part',
  }),
  // logits
  command({
    name: 'ids',
    type: 'string',
    placeholder: 'FILE.json',
    commands: LOGITS,
    help: 'token ids as a JSON array',
  }),
  command({
    name: 'prompt-len',
    type: 'int',
    min: 1,
    placeholder: 'N',
    commands: LOGITS,
    help: 'prefill the first N ids densely, feed the rest as decode steps',
  }),
  command({
    name: 'out',
    short: 'o',
    type: 'string',
    placeholder: 'F.safetensors',
    commands: LOGITS,
    help: 'file for `logits` [n - N, vocab] and, for selectors, `pages` [steps * sparse layers, heads, K]',
  }),
  // tokenize
  command({ name: 'decode', type: 'flag', commands: TOKENIZE, help: 'from ids (a JSON array) to text' }),
  command({
    name: 'file',
    short: 'f',
    type: 'string',
    placeholder: 'FILE',
    commands: TOKENIZE,
    help: 'read the input from a file (default: the argument, else standard input)',
  }),
  command({
    name: 'bos',
    type: 'switch',
    commands: TOKENIZE,
    help: 'put the beginning-of-sequence token first, or leave it out (default: as the model does)',
  }),
  command({ name: 'special', type: 'flag', commands: TOKENIZE, help: 'with --decode: show special tokens' }),
];
