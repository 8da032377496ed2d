/** A benchmark's folder as a run of a report: its table with the paper's values beside, its figures, its manifest. */
import { paperAttentionSpeedup, paperStepMs } from './bench-paper.js';
import type { TextTable } from './html-csv.js';

type Get = (row: readonly string[], column: string) => string;

interface BenchTable {
  file: string;
  /** What was timed, in place of a model's name. */
  subject(row: readonly string[], get: Get): string;
  /** Values of the paper for a line. */
  paper: Readonly<Record<string, (row: readonly string[], get: Get) => number | undefined>>;
}

const stepOf = (row: readonly string[], get: Get, budget: string): number | undefined =>
  paperStepMs(get(row, 'shape'), get(row, 'weights'), get(row, 'context_tokens'), budget);

const E2E: BenchTable = {
  file: 'e2e.csv',
  subject: (row, get) => `${get(row, 'shape')} (${get(row, 'weights')}, random weights)`,
  paper: {
    paper_dense_ms: (row, get) => stepOf(row, get, 'full'),
    paper_sparse_ms: (row, get) =>
      get(row, 'budget_tokens') === 'full' ? undefined : stepOf(row, get, get(row, 'budget_tokens')),
    paper_speedup(row, get) {
      const [dense, sparse] = [stepOf(row, get, 'full'), stepOf(row, get, get(row, 'budget_tokens'))];
      if (dense === undefined || sparse === undefined || get(row, 'budget_tokens') === 'full')
        return undefined;
      return Number((dense / sparse).toFixed(2));
    },
  },
};

const TABLES: Readonly<Record<string, readonly BenchTable[]>> = {
  kernels: [
    {
      file: 'attention.csv',
      subject: (row, get) => `attention layers of ${get(row, 'heads')} heads`,
      paper: {
        paper_speedup: (row, get) =>
          get(row, 'page_size') === '16'
            ? paperAttentionSpeedup(get(row, 'heads'), get(row, 'context_tokens'), get(row, 'budget_tokens'))
            : undefined,
      },
    },
    { file: 'kernels.csv', subject: () => 'kernels', paper: {} },
  ],
  e2e: [E2E],
  compare: [
    {
      file: 'compare.csv',
      subject: (row, get) => `${get(row, 'what')} of ${get(row, 'case')}`,
      paper: {},
    },
  ],
};

/** The tables that a benchmark can leave, the first of which that is there is shown; undefined for no benchmark. */
export function benchTables(bench: string): readonly BenchTable[] | undefined {
  return Object.hasOwn(TABLES, bench) ? TABLES[bench] : undefined;
}

/** What was timed, for the place where other runs name their model. */
export function benchSubject(table: BenchTable, long: TextTable, get: Get): string {
  return [...new Set(long.rows.map((row) => table.subject(row, get)))].join(', ');
}

const isText = (column: string): boolean =>
  ['heads', 'shape', 'weights', 'kernel', 'what', 'case', 'unit', 'peer'].includes(column);

/** The table for readers: ours, and the paper's values where there are any. */
export function benchWide(table: BenchTable, long: TextTable, get: Get): TextTable & { right: boolean[] } {
  const extra = Object.entries(table.paper)
    .map(([name, value]) => ({ name, cells: long.rows.map((row) => String(value(row, get) ?? '')) }))
    .filter(({ cells }) => cells.some((cell) => cell !== ''));
  return {
    columns: [...long.columns, ...extra.map(({ name }) => name)],
    rows: long.rows.map((row, i) => [...row, ...extra.map(({ cells }) => cells[i]!)]),
    right: [...long.columns.map((name) => !isText(name)), ...extra.map(() => true)],
  };
}
