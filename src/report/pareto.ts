/** Score against KV bytes read: which cells no other cell beats in both. */
import { type ScoredCell, scoredCells } from './cells.js';
import type { ReportRun } from './html-run.js';

export interface ParetoPoint {
  method: string;
  budgetTokens: number | undefined;
  /** KV and metadata bytes read, in percent of what `full` reads. */
  kvReadPct: number;
  score: number;
  /** No other point reads less and scores as well, or scores better and reads as little. */
  front: boolean;
}

export interface ParetoPanel {
  title: string;
  /** `accuracy (%)`, `F1`, `perplexity (lower is better)`. */
  metric: string;
  lowerIsBetter: boolean;
  points: ParetoPoint[];
}

type Unmarked = Omit<ParetoPoint, 'front'>;

/** Marks the points that are not dominated. Equal points are all on the front. */
export function markFront(points: readonly Unmarked[], lowerIsBetter: boolean): ParetoPoint[] {
  const gain = (p: Unmarked) => (lowerIsBetter ? -p.score : p.score);
  const beats = (a: Unmarked, b: Unmarked) =>
    a.kvReadPct <= b.kvReadPct && gain(a) >= gain(b) && (a.kvReadPct < b.kvReadPct || gain(a) > gain(b));
  return points.map((point) => ({ ...point, front: !points.some((other) => beats(other, point)) }));
}

/** One panel per model and task; runs of the same one share it. A single point has nothing to be compared with. */
export function paretoPanels(runs: readonly ReportRun[]): ParetoPanel[] {
  const groups = new Map<string, ScoredCell[]>();
  for (const run of runs) {
    for (const cell of scoredCells(run)) {
      const panel = `${run.manifest.model.name}: ${cell.title}`;
      groups.set(panel, [...(groups.get(panel) ?? []), cell]);
    }
  }
  return [...groups].flatMap(([title, own]) => {
    const { metric, lowerIsBetter } = own[0]!;
    const points = own.map(
      ({ method, budgetTokens, kvReadPct, score }): Unmarked => ({ method, budgetTokens, kvReadPct, score }),
    );
    const unique = new Map(points.map((point) => [JSON.stringify(point), point]));
    if (unique.size < 2) return [];
    return [{ title, metric, lowerIsBetter, points: markFront([...unique.values()], lowerIsBetter) }];
  });
}

/** `quest 64 (37.4% read, 100)`, in the order of KV read. */
export function frontText({ points }: ParetoPanel): string {
  return points
    .filter((point) => point.front)
    .sort((a, b) => a.kvReadPct - b.kvReadPct)
    .map(({ method, budgetTokens, kvReadPct, score }) => {
      const name = budgetTokens === undefined ? method : `${method} ${budgetTokens}`;
      return `${name} (${kvReadPct.toFixed(1)}% read, ${Number(score.toFixed(3))})`;
    })
    .join(', ');
}
