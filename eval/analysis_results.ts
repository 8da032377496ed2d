/** From journal rows to the reports of the analyses. */
import type { RecallCell, SparsityCell } from '../src/report/analysis.js';
import type { RecallRow } from './analysis_recall.js';
import { type Cell, methodDefinition } from './methods.js';
import type { RowGrid } from './runner.js';

/** `grid[layer][method]`. */
export function sparsityCells(cells: readonly Cell[], grid: RowGrid): SparsityCell[] {
  return grid.flatMap((rows, layer) =>
    cells.map((cell, column) => {
      const { fields, score } = rows[column]!;
      return {
        layer,
        method: cell.method.method,
        label: methodDefinition(cell.method.method).label,
        budgetTokens: Number(fields.budget_tokens),
        droppedShare: score,
        ppl: Number(fields.ppl),
        fullPpl: Number(fields.full_ppl),
      };
    }),
  );
}

/** `grid[sample][cell]`. */
export function recallCells(cells: readonly Cell[], grid: RowGrid): RecallCell[] {
  return cells.map((cell, column) => {
    const def = methodDefinition(cell.method.method);
    const rows = grid.map((row) => row[column] as RecallRow);
    const mean = (of: (row: RecallRow) => number) =>
      rows.reduce((total, row) => total + of(row), 0) / rows.length;
    const read = mean(({ counters }) => counters.kvBytes + counters.metadataBytes);
    return {
      method: def.name,
      label: def.label,
      budgetTokens: def.minBudget === undefined ? undefined : cell.method.budgetTokens,
      samples: rows.length,
      recall: mean((row) => row.score),
      byLayer: rows[0]!.recall.map((_, layer) => mean((row) => row.recall[layer]!)),
      kvReadPct: (100 * read) / mean(({ counters }) => counters.denseKvBytes),
      neverSparse: def.kind !== 'dense' && rows.every((row) => row.counters.sparseSteps === 0),
    };
  });
}
