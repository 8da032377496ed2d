/**
 * Iso-accuracy, the paper's Figure 11: the smallest budget at which a method is lossless on a task.
 *
 * Lossless means: score >= full's score - tolerance, in points of the task's metric (0 to 100), both as rounded in the
 * table. The paper does not define its word. With the scores of its Figure 7 a tolerance of 1 point gives its budgets for
 * all tasks but TriviaQA, where it calls 2.6 points less lossless (budget 512; 1024 is within 1 point).
 * Scores are noisy: a larger budget may score below a smaller one, and is not asked about.
 */
import type { Table } from '../src/report/table.js';
import type { AttentionStep, StepTime } from './iso_attention.js';
import { paperIso } from './iso_paper.js';
import { methodDefinition } from './methods.js';

/** One cell of a LongBench table over all samples of a task. */
export interface IsoScore {
  task: string;
  method: string;
  budgetTokens: number | undefined;
  score: number;
  kvReadPct: number;
  samples: number;
  neverSparse: number;
  pageSize: number | undefined;
}

/** One method on one task; without a budget where none of those that were run is lossless. */
export interface IsoRow {
  task: string;
  /** Mean prompt length. */
  contextTokens: number;
  samples: number;
  method: string;
  label: string;
  fullScore: number;
  /** `full` scores no more than the tolerance: every budget would be lossless, so the task says nothing. */
  saysNothing: boolean;
  /** The smallest lossless cell; for `full` its only one. */
  lossless: IsoScore | undefined;
  largestBudget: number | undefined;
  attentionUs: number | undefined;
}

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];

/**
 * Per task `full` and then each method, in their order of appearance; `full` alone where it scores nothing. Tasks without
 * `full` have nothing to compare with.
 */
export function isoRows(
  scores: readonly IsoScore[],
  contexts: ReadonlyMap<string, number>,
  tolerance: number,
  times: StepTime | undefined,
): IsoRow[] {
  return unique(scores.map(({ task }) => task)).flatMap((task) => {
    const own = scores.filter((score) => score.task === task);
    const full = own.find(({ method }) => method === 'full');
    if (full === undefined) return [];
    const contextTokens = contexts.get(task) ?? Number.NaN;
    const saysNothing = full.score <= tolerance;
    const methods = saysNothing ? ['full'] : unique(['full', ...own.map(({ method }) => method)]);
    return methods.map((method): IsoRow => {
      const cells = own
        .filter((cell) => cell.method === method)
        .sort((a, b) => (a.budgetTokens ?? 0) - (b.budgetTokens ?? 0));
      // Scores have two decimals: a difference of exactly the tolerance must not fail by a rounding of floats.
      const lossless = saysNothing
        ? undefined
        : cells.find(({ score }) => score >= full.score - tolerance - 1e-9);
      return {
        task,
        contextTokens,
        samples: full.samples,
        method,
        label: methodDefinition(method).label,
        fullScore: full.score,
        saysNothing,
        lossless,
        largestBudget: cells.at(-1)?.budgetTokens,
        attentionUs: withTime(lossless, contextTokens, times),
      };
    });
  });
}

/**
 * The decode step of a cell at the task's mean context: selectors run the sparse chain, unless the budget covers the
 * context, and evictors attend what they have kept. The oracle reads all keys to choose and has no kernel of its own.
 */
export function attentionStep(cell: IsoScore, contextTokens: number): AttentionStep | undefined {
  const { kind } = methodDefinition(cell.method);
  const { budgetTokens, pageSize } = cell;
  const dense = (tokens: number) => ({ contextTokens: tokens, budgetTokens: undefined, pageSize: undefined });
  if (Number.isNaN(contextTokens) || cell.method === 'oracle') return undefined;
  if (kind === 'dense' || budgetTokens === undefined || budgetTokens >= contextTokens)
    return dense(contextTokens);
  return kind === 'evictor' ? dense(budgetTokens) : { contextTokens, budgetTokens, pageSize };
}

function withTime(cell: IsoScore | undefined, contextTokens: number, times: StepTime | undefined) {
  const step = cell && attentionStep(cell, contextTokens);
  return step && times?.(step);
}

export interface IsoRun {
  model: string;
  data: string;
  tolerance: number;
}

const KEYS = [
  ...['task', 'context_tokens', 'samples', 'full_score', 'method', 'budget_tokens', 'score', 'kv_read_pct'],
  ...['never_sparse_samples', 'attention_us', 'paper_budget_tokens', 'paper_attention_us'],
  ...['tolerance', 'says_nothing', 'model', 'data'],
];

/** The paper's values stand beside LongBench itself, not beside samples. */
const paperOf = (row: IsoRow, run: IsoRun) => (run.data === 'longbench' ? paperIso(row.task) : undefined);

/** One line per task and method. */
export function isoLongTable(rows: readonly IsoRow[], run: IsoRun): Table {
  return {
    columns: KEYS.map((key) => ({ key })),
    rows: rows.map((row) => [
      row.task,
      Number.isNaN(row.contextTokens) ? undefined : Math.round(row.contextTokens),
      row.samples,
      row.fullScore.toFixed(2),
      row.method,
      row.lossless?.budgetTokens,
      row.lossless?.score.toFixed(2),
      row.lossless?.kvReadPct.toFixed(2),
      row.lossless?.neverSparse,
      row.attentionUs?.toFixed(1),
      paperOf(row, run)?.budgets[row.method],
      paperOf(row, run)?.attentionUs[row.method],
      run.tolerance,
      row.saysNothing,
      run.model,
      run.data,
    ]),
  };
}

const budgetText = (row: IsoRow): string => {
  if (row.saysNothing) return 'says nothing';
  if (row.method === 'full') return 'all';
  if (row.lossless === undefined) return `> ${row.largestBudget}`;
  return `${row.lossless.budgetTokens}${row.lossless.neverSparse > 0 ? '*' : ''}`;
};

/** The same for readers: the task is named once. */
export function isoWideTable(rows: readonly IsoRow[], run: IsoRun): Table {
  const numbers = ['context', 'budget', 'score', 'KV read %', 'attention us', 'paper budget', 'paper us'];
  return {
    columns: [
      { key: 'task' },
      { key: 'method', title: 'lossless with:' },
      ...numbers.map((key) => ({ key, align: 'right' as const })),
    ],
    rows: rows.map((row, i) => {
      const first = rows[i - 1]?.task !== row.task;
      const paper = paperOf(row, run);
      return [
        first ? row.task : '',
        row.label,
        first && !Number.isNaN(row.contextTokens) ? Math.round(row.contextTokens) : undefined,
        budgetText(row),
        (row.saysNothing ? row.fullScore : row.lossless?.score)?.toFixed(2),
        row.lossless?.kvReadPct.toFixed(1),
        row.attentionUs?.toFixed(1),
        paper?.budgets[row.method],
        paper?.attentionUs[row.method]?.toFixed(1),
      ];
    }),
  };
}
