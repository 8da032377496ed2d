/** From journal rows to report rows. Only what the journal holds goes in, so a resumed run gives the same tables. */
import { type CellResult, type SampleResult, wilson95 } from '../src/report/rows.js';
import { type Cell, methodDefinition } from './methods.js';
import type { RowGrid } from './runner.js';

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

/** One result per cell, in plan order. `grid[item][cell]`. */
export function aggregateCells(cells: readonly Cell[], grid: RowGrid): CellResult[] {
  return cells.map((cell, column) => {
    const { method, pageSize } = cell;
    const def = methodDefinition(method.method);
    const rows = grid.map((row) => row[column]!);
    const dense = sum(rows.map((row) => row.counters.denseKvBytes));
    const read = sum(rows.map((row) => row.counters.kvBytes + row.counters.metadataBytes));
    const hits = sum(rows.map((row) => row.score));
    const uses = (field: (typeof def.fields)[number]) => def.fields.includes(field);
    return {
      method: method.method,
      label: def.label,
      budgetTokens: def.minBudget === undefined ? undefined : method.budgetTokens,
      samples: rows.length,
      scorePct: rows.length === 0 ? 0 : (100 * hits) / rows.length,
      ci95: wilson95(hits, rows.length),
      kvReadPct: dense === 0 ? 100 : (100 * read) / dense,
      neverSparse: def.kind === 'dense' ? 0 : rows.filter((row) => row.counters.sparseSteps === 0).length,
      skipLayers: uses('skip_layers') ? method.skipLayers : undefined,
      pageSize: uses('page_size') ? pageSize : undefined,
      group: uses('group') ? method.group : undefined,
      sinks: uses('sinks') ? method.sinks : undefined,
      h2oPrefill: uses('h2o_prefill') ? method.h2oPrefill : undefined,
    };
  });
}

/** Every sample of every cell, cell by cell in plan order; the journal's `depth_pct` places it. */
export function sampleResults(cells: readonly Cell[], grid: RowGrid): SampleResult[] {
  return cells.flatMap((cell, column) => {
    const def = methodDefinition(cell.method.method);
    return grid.map((row) => ({
      label: def.label,
      budgetTokens: def.minBudget === undefined ? undefined : cell.method.budgetTokens,
      depthPct: Number(row[column]!.fields.depth_pct ?? 0),
      score: row[column]!.score,
    }));
  });
}
