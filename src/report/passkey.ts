/** The passkey experiment as tables: long form for files, and the shape of the paper's Table 1 for readers. */
import { plural } from '../words.js';
import { type PaperReference, paperLine } from './paper.js';
import { type CellResult, manyReadsNote } from './rows.js';
import { columnsOf, fixed, type Table } from './table.js';

export interface PasskeyReport {
  modelName: string;
  contextTokens: number;
  cells: readonly CellResult[];
  paper: PaperReference | undefined;
}

/** One row per cell with everything that defines and describes it: `table.csv`. No times, so a resumed run gives the same bytes. */
export function passkeyLongTable(report: PasskeyReport): Table {
  const keys = [
    'method',
    'budget_tokens',
    'context_tokens',
    'samples',
    'accuracy_pct',
    'ci95',
    'kv_read_pct',
    'never_sparse_samples',
    'skip_layers',
    'page_size',
    'group',
    'sinks',
    'h2o_prefill',
    'model',
    'paper_accuracy_pct',
  ];
  return {
    columns: columnsOf(keys, { accuracy_pct: fixed(1), kv_read_pct: fixed(2) }),
    rows: report.cells.map((cell) => [
      cell.method,
      cell.budgetTokens,
      report.contextTokens,
      cell.samples,
      cell.scorePct,
      cell.ci95.map((value) => value.toFixed(1)).join('-'),
      cell.kvReadPct,
      cell.neverSparse,
      cell.skipLayers,
      cell.pageSize,
      cell.group,
      cell.sinks,
      cell.h2oPrefill,
      report.modelName,
      report.paper?.accuracyPct(cell.method, cell.budgetTokens),
    ]),
    notes: passkeyNotes(report),
  };
}

/** Methods as rows and budgets as columns; a method without a budget shows its one value in an `all` column. */
export function passkeyWideTable(report: PasskeyReport): Table {
  const budgets = [...new Set(report.cells.flatMap((c) => c.budgetTokens ?? []))].sort((a, b) => a - b);
  const methods = [...new Set(report.cells.map((c) => c.method))];
  const hasDense = report.cells.some((c) => c.budgetTokens === undefined);
  const show = (cell: CellResult | undefined): string => {
    if (cell === undefined) return '';
    const mark = cell.neverSparse > 0 ? '*' : '';
    return `${Number(cell.scorePct.toFixed(1))}${mark}`;
  };
  const rows: Table['rows'] = [];
  for (const method of methods) {
    const own = report.cells.filter((c) => c.method === method);
    const dense = own.find((c) => c.budgetTokens === undefined);
    const values = budgets.map((b) => show(own.find((c) => c.budgetTokens === b)));
    rows.push([own[0]!.label, ...values, ...(hasDense ? [show(dense)] : [])]);
    const paper = budgets.map((b) => report.paper?.accuracyPct(method, b));
    if (paper.some((value) => value !== undefined)) {
      rows.push([`  ${paperLine(report.paper?.otherModel)}`, ...paper, ...(hasDense ? [undefined] : [])]);
    }
  }
  return {
    columns: [
      { key: 'method', title: 'accuracy %, budget:' },
      ...budgets.map((b) => ({ key: String(b), align: 'right' as const })),
      ...(hasDense ? [{ key: 'all', align: 'right' as const }] : []),
    ],
    rows,
    notes: passkeyNotes(report),
  };
}

/** What a reader of the table must know. */
export function passkeyNotes(report: PasskeyReport): string[] {
  const notes: string[] = [];
  for (const cell of report.cells.filter((c) => c.neverSparse > 0)) {
    notes.push(
      `* ${cell.method} with budget ${cell.budgetTokens} never attended fewer tokens than the cache held in ${cell.neverSparse} of ${plural(cell.samples, 'sample')}: it was the same as full there`,
    );
  }
  const most = report.cells.filter((c) => c.kvReadPct > 100).map((c) => `${c.method} ${c.budgetTokens}`);
  notes.push(...manyReadsNote(most));
  if (report.paper !== undefined) notes.push(`paper: ${report.paper.title}`);
  return notes;
}
