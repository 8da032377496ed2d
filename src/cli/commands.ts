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
  /** A second one. */
  names?: { name: string; help: string };
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
    name: 'ppl',
    summary: 'perplexity of long texts over positions (Figure 6): PG-19, Moby-Dick or a file',
    examples: [
      'quest ppl --tokens 8000 --budget 512,2048 --method full,quest,streaming',
      'quest ppl --dataset pg19 --books all',
      'quest ppl --text novel.txt --stride 16000 --tokens 100000',
    ],
    load: () => import('./commands/ppl.js'),
  },
  {
    name: 'analyze',
    summary: 'how much KV each layer needs (sparsity, Figure 3), and what methods miss (recall, Figure 4)',
    argument: { name: '[analysis]', help: 'sparsity or recall' },
    examples: [
      'quest analyze sparsity --tokens 4096',
      'quest analyze recall --context 10000 --budget 64,256,1024',
    ],
    load: () => import('./commands/analyze.js'),
  },
  {
    name: 'longbench',
    summary: 'LongBench (Figure 7 of the paper): scores of KV methods over budgets, task by task',
    examples: [
      'quest longbench --sample --limit 1',
      'quest longbench --task qasper,hotpotqa --limit 50',
      'quest longbench --task all --e --method full,quest --budget 1024,2048',
    ],
    load: () => import('./commands/longbench.js'),
  },
  {
    name: 'sweep',
    summary:
      'a grid of task x model x method x budget x context x seed, resumable, on several devices or Slurm',
    argument: { name: '[file]', help: 'the YAML file of the sweep, e.g. configs/sweep.yaml' },
    examples: [
      'quest sweep configs/sweep.yaml --dry-run',
      'quest sweep configs/sweep.yaml --devices cpu*2',
      'quest sweep sweep.yaml --devices cuda:0,cuda:1 --out runs/grid',
      'quest sweep sweep.yaml --executor slurm --partition gpu --gres gpu:1 --time 4:00:00 --max-parallel 8',
    ],
    load: () => import('./commands/sweep.js'),
  },
  {
    name: 'score',
    summary: 'score the predictions of a quest longbench run again, without the model',
    argument: { name: '<dir>', help: 'the folder of the run' },
    examples: ['quest score runs/longbench-0a1b2c3d', 'quest score runs/longbench-0a1b2c3d --format csv'],
    load: () => import('./commands/score.js'),
  },
  {
    name: 'report',
    summary: 'finished runs on one HTML page, with the paper beside, figures and the Pareto front',
    argument: { name: '<dirs...>', help: 'folders of runs, or a folder of such folders' },
    examples: ['quest report runs', 'quest report runs/passkey-0a1b2c3d runs/ppl-4e5f6a7b --out ours.html'],
    load: () => import('./commands/report.js'),
  },
  {
    name: 'repro',
    summary: "the paper's tables and figures from presets, then a report of them",
    argument: { name: '<name>', help: 'table1, fig3, fig4, fig6 to fig11, or all' },
    examples: [
      'quest repro table1 --dry-run',
      'quest repro table1 --model quest-tiny --limit 4',
      'quest repro all --model quest-tiny --limit 2 --context 4000 --tokens 4000 --dataset moby-dick --sample',
    ],
    load: () => import('./commands/repro.js'),
  },
  {
    name: 'iso',
    summary: 'from LongBench runs, the smallest lossless budget per method and task (Figure 11)',
    argument: { name: '<dirs...>', help: 'folders of quest longbench runs of one model' },
    examples: [
      'quest iso runs/longbench-0a1b2c3d --measure',
      'quest iso runs/longbench-0a1b2c3d --tolerance 0.5 --attention results/h100/attention.csv',
    ],
    load: () => import('./commands/iso.js'),
  },
  {
    name: 'bench',
    summary:
      'speed: kernels (Figures 8 and 9), whole models with random weights (e2e, Figure 10), or beside PyTorch (compare)',
    argument: { name: '<what>', help: 'kernels, e2e or compare' },
    examples: [
      'quest bench kernels --context 8192,32768 --budget 2048',
      'quest bench kernels --kernel gemv,gemm,prefill --format md',
      'quest bench e2e --shape llama2-7b,llama3.1-8b --budget 1024,2048,full',
      'quest bench compare --context 32768 --budget 2048',
    ],
    load: () => import('./commands/bench.js'),
  },
  {
    name: 'generate',
    summary: 'continue a text, or follow an instruction about it, with a KV method; compare with another',
    examples: [
      'quest generate --prompt "Once upon a time" --max-tokens 64',
      'quest generate --prompt-file book.txt --instruction "Summarise the book." --budget 1024',
      'quest generate --prompt-file book.txt --budget 256 --compare full',
    ],
    load: () => import('./commands/generate.js'),
  },
  {
    name: 'demo',
    summary: 'the full cache and Quest side by side, with the speed and the KV read of each',
    examples: [
      'quest demo',
      'quest demo --context 30000 --budget 256',
      'quest demo --model meta-llama/Llama-3.1-8B-Instruct --prompt-file book.txt --instruction "Summarise the book."',
    ],
    load: () => import('./commands/demo.js'),
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
    name: 'data',
    summary: 'the datasets: what is there, pulling them, verifying them',
    argument: { name: '<action>', help: 'list, pull or verify' },
    names: {
      name: '[names...]',
      help: 'longbench, pg19, or one file: longbench/qasper, pg19/860 (default: all)',
    },
    examples: [
      'quest data list',
      'quest data pull longbench',
      'quest data pull pg19/10146',
      'quest data verify',
    ],
    load: () => import('./commands/data.js'),
  },
  {
    name: 'model',
    summary: 'the models of the hub cache: pulling, listing, memory, verifying; 4-bit versions of models',
    argument: { name: '<action>', help: 'pull, list, info, verify or quantize' },
    names: { name: '[models...]', help: 'ORG/NAME; for info and quantize also a folder or a built-in name' },
    examples: [
      'quest model pull lmsys/longchat-7b-v1.5-32k',
      'quest model info quest-tiny --context 32768',
      'quest model verify lmsys/longchat-7b-v1.5-32k',
      'quest model quantize quest-tiny --group 64 --out tiny-int4',
    ],
    load: () => import('./commands/model.js'),
  },
  {
    name: 'doctor',
    summary: 'what this machine and build can do, with a self-check of the model',
    examples: ['quest doctor', 'quest doctor --format json'],
    load: () => import('./commands/doctor.js'),
  },
];
