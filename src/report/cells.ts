/** The cells of a finished run, read from its table, whichever evaluation it was: a score and the KV bytes it cost. */
import { cellReader, type ReportRun } from './html-run.js';

export interface ScoredCell {
  /** The evaluation, with the task or text of it where a run has several: `passkey`, `longbench/qasper`, `ppl/860`. */
  task: string;
  /** The task of a run that has several, by its name in the plan. */
  part?: string;
  /** What a panel of these cells is called: `passkey, 10000 tokens`. */
  title: string;
  /** What was read, where that is not the task itself: `sample`, `moby-dick (pg19-train)`. */
  data: string | undefined;
  /** `accuracy (%)`, `F1`, `perplexity (lower is better)`. */
  metric: string;
  lowerIsBetter: boolean;
  /** The best score that there can be, the worst being 0; absent where scores have no end. */
  bestScore: number | undefined;
  method: string;
  budgetTokens: number | undefined;
  samples: number | undefined;
  score: number;
  /** KV and metadata bytes read, in percent of what `full` reads. */
  kvReadPct: number;
  /** Some or all samples never attended fewer tokens than the cache held. */
  neverSparse: boolean;
}

type Get = (column: string) => string;

interface Kind {
  score: string;
  metric: string;
  lowerIsBetter?: boolean;
  bestScore?: number;
  /** What the line belongs to; nothing for lines that stand for a part of a cell. */
  place(
    get: Get,
    row: readonly string[],
    rows: readonly string[][],
    reader: ReturnType<typeof cellReader>,
  ): Pick<ScoredCell, 'task' | 'part' | 'title' | 'data'> | undefined;
}

/** Perplexity's lines are in the order of the text: the last of a book and cell stands for the whole. */
function perplexityPlace(
  get: Get,
  row: readonly string[],
  rows: readonly string[][],
  reader: ReturnType<typeof cellReader>,
) {
  const own = ['book', 'method', 'budget_tokens'];
  const same = (other: readonly string[]) => own.every((name) => reader(other, name) === get(name));
  if (rows.filter(same).at(-1) !== row) return undefined;
  const [dataset, book] = [get('dataset'), get('book')];
  const several = rows.some((other) => reader(other, 'book') !== book);
  const text = dataset.startsWith(book) ? dataset : `${dataset} ${book}`;
  return {
    task: several ? `ppl/${book}` : 'ppl',
    title: `${text}, ${get('tokens')} tokens`,
    data: dataset,
  };
}

const KINDS: Readonly<Record<string, Kind>> = {
  passkey: {
    score: 'accuracy_pct',
    metric: 'accuracy (%)',
    bestScore: 100,
    place: (get) => ({
      task: 'passkey',
      title: `passkey, ${get('context_tokens')} tokens`,
      data: undefined,
    }),
  },
  longbench: {
    score: 'score',
    metric: 'score',
    bestScore: 100,
    place: (get) =>
      get('bucket') === 'all'
        ? {
            task: `longbench/${get('task')}`,
            part: get('task'),
            title: `${get('data')}, ${get('task')}`,
            data: get('data'),
          }
        : undefined,
  },
  recall: {
    score: 'recall',
    metric: 'recall',
    bestScore: 1,
    place: (get) =>
      get('layer') === 'all'
        ? {
            task: 'recall',
            title: `recall of top ${get('top')}, ${get('context_tokens')} tokens`,
            data: undefined,
          }
        : undefined,
  },
  ppl: {
    score: 'ppl_token',
    metric: 'perplexity (lower is better)',
    lowerIsBetter: true,
    place: perplexityPlace,
  },
};

const optional = (text: string): number | undefined => (text === '' ? undefined : Number(text));

/** The cells of a run in the order of its table; none for evaluations without scores of this kind. */
export function scoredCells(run: ReportRun): ScoredCell[] {
  const reader = cellReader(run.long);
  const kind = KINDS[run.task];
  if (kind === undefined) return [];
  return run.long.rows.flatMap((row): ScoredCell[] => {
    const get: Get = (column) => reader(row, column);
    const place = kind.place(get, row, run.long.rows, reader);
    const [kvReadPct, score] = [optional(get('kv_read_pct')), optional(get(kind.score))];
    if (place === undefined || !Number.isFinite(kvReadPct) || !Number.isFinite(score)) return [];
    return [
      {
        ...place,
        metric: run.task === 'longbench' ? get('metric') : kind.metric,
        lowerIsBetter: kind.lowerIsBetter ?? false,
        bestScore: kind.bestScore,
        method: get('method'),
        budgetTokens: optional(get('budget_tokens')),
        samples: optional(get('samples')),
        score: score!,
        kvReadPct: kvReadPct!,
        neverSparse: Number(get('never_sparse_samples')) > 0 || get('never_sparse') === 'true',
      },
    ];
  });
}
