/** The analyses of the paper's Figures 3 and 4 as tables. */
import { ORACLE_NOTE, recallRemarks, sparsityRemarks } from './analysis-remarks.js';
import { otherThanLongChat, paperLine } from './paper.js';
import { manyReadsNote } from './rows.js';
import { columnsOf, fixed, type Table } from './table.js';

/** One layer under one method: the smallest budget that keeps the perplexity. */
export interface SparsityCell {
  layer: number;
  method: string;
  label: string;
  budgetTokens: number;
  /** 0 to 1. */
  droppedShare: number;
  ppl: number;
  fullPpl: number;
}

export interface SparsityReport {
  modelName: string;
  text: string;
  tokens: number;
  scored: number;
  tolerance: number;
  pageSize: number;
  cells: SparsityCell[];
}

/** Figure 3, Llama-2-7B class models: means read off the figure. */
export const PAPER_SPARSITY = {
  model: '7B',
  title: 'Figure 3 (PG-19, perplexity rising by less than 0.01)',
  /** Layers 0 and 1, all methods. */
  firstLayers: 0.03,
  /** Mean of the other layers. */
  others: { oracle: 0.972, quest: 0.921 } as Readonly<Record<string, number>>,
};

const FIRST = 2;
const mean = (values: readonly number[]): number | undefined =>
  values.length === 0 ? undefined : values.reduce((a, b) => a + b, 0) / values.length;

const methodsOf = <T extends { method: string; label: string }>(
  cells: readonly T[],
): { method: string; label: string }[] =>
  cells.filter((cell, i) => cells.findIndex((other) => other.method === cell.method) === i);

/** Means of layers 0 and 1 and of the others, per method. */
export function sparsityMeans(report: SparsityReport, method: string): { first?: number; others?: number } {
  const own = report.cells.filter((cell) => cell.method === method);
  const of = (test: (layer: number) => boolean) =>
    mean(own.filter((c) => test(c.layer)).map((c) => c.droppedShare));
  return { first: of((layer) => layer < FIRST), others: of((layer) => layer >= FIRST) };
}

/** One row per layer and method: `table.csv`. */
export function sparsityLongTable(report: SparsityReport): Table {
  const keys = [
    'layer',
    'method',
    'dropped_share',
    'budget_tokens',
    'ppl',
    'full_ppl',
    'ppl_rise',
    'tolerance',
  ];
  return {
    columns: columnsOf([...keys, 'tokens', 'scored', 'page_size', 'text', 'model', 'paper_dropped_share'], {
      dropped_share: fixed(4),
      ppl: fixed(4),
      full_ppl: fixed(4),
      ppl_rise: fixed(4),
    }),
    rows: report.cells.map((c) => [
      c.layer,
      c.method,
      c.droppedShare,
      c.budgetTokens,
      c.ppl,
      c.fullPpl,
      c.ppl - c.fullPpl,
      report.tolerance,
      report.tokens,
      report.scored,
      report.pageSize,
      report.text,
      report.modelName,
      c.layer < FIRST ? PAPER_SPARSITY.firstLayers : PAPER_SPARSITY.others[c.method],
    ]),
    notes: sparsityNotes(report),
  };
}

/** What a reader of the table must know. */
const sparsityNotes = (report: SparsityReport): string[] => [
  `text: ${report.text}; the last ${report.scored} of ${report.tokens} tokens are scored, one layer sparse at a time`,
  ...(report.cells.some(({ method }) => method === 'oracle') ? [ORACLE_NOTE] : []),
  `paper: ${PAPER_SPARSITY.title}`,
  ...sparsityRemarks(report, (method) => sparsityMeans(report, method)),
];

/** Layers as rows, methods as columns, with the means that the paper names. */
export function sparsityWideTable(report: SparsityReport): Table {
  const methods = methodsOf(report.cells);
  const layers = [...new Set(report.cells.map((c) => c.layer))];
  const show = (value: number | undefined) => value?.toFixed(3);
  const find = (layer: number, method: string) =>
    report.cells.find((c) => c.layer === layer && c.method === method);
  const paper = `  ${paperLine(PAPER_SPARSITY.model)}`;
  const means = methods.map(({ method }) => sparsityMeans(report, method));
  return {
    columns: [
      { key: 'layer', title: 'KV dropped, layer:' },
      ...methods.flatMap(({ method, label }) => [
        { key: method, title: label, align: 'right' as const },
        { key: `${method}_budget`, title: 'budget', align: 'right' as const },
      ]),
    ],
    rows: [
      ...layers.map((layer) => [
        String(layer),
        ...methods.flatMap(({ method }) => {
          const cell = find(layer, method);
          return [show(cell?.droppedShare), cell?.budgetTokens];
        }),
      ]),
      ['mean of 0-1', ...means.flatMap((m) => [show(m.first), undefined])],
      [paper, ...methods.flatMap(() => [show(PAPER_SPARSITY.firstLayers), undefined])],
      ['mean of others', ...means.flatMap((m) => [show(m.others), undefined])],
      [paper, ...methods.flatMap(({ method }) => [show(PAPER_SPARSITY.others[method]), undefined])],
    ],
    notes: sparsityNotes(report),
  };
}

/** One method at one budget. */
export interface RecallCell {
  method: string;
  label: string;
  budgetTokens: number | undefined;
  samples: number;
  /** 0 to 1, over the layers in which the method acts. */
  recall: number;
  byLayer: number[];
  kvReadPct: number;
  neverSparse: boolean;
}

export interface RecallReport {
  modelName: string;
  contextTokens: number;
  top: number;
  skipLayers: number;
  cells: RecallCell[];
}

/** Figure 4: passkey at 10K tokens, ten highest-attention tokens, LongChat-7b. Read off the figure. */
const FIGURE_4: Readonly<Record<string, readonly number[]>> = {
  quest: [0.955, 0.985, 0.995],
  'quest-paper': [0.955, 0.985, 0.995],
  h2o: [0.445, 0.47, 0.495],
};
const FIGURE_4_BUDGETS = [64, 256, 1024];
const FIGURE_4_CONTEXTS = [10_000, 10_240];
const FIGURE_4_TOP = 10;
export const PAPER_RECALL_TITLE =
  'Figure 4 (LongChat-7b-v1.5-32k, passkey 10K, ten tokens; read off the figure)';

/** The paper's recall where it has one: of the same number of tokens in the same context. */
export function paperRecall(
  report: Pick<RecallReport, 'contextTokens' | 'top'>,
  cell: Pick<RecallCell, 'method' | 'budgetTokens'>,
): number | undefined {
  if (!FIGURE_4_CONTEXTS.includes(report.contextTokens) || report.top !== FIGURE_4_TOP) return undefined;
  if (cell.method === 'full') return 1;
  return FIGURE_4[cell.method]?.[FIGURE_4_BUDGETS.indexOf(cell.budgetTokens ?? -1)];
}

/** One row per cell and layer, and one (layer `all`) per cell: `table.csv`. */
export function recallLongTable(report: RecallReport): Table {
  const keys = [
    'method',
    'budget_tokens',
    'layer',
    'recall',
    'top',
    'context_tokens',
    'samples',
    'kv_read_pct',
  ];
  return {
    columns: columnsOf([...keys, 'never_sparse', 'skip_layers', 'model', 'paper_recall'], {
      recall: fixed(4),
      kv_read_pct: fixed(2),
    }),
    rows: report.cells.flatMap((cell) => {
      const row = (layer: string | number, recall: number, paper: number | undefined) => [
        cell.method,
        cell.budgetTokens,
        layer,
        recall,
        report.top,
        report.contextTokens,
        cell.samples,
        cell.kvReadPct,
        cell.neverSparse,
        report.skipLayers,
        report.modelName,
        paper,
      ];
      return [
        row('all', cell.recall, paperRecall(report, cell)),
        ...cell.byLayer.map((recall, layer) => row(layer, recall, undefined)),
      ];
    }),
    notes: recallNotes(report),
  };
}

/** Methods as rows, budgets as columns, as Figure 4 shows them. */
export function recallWideTable(report: RecallReport): Table {
  const budgets = [...new Set(report.cells.flatMap((c) => c.budgetTokens ?? []))].sort((a, b) => a - b);
  const rows: Table['rows'] = [];
  for (const { method, label } of methodsOf(report.cells)) {
    const own = report.cells.filter((c) => c.method === method);
    const at = (budget: number) => own.find((c) => c.budgetTokens === undefined || c.budgetTokens === budget);
    rows.push([
      label,
      ...budgets.map((b) =>
        at(b) ? `${at(b)!.recall.toFixed(3)}${at(b)!.neverSparse ? '*' : ''}` : undefined,
      ),
    ]);
    const paper = budgets.map((budget) => paperRecall(report, { method, budgetTokens: budget })?.toFixed(3));
    if (paper.some((value) => value !== undefined))
      rows.push([`  ${paperLine(otherThanLongChat(report.modelName))}`, ...paper]);
  }
  return {
    columns: [
      { key: 'method', title: `recall of top ${report.top}, budget:` },
      ...budgets.map((b) => ({ key: String(b), align: 'right' as const })),
    ],
    rows,
    notes: recallNotes(report),
  };
}

/** What a reader of the table must know. */
export function recallNotes(report: RecallReport): string[] {
  const never = report.cells.filter((cell) => cell.neverSparse);
  const most = report.cells.filter((cell) => cell.kvReadPct > 100);
  return [
    ...never.map(
      (cell) =>
        `* ${cell.label} with budget ${cell.budgetTokens} never attended fewer tokens than the cache held: it was the same as full`,
    ),
    ...manyReadsNote(most.map((cell) => `${cell.label} ${cell.budgetTokens}`)),
    ...(report.cells.some(({ method }) => method === 'oracle') ? [ORACLE_NOTE] : []),
    ...(report.cells.some((cell) => paperRecall(report, cell) !== undefined)
      ? [`paper: ${PAPER_RECALL_TITLE}`]
      : []),
    ...recallRemarks(report),
  ];
}
