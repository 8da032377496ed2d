/** The subcommands: what --help says of them, and where their code is. Each is loaded when it is called. */
import type { CommandName } from './options.js';
import type { Output } from './output.js';
import type { Settings } from './settings.js';

export interface CommandContext {
  settings: Settings;
  /** Positional arguments. */
  args: string[];
  /** The command line after `quest`. */
  argv: readonly string[];
  out: Output;
  /** Aborted by Ctrl-C. */
  signal: AbortSignal;
}

/** Returns the exit code. */
export type RunCommand = (context: CommandContext) => Promise<number>;

export interface CommandSpec {
  name: CommandName;
  summary: string;
  /** Positional argument as commander writes it. */
  argument?: { name: string; help: string };
  examples: readonly string[];
  load(): Promise<{ run: RunCommand }>;
}

export const COMMANDS: readonly CommandSpec[] = [
  {
    name: 'passkey',
    summary: 'passkey retrieval (Table 1 of the paper): accuracy of KV methods over budgets',
    examples: [
      'quest passkey',
      'quest passkey --context 4000 --budget 64,256 --method full,quest',
      'quest passkey --dry-run',
    ],
    load: () => import('./commands/passkey.js'),
  },
  {
    name: 'generate',
    summary: 'continue a text with a KV method, and compare with another',
    examples: [
      'quest generate --prompt "Once upon a time" --max-tokens 64',
      'quest generate --prompt-file book.txt --budget 256 --compare full',
    ],
    load: () => import('./commands/generate.js'),
  },
  {
    name: 'logits',
    summary: 'logits of decode steps for given token ids, to compare implementations',
    examples: [
      'quest logits --ids ids.json --prompt-len 560 --method quest --budget 128 --out logits.safetensors',
    ],
    load: () => import('./commands/logits.js'),
  },
  {
    name: 'tokenize',
    summary: "text to token ids and back, as the model's tokenizer does it",
    argument: { name: '[text]', help: 'text, or ids with --decode (default: standard input)' },
    examples: ['quest tokenize "Hello there"', 'quest tokenize --file book.txt | quest tokenize --decode'],
    load: () => import('./commands/tokenize.js'),
  },
  {
    name: 'doctor',
    summary: 'what this machine and build can do, with a self-check of the model',
    examples: ['quest doctor', 'quest doctor --format json'],
    load: () => import('./commands/doctor.js'),
  },
];
