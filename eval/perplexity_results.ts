/** From journal rows to the perplexity report. Only what the journal holds goes in, so a resumed run gives the same files. */
import type { PerplexityPoint, PerplexitySeries } from '../src/report/ppl.js';
import { type Cell, cellOptions, methodDefinition } from './methods.js';
import type { Curve, PerplexityRow } from './perplexity.js';
import type { RowGrid } from './runner.js';

const share = (read: number, dense: number): number => (dense === 0 ? 100 : (100 * read) / dense);

const pointAt = (curve: Curve, i: number): PerplexityPoint => ({
  position: curve.tokens[i]!,
  tokens: curve.tokens[i]!,
  words: curve.words[i]!,
  nll: curve.nll[i]!,
  kvReadPct: share(curve.read_bytes[i]!, curve.dense_bytes[i]!),
});

function series(
  cell: Cell,
  book: string,
  rows: readonly PerplexityRow[],
  points: PerplexityPoint[],
): PerplexitySeries {
  const def = methodDefinition(cell.method.method);
  const { method, budget_tokens, ...options } = cellOptions(cell);
  return {
    book,
    method: String(method),
    label: def.label,
    budgetTokens: budget_tokens as number | undefined,
    points,
    neverSparse: def.kind !== 'dense' && rows.every((row) => row.counters.sparseSteps === 0),
    options,
  };
}

/** Per book and cell, in plan order. `grid[book][cell]`. */
export function bookSeries(cells: readonly Cell[], grid: RowGrid): PerplexitySeries[] {
  return grid.flatMap((books) =>
    cells.map((cell, column) => {
      const row = books[column] as PerplexityRow;
      const points = row.curve.tokens.map((_, i) => pointAt(row.curve, i));
      return series(cell, String(row.fields.book), [row], points);
    }),
  );
}

/** Per cell over all books: each point that every book reaches, then all tokens of all books. */
export function totalSeries(cells: readonly Cell[], grid: RowGrid): PerplexitySeries[] {
  if (grid.length === 1) return bookSeries(cells, grid);
  return cells.map((cell, column) => {
    const rows = grid.map((books) => books[column] as PerplexityRow);
    const curves = rows.map((row) => row.curve);
    const together = (places: readonly number[], position: number | undefined): PerplexityPoint => {
      const sum = (of: (curve: Curve) => number[]) =>
        curves.reduce((total, c, b) => total + of(c)[places[b]!]!, 0);
      return {
        position,
        tokens: sum((c) => c.tokens),
        words: sum((c) => c.words),
        nll: sum((c) => c.nll),
        kvReadPct: share(
          sum((c) => c.read_bytes),
          sum((c) => c.dense_bytes),
        ),
      };
    };
    const points = curves[0]!.tokens
      .map((at) => ({ at, places: curves.map((c) => c.tokens.indexOf(at)) }))
      .filter(({ places }) => !places.includes(-1))
      .map(({ at, places }) => together(places, at));
    const ends = curves.map((c) => c.tokens.length - 1);
    const same = curves.every((c) => c.tokens.at(-1) === points.at(-1)?.position);
    if (!same) points.push(together(ends, undefined));
    return series(cell, 'all', rows, points);
  });
}
