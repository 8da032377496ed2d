/** What a report says of a run in words: its title, the facts of its manifest, and what a reader must be warned of. */
import { basename, dirname } from 'node:path';
import { plural } from '../words.js';
import { cellReader, type ReportRun } from './html-run.js';
import { namesApart, runSettings, settingWords } from './names.js';

const TITLES: Readonly<Record<string, { title: string; paper: string }>> = {
  passkey: { title: 'Passkey retrieval', paper: 'Table 1' },
  longbench: { title: 'LongBench', paper: 'Figure 7' },
  ppl: { title: 'Perplexity over positions', paper: 'Figure 6' },
  sparsity: { title: 'KV that each layer needs', paper: 'Figure 3' },
  recall: { title: 'Recall of the highest-attention tokens', paper: 'Figure 4' },
  'bench kernels': { title: 'Attention of one layer', paper: 'Figures 8 and 9' },
  'bench e2e': { title: 'Decode steps of whole models', paper: 'Figure 10' },
};

/** `Passkey retrieval (Table 1)`. */
export function runTitle(run: ReportRun): string {
  const known = TITLES[run.task];
  return known === undefined ? run.task : `${known.title} (${known.paper})`;
}

/** Titles of runs on one page: those of one experiment are told apart by what differs, at last by their folders. */
export function runTitles(runs: readonly ReportRun[]): string[] {
  const names = namesApart(
    runs.map((run) => ({ name: runTitle(run), settings: runSettings(run) })),
    ': ',
  );
  return names.map((name, i) => {
    const same = runs.filter((_, j) => names[j] === name);
    if (same.length === 1) return name;
    const { folder } = runs[i]!;
    const unique = same.filter((run) => basename(run.folder) === basename(folder)).length === 1;
    return `${name}, in ${unique ? basename(folder) : `${basename(dirname(folder))}/${basename(folder)}`}`;
  });
}

/** What was asked, shortly: `600 tokens of context, 2 samples`. */
export function runScope(run: ReportRun): string {
  const { params } = run;
  const number = (key: string): string[] =>
    typeof params[key] === 'number' ? [settingWords(key, params[key])] : [];
  const tasks = Array.isArray(params.tasks) ? params.tasks : [];
  return [
    ...number('context_tokens'),
    ...number('tokens'),
    ...(tasks.length > 6 ? [`${tasks.length} tasks`] : tasks),
    ...number('max_length'),
    ...number('samples'),
  ].join(', ');
}

/** Columns that hold the paper's value beside ours. */
const PAPER = /^paper_/;

export function hasPaperValues({ long, wide }: ReportRun): boolean {
  return [long, wide].some(({ columns, rows }) =>
    columns.some((name, i) => PAPER.test(name) && rows.some((row) => row[i] !== '')),
  );
}

const cellName = (method: string, budget: string): string => (budget === '' ? method : `${method} ${budget}`);

/** Cells that were the same as full, by name. */
function neverSparse(run: ReportRun): string[] {
  const get = cellReader(run.long);
  const names = run.long.rows
    .filter((row) => Number(get(row, 'never_sparse_samples')) > 0 || get(row, 'never_sparse') === 'true')
    .map((row) => cellName(get(row, 'method'), get(row, 'budget_tokens')));
  return [...new Set(names)];
}

/** Where a reader could take a number for what it is not. */
export function runWarnings(run: ReportRun): string[] {
  const get = cellReader(run.long);
  const warnings: string[] = [];
  if (run.long.rows.some((row) => get(row, 'data').startsWith('sample'))) {
    warnings.push(
      'SAMPLE: these are small documents made for this tool, not LongBench; the scores compare with no published number',
    );
  }
  const words = [run.manifest.text?.title ?? '', ...run.long.rows.map((row) => get(row, 'text'))];
  if (words.some((text) => /training split/.test(text)) || run.params.dataset === 'moby-dick') {
    warnings.push(
      "Training book: the text is Moby-Dick, a book of PG-19's training split, not of its test split; a model may have seen it",
    );
  }
  const same = neverSparse(run);
  if (same.length > 0) {
    warnings.push(
      `Never sparse: ${same.join(', ')} never attended fewer tokens than the cache held, in some or all samples; there it was the same as full`,
    );
  }
  if (run.manifest.runs.some(({ environment }) => String(environment.commit ?? '').endsWith('-dirty')))
    warnings.push('Computed with a changed checkout (commit marked -dirty)');
  return warnings;
}

/** Notes of the run itself that are no warnings, and where no number of the paper fits. */
export function runNotes(run: ReportRun): string[] {
  const notes = run.notes.filter((note) => !note.startsWith('SAMPLE') && !note.startsWith('* '));
  if (hasPaperValues(run) || TITLES[run.task] === undefined) return notes;
  return [
    ...notes,
    `No value of the paper stands beside: its ${TITLES[run.task]!.paper} is for another model, other data, another context or other budgets`,
  ];
}

const duration = (seconds: number): string =>
  seconds < 120 ? `${seconds.toFixed(1)} s` : `${(seconds / 60).toFixed(1)} min (${Math.round(seconds)} s)`;

/** Seconds of all sessions that computed rows. */
export const runSeconds = (run: ReportRun): number =>
  run.manifest.runs.reduce((sum, one) => sum + one.seconds, 0);

/** `cpu, avx512, 2 threads` or `cuda:0, NVIDIA H100`, of the last session that computed something. */
export function runDevice(run: ReportRun): string {
  const environment = run.manifest.runs
    .map((one) => one.environment)
    .findLast((one) => one.device !== undefined);
  if (environment === undefined) return 'unknown';
  const { device, gpu, simd, threads } = environment;
  return [device, gpu, simd, threads === undefined ? undefined : plural(Number(threads), 'thread')]
    .filter(Boolean)
    .join(', ');
}

/** The manifest as a list of name and value. */
export function runFacts(run: ReportRun): [name: string, value: string][] {
  const { manifest } = run;
  const { environment, started } = manifest.runs.at(-1)!;
  const rows = manifest.runs.reduce((sum, one) => sum + one.rows.computed, 0);
  const memory = environment.memory_bytes;
  const sessions = manifest.runs.length;
  const facts: [string, unknown][] = [
    ['model', [manifest.model.name, manifest.model.fingerprint].filter(Boolean).join(', fingerprint ')],
    ['device', runDevice(run)],
    ['cpu', environment.cpu && `${environment.cpu}, ${plural(Number(environment.cores), 'core')}`],
    ['memory', typeof memory === 'number' ? `${(memory / 2 ** 30).toFixed(1)} GiB` : undefined],
    ['system', environment.os],
    ['quest', environment.quest && `${environment.quest}, native ${environment.native ?? 'unknown'}`],
    ['commit', environment.commit],
    ['node', environment.node],
    ['started', started],
    [
      'time',
      `${duration(runSeconds(run))}${sessions > 1 ? ` in ${sessions} sessions` : ''} for ${plural(rows, 'row')}`,
    ],
  ];
  return facts.flatMap(([name, value]) => (value ? [[name, String(value)] as [string, string]] : []));
}

/** Options that somebody has set: not the tool's defaults. */
export function setOptions(run: ReportRun): [name: string, value: string, source: string][] {
  return Object.entries(run.manifest.options)
    .filter(([, { source }]) => source !== 'default')
    .map(([key, { value, source }]) => [key, Array.isArray(value) ? value.join(',') : String(value), source]);
}
