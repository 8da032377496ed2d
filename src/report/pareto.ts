/** Score against KV bytes read: which cells no other cell beats in both. */
import { cellReader, type ReportRun } from './html-run.js';

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

interface Scored {
  panel: string;
  metric: string;
  lowerIsBetter: boolean;
  point: Unmarked;
}

interface Kind {
  score: string;
  metric: string;
  lowerIsBetter?: boolean;
  /** Lines that stand for a whole cell, and the panel that they belong to. */
  panel(
    row: readonly string[],
    get: ReturnType<typeof cellReader>,
    rows: readonly string[][],
  ): string | undefined;
}

const KINDS: Readonly<Record<string, Kind>> = {
  passkey: {
    score: 'accuracy_pct',
    metric: 'accuracy (%)',
    panel: (row, get) => `passkey, ${get(row, 'context_tokens')} tokens`,
  },
  longbench: {
    score: 'score',
    metric: 'score',
    panel: (row, get) =>
      get(row, 'bucket') === 'all' ? `${get(row, 'data')}, ${get(row, 'task')}` : undefined,
  },
  recall: {
    score: 'recall',
    metric: 'recall',
    panel: (row, get) =>
      get(row, 'layer') === 'all'
        ? `recall of top ${get(row, 'top')}, ${get(row, 'context_tokens')} tokens`
        : undefined,
  },
  ppl: {
    score: 'ppl_token',
    metric: 'perplexity (lower is better)',
    lowerIsBetter: true,
    panel(row, get, rows) {
      const key = (other: readonly string[]) =>
        ['book', 'method', 'budget_tokens'].map((name) => get(other, name)).join('\n');
      const own = rows.filter((other) => key(other) === key(row));
      const last = own.at(-1) === row; // points are in the order of the text
      const [dataset, book] = [get(row, 'dataset'), get(row, 'book')];
      const text = dataset.startsWith(book) ? dataset : `${dataset} ${book}`;
      return last ? `${text}, ${get(row, 'tokens')} tokens` : undefined;
    },
  },
};

function scoredRows(run: ReportRun): Scored[] {
  const kind = KINDS[run.task];
  if (kind === undefined) return [];
  const get = cellReader(run.long);
  return run.long.rows.flatMap((row): Scored[] => {
    const panel = kind.panel(row, get, run.long.rows);
    const numbers = ['kv_read_pct', kind.score].map((name) => get(row, name));
    if (panel === undefined || numbers.includes('')) return [];
    const [kvReadPct, score] = numbers.map(Number) as [number, number];
    if (!Number.isFinite(kvReadPct) || !Number.isFinite(score)) return [];
    const budget = get(row, 'budget_tokens');
    return [
      {
        panel: `${run.manifest.model.name}: ${panel}`,
        metric: run.task === 'longbench' ? get(row, 'metric') : kind.metric,
        lowerIsBetter: kind.lowerIsBetter ?? false,
        point: {
          method: get(row, 'method'),
          budgetTokens: budget === '' ? undefined : Number(budget),
          kvReadPct,
          score,
        },
      },
    ];
  });
}

/** One panel per model and task; runs of the same one share it. A single point has nothing to be compared with. */
export function paretoPanels(runs: readonly ReportRun[]): ParetoPanel[] {
  const groups = new Map<string, Scored[]>();
  for (const scored of runs.flatMap(scoredRows))
    groups.set(scored.panel, [...(groups.get(scored.panel) ?? []), scored]);
  return [...groups].flatMap(([title, own]) => {
    const { metric, lowerIsBetter } = own[0]!;
    const unique = new Map(own.map(({ point }) => [JSON.stringify(point), point]));
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
