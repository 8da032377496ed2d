/** LongBench as tables: long form for files, and the shape of the paper's Figure 7 for readers. */
import { plural } from '../words.js';
import { manyReadsNote } from './rows.js';
import { columnsOf, fixed, type Table } from './table.js';

/** The score of one cell on one task, over all of its samples or those of one length. */
export interface TaskScore {
  samples: number;
  /** 0 to 100 with two decimals, rounded as the benchmark does. */
  score: number;
  /** Standard error of the score. */
  stderr: number;
  kvReadPct: number;
}

export interface LongBenchCell {
  method: string;
  label: string;
  budgetTokens: number | undefined;
  /** The options that define the cell, by column. */
  options: Readonly<Record<string, string | number | boolean>>;
}

/** One task of the benchmark with the scores of every cell. */
export interface LongBenchTaskResult {
  task: string;
  title: string;
  /** What the score is, e.g. `F1`. */
  metric: string;
  samples: number;
  truncated: number;
  cells: readonly {
    cell: LongBenchCell;
    all: TaskScore;
    /** By length, without empty ones. */
    buckets: readonly (TaskScore & { bucket: string })[];
    neverSparse: number;
  }[];
}

export interface LongBenchReport {
  modelName: string;
  /** `longbench`, `longbench-e`, `sample` or `sample-e`. */
  data: string;
  tasks: readonly LongBenchTaskResult[];
  paper: PaperFigure | undefined;
}

export interface PaperFigure {
  title: string;
  /** The paper's score, read off its figure, where it has one. */
  score(task: string, method: string, budgetTokens: number | undefined): number | undefined;
}

export const isSample = (report: LongBenchReport): boolean => report.data.startsWith('sample');
export const isEven = (report: LongBenchReport): boolean => report.data.endsWith('-e');

/** What tables and figures call the data. */
export function dataTitle(report: LongBenchReport): string {
  const even = isEven(report) ? 'LongBench-E' : 'LongBench';
  return isSample(report) ? `built-in SAMPLE, not ${even}` : even;
}

const CELL_OPTIONS = ['skip_layers', 'page_size', 'group', 'sinks', 'h2o_prefill'];

/** One row per task, cell and length bucket: `table.csv`. No times, so a resumed run gives the same bytes. */
export function longBenchLongTable(report: LongBenchReport): Table {
  const keys = [
    ...['task', 'method', 'budget_tokens', 'bucket', 'samples', 'score', 'stderr', 'metric', 'kv_read_pct'],
    ...['never_sparse_samples', 'truncated', ...CELL_OPTIONS, 'model', 'data', 'paper_score'],
  ];
  const rows: Table['rows'] = [];
  for (const { task, metric, truncated, cells } of report.tasks) {
    for (const { cell, all, buckets, neverSparse } of cells) {
      for (const part of [{ bucket: 'all', ...all }, ...buckets]) {
        const whole = part.bucket === 'all';
        rows.push([
          task,
          cell.method,
          cell.budgetTokens,
          part.bucket,
          part.samples,
          part.score,
          part.stderr,
          metric,
          part.kvReadPct,
          whole ? neverSparse : undefined,
          whole ? truncated : undefined,
          ...CELL_OPTIONS.map((key) => cell.options[key]),
          report.modelName,
          report.data,
          whole ? report.paper?.score(task, cell.method, cell.budgetTokens) : undefined,
        ]);
      }
    }
  }
  return {
    columns: columnsOf(keys, { score: fixed(2), stderr: fixed(2), kv_read_pct: fixed(2) }),
    rows,
    notes: longBenchNotes(report),
  };
}

interface Panel {
  title: string;
  task: string | undefined;
  cells: readonly { cell: LongBenchCell; score: number; marked: boolean }[];
}

const cellKey = (cell: LongBenchCell): string => JSON.stringify(cell.options);

/** Mean over tasks, as the benchmark's leaderboards give it. */
function averagePanel(report: LongBenchReport): Panel {
  const cells = report.tasks[0]!.cells.map(({ cell }) => {
    const own = report.tasks.map((task) => task.cells.find((c) => cellKey(c.cell) === cellKey(cell))!);
    const score = own.reduce((sum, { all }) => sum + all.score, 0) / own.length;
    return { cell, score, marked: own.some(({ neverSparse }) => neverSparse > 0) };
  });
  return { title: 'average', task: undefined, cells };
}

function panels(report: LongBenchReport): Panel[] {
  const all = report.tasks.flatMap((result): Panel[] => {
    const of = (bucket: string | undefined): Panel['cells'] =>
      result.cells.flatMap(({ cell, all, buckets, neverSparse }) => {
        const part = bucket === undefined ? all : buckets.find((b) => b.bucket === bucket);
        return part === undefined ? [] : [{ cell, score: part.score, marked: neverSparse > 0 }];
      });
    const whole = { title: `${result.title} (${result.metric})`, task: result.task, cells: of(undefined) };
    if (!isEven(report)) return [whole];
    const names = [...new Set(result.cells.flatMap(({ buckets }) => buckets.map((b) => b.bucket)))];
    return [
      whole,
      ...names.map((name) => ({ title: `${result.title} ${name}`, task: undefined, cells: of(name) })),
    ];
  });
  return report.tasks.length > 1 ? [...all, averagePanel(report)] : all;
}

/** Per task: methods as rows, budgets as columns, the paper's numbers beneath; a method without a budget is under `all`. */
export function longBenchWideTable(report: LongBenchReport): Table {
  const every = report.tasks.flatMap((task) => task.cells.map(({ cell }) => cell));
  const budgets = [...new Set(every.flatMap((cell) => cell.budgetTokens ?? []))].sort((a, b) => a - b);
  const hasDense = every.some((cell) => cell.budgetTokens === undefined);
  const rows: Table['rows'] = [];
  const show = (found: Panel['cells'][number] | undefined) =>
    found && `${found.score.toFixed(2)}${found.marked ? '*' : ''}`;
  for (const { title, task, cells } of panels(report)) {
    let first = true;
    for (const method of new Set(cells.map(({ cell }) => cell.method))) {
      const own = cells.filter(({ cell }) => cell.method === method);
      const at = (budget: number | undefined) => own.find(({ cell }) => cell.budgetTokens === budget);
      const dense = hasDense ? [show(at(undefined))] : [];
      rows.push([first ? title : '', own[0]!.cell.label, ...budgets.map((b) => show(at(b))), ...dense]);
      first = false;
      if (task === undefined || report.paper === undefined) continue;
      const { score } = report.paper;
      const paper = [...budgets, ...(hasDense ? [undefined] : [])].map((b) =>
        score(task, method, b)?.toFixed(2),
      );
      if (paper.some((value) => value !== undefined)) rows.push(['', '  paper', ...paper]);
    }
  }
  return {
    columns: [
      { key: 'task' },
      { key: 'method', title: 'score, budget:' },
      ...budgets.map((b) => ({ key: String(b), align: 'right' as const })),
      ...(hasDense ? [{ key: 'all', align: 'right' as const }] : []),
    ],
    rows,
    notes: longBenchNotes(report),
  };
}

/** What a reader of the table must know. */
export function longBenchNotes(report: LongBenchReport): string[] {
  const notes: string[] = [];
  if (isSample(report)) {
    notes.push(
      'SAMPLE: these are small documents made for this tool, not LongBench; the scores compare with no published number',
    );
  }
  for (const { task, samples, truncated } of report.tasks) {
    if (truncated > 0)
      notes.push(
        `${task}: the middle of ${truncated} of ${plural(samples, 'prompt')} was left out (longer than the limit)`,
      );
  }
  const never = new Map<string, { name: string; hits: number; samples: number }>();
  for (const { samples, cells } of report.tasks) {
    for (const { cell, neverSparse } of cells) {
      const name = `${cell.method} ${cell.budgetTokens}`;
      const sum = never.get(cellKey(cell)) ?? { name, hits: 0, samples: 0 };
      never.set(cellKey(cell), { name, hits: sum.hits + neverSparse, samples: sum.samples + samples });
    }
  }
  const hit = [...never.values()].filter(({ hits }) => hits > 0);
  if (hit.length > 0) {
    const list = hit.map(({ name, hits, samples }) => `${name} in ${hits} of ${plural(samples, 'sample')}`);
    notes.push(
      `* never attended fewer tokens than the cache held, so it was the same as full there: ${list.join(', ')}`,
    );
  }
  const most = report.tasks.flatMap(({ cells }) => cells.filter(({ all }) => all.kvReadPct > 100));
  const names = most.map(({ cell }) => `${cell.method} ${cell.budgetTokens}`);
  notes.push(...manyReadsNote([...new Set(names)]));
  if (report.paper !== undefined) notes.push(`paper: ${report.paper.title}`);
  return notes;
}
