/** Score against KV bytes read: which cells no other cell beats in both. */

import { plural } from '../words.js';
import { type ScoredCell, scoredCells } from './cells.js';
import type { ReportRun } from './html-run.js';
import { namesApart, runSettings, type Settings } from './names.js';

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
  bestScore: number | undefined;
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

/** Cells that were asked the same. */
interface Group {
  name: string;
  settings: Settings;
  cells: ScoredCell[];
}

const title = (model: string, { title, samples }: ScoredCell): string =>
  `${model}: ${title}${samples === undefined ? '' : `, ${plural(samples, 'sample')}`}`;

/**
 * A panel for all that compares: the same model, task, data, samples and context. Runs of the same share it; what differs in
 * any of these is another panel, named by the difference. A single point has nothing to be compared with.
 */
export function paretoPanels(runs: readonly ReportRun[]): ParetoPanel[] {
  const groups = new Map<string, Group>();
  for (const run of runs) {
    for (const cell of scoredCells(run)) {
      const settings = runSettings(run, cell.part);
      const name = title(run.manifest.model.name, cell);
      const key = JSON.stringify([run.task, name, settings]);
      const group = groups.get(key) ?? { name, settings, cells: [] };
      group.cells.push(cell);
      groups.set(key, group);
    }
  }
  const all = [...groups.values()];
  const titles = namesApart(all, ', ');
  return all.flatMap(({ cells }, i) => {
    const { metric, lowerIsBetter, bestScore } = cells[0]!;
    const points = cells.map(
      ({ method, budgetTokens, kvReadPct, score }): Unmarked => ({ method, budgetTokens, kvReadPct, score }),
    );
    const unique = new Map(points.map((point) => [JSON.stringify(point), point]));
    if (unique.size < 2) return [];
    const marked = markFront([...unique.values()], lowerIsBetter);
    return [{ title: titles[i]!, metric, lowerIsBetter, bestScore, points: marked }];
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
