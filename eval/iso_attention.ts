/** Attention times of a kernel benchmark (`attention.csv`), looked up at the contexts and budgets of evaluations. */
import { QuestError } from '../src/errors.js';
import type { TextTable } from '../src/report/html-csv.js';
import { cellReader } from '../src/report/html-run.js';

/** A decode step whose attention is asked for: over all of the context without a budget. */
export interface AttentionStep {
  contextTokens: number;
  budgetTokens: number | undefined;
  pageSize: number | undefined;
}

/** Microseconds of a step, where they are known. */
export type StepTime = (step: AttentionStep) => number | undefined;

interface Timed {
  contextTokens: number;
  budgetTokens: number;
  pageSize: number;
  denseUs: number;
  sparseUs: number;
}

export interface AttentionTimes {
  heads: string;
  rows: readonly Timed[];
}

const NEEDED = ['heads', 'context_tokens', 'budget_tokens', 'page_size', 'dense_us', 'sparse_us'] as const;

/** Checks the table and keeps the rows of one shape of heads, e.g. `32/32`. */
export function attentionTimes(table: TextTable, file: string, heads: string): AttentionTimes {
  const missing = NEEDED.find((name) => !table.columns.includes(name));
  if (missing !== undefined) {
    throw new QuestError('E_INPUT', `${file} has no column ${missing}`, {
      hint: `a kernel benchmark's attention.csv has ${NEEDED.join(', ')}`,
    });
  }
  const get = cellReader(table);
  const shapes = [...new Set(table.rows.map((row) => get(row, 'heads')))];
  if (!shapes.includes(heads)) {
    throw new QuestError('E_INPUT', `${file} has no times for ${heads} heads`, {
      hint: `give --heads ${shapes[0] ?? 'N/N'}; the file has ${shapes.join(', ') || 'no rows'}`,
    });
  }
  const rows = table.rows.flatMap((row, i): Timed[] => {
    if (get(row, 'heads') !== heads) return [];
    const [contextTokens, budgetTokens, pageSize, denseUs, sparseUs] = NEEDED.slice(1).map((name) => {
      const text = get(row, name);
      const value = Number(text);
      if (text !== '' && Number.isFinite(value) && value > 0) return value;
      throw new QuestError('E_INPUT', `${name} in line ${i + 2} of ${file} is "${text}"`, {
        hint: 'it must be a number above 0',
      });
    }) as [number, number, number, number, number];
    return [{ contextTokens, budgetTokens, pageSize, denseUs, sparseUs }];
  });
  return { heads, rows };
}

/** Linear between the two nearest measured places; nothing outside of what was measured. */
function interpolate(points: readonly (readonly [x: number, y: number])[], x: number): number | undefined {
  const below = points.filter(([at]) => at <= x).sort((a, b) => b[0] - a[0])[0];
  const above = points.filter(([at]) => at >= x).sort((a, b) => a[0] - b[0])[0];
  if (below === undefined || above === undefined) return undefined;
  if (above[0] === below[0]) return below[1];
  return below[1] + ((above[1] - below[1]) * (x - below[0])) / (above[0] - below[0]);
}

/** Dense attention over so many tokens. */
export function denseTime({ rows }: AttentionTimes, contextTokens: number): number | undefined {
  return interpolate(
    rows.map((row) => [row.contextTokens, row.denseUs] as const),
    contextTokens,
  );
}

/** Estimate, top-k and attention at a budget that was measured. */
export function sparseTime(
  { rows }: AttentionTimes,
  contextTokens: number,
  budgetTokens: number,
  pageSize: number | undefined,
): number | undefined {
  const own = rows.filter(
    (row) => row.budgetTokens === budgetTokens && (pageSize === undefined || row.pageSize === pageSize),
  );
  return interpolate(
    own.map((row) => [row.contextTokens, row.sparseUs] as const),
    contextTokens,
  );
}

/** Times of steps as the file has them. */
export const fileTimes =
  (times: AttentionTimes): StepTime =>
  ({ contextTokens, budgetTokens, pageSize }) =>
    budgetTokens === undefined
      ? denseTime(times, contextTokens)
      : sparseTime(times, contextTokens, budgetTokens, pageSize);
