/**
 * Perplexity of long texts through each KV method: every token from position 0 on is one decode step (there is no dense
 * prefill), teacher-forced, in one pass over the text per method. Methods whose steps depend on positions alone are scored
 * in parallel chunks, which gives the same bits as step by step; evictors go step by step, side by side.
 */
import { z } from 'zod';
import { countWords, encodePrefix, type TextSource } from '../datasets/texts.js';
import { QuestError } from '../src/errors.js';
import type { Tokenizer } from '../src/model/index.js';
import type { Model, Sequence } from '../src/runtime/index.js';
import { JOURNAL_VERSION, type JournalRow } from './journal.js';
import { type Cell, cellName, cellOptions } from './methods.js';
import { rowKeys } from './plan.js';
import type { RowGrid, RunnerOptions } from './runner.js';
import type { Task, TaskItem } from './task.js';
import { NO_TOKEN_CACHE, type TokenCache, textHash } from './token_cache.js';

/** Points of the running curve, at most, beside the end. */
const MOST_POINTS = 32;
/** How much longer a token takes one step after another than in a chunk; for progress only. */
const STEP_COST = 8;
/** Methods that cannot be scored in parallel: what a step reads depends on the step before. */
const SEQUENTIAL: ReadonlySet<string> = new Set(['h2o', 'tova']);

/** Whether the cell's steps can only be taken one after another. */
export const isSequential = (cell: Cell): boolean => SEQUENTIAL.has(cell.method.method);

export interface PerplexityOptions {
  /** Tokens to predict in each book, at most. */
  tokens: number;
  /** Tokens that one pass may hold. */
  window: number;
  /** How far windows advance when a text is longer than one; absent: such a text is refused. */
  stride: number | undefined;
  /** Sequential cells that run side by side; each holds a whole KV cache. */
  lockstep: number;
}

/** One pass: ids [from, to) are fed, those before `scoredFrom` only as context. */
export interface Window {
  from: number;
  scoredFrom: number;
  to: number;
}

/** Sums from the text's start up to each point. */
export interface Curve {
  /** Tokens predicted. */
  tokens: number[];
  /** Total negative log-likelihood in nats. */
  nll: number[];
  /** Words that have begun in the predicted text. */
  words: number[];
  /** Bytes of KV and metadata that the steps read, and what `full` reads in them. */
  read_bytes: number[];
  dense_bytes: number[];
}

export interface PerplexityRow extends JournalRow {
  curve: Curve;
}

const numbers = z.array(z.number());
const ROW_SHAPE = {
  curve: z.object({
    tokens: numbers.min(1),
    nll: numbers,
    words: numbers,
    read_bytes: numbers,
    dense_bytes: numbers,
  } satisfies Record<keyof Curve, z.ZodType>),
};

export interface PerplexityItem extends TaskItem {
  book: string;
  /** Whether the ids begin with a beginning-of-sequence token. */
  bos: boolean;
  windows: Window[];
  points: number[];
  words: number[];
}

export interface PerplexityTask extends Task {
  lockstep: number;
  item(index: number): PerplexityItem;
}

/** Cuts `n` steps into windows. With a stride every token but those of the first window has `window - stride` before it. */
export function cutWindows(n: number, window: number, stride: number | undefined): Window[] {
  const windows: Window[] = [{ from: 0, scoredFrom: 0, to: Math.min(n, window) }];
  for (let last = windows[0]!; last.to < n; ) {
    const from = last.from + (stride ?? window);
    last = { from, scoredFrom: last.to, to: Math.min(n, from + window) };
    windows.push(last);
  }
  return windows;
}

/** Where the running curve is read: multiples of a round number up to `n`, and `n`. `most` is the longest text's length. */
export function curvePoints(n: number, most: number): number[] {
  let step = 1;
  for (let i = 0; most / step > MOST_POINTS; i++)
    step = [1, 2, 5][(i + 1) % 3]! * 10 ** Math.floor((i + 1) / 3);
  const points: number[] = [];
  for (let at = step; at < n; at += step) points.push(at);
  return [...points, n];
}

/** Refuses a run that one pass cannot hold and that named no stride. */
export function checkPerplexityOptions(
  options: PerplexityOptions,
  maxContext: number,
  modelName: string,
): void {
  const { tokens, window, stride } = options;
  if (window > maxContext) {
    throw new QuestError(
      'E_CONTEXT',
      `a window of ${window} tokens exceeds the ${maxContext} that ${modelName} supports`,
      {
        hint: `use --window ${maxContext} or less`,
      },
    );
  }
  if (stride !== undefined && stride > window) {
    throw new QuestError('E_STRIDE', `a stride of ${stride} tokens is longer than the window of ${window}`, {
      hint: `use --stride ${window} or less; a smaller stride leaves more context before each scored token`,
    });
  }
  if (tokens > window && stride === undefined) {
    throw new QuestError(
      'E_CONTEXT',
      `${tokens} tokens do not fit into one pass of ${window} (${modelName} supports ${maxContext})`,
      {
        hint: `use --tokens ${window}, or score in overlapping windows with --stride ${Math.max(1, Math.floor(window / 2))}`,
      },
    );
  }
}

/** Words that have begun in the text up to and with the token at each point. */
function wordsAt(ids: Int32Array, points: readonly number[], tokenizer: Tokenizer): number[] {
  return points.map((at) => countWords(tokenizer.decode(ids.subarray(0, at + 1), { skipSpecial: true })));
}

/** One item per book; its steps are the ids with the last one, which is only predicted. */
export function createPerplexityTask(
  source: TextSource,
  options: PerplexityOptions,
  tokenizer: Tokenizer,
  cache: TokenCache = NO_TOKEN_CACHE,
): PerplexityTask {
  const { tokens, window, stride, lockstep } = options;
  const windowed = stride !== undefined && tokens > window;
  const makeItem = (index: number): PerplexityItem => {
    const book = source.books[index]!;
    const text = book.read();
    const made = cache.through(['ppl', textHash(text), tokens], () => {
      const cut = encodePrefix(text, tokens + 1, (part) => tokenizer.encode(part));
      const points = cut.length > 1 ? curvePoints(cut.length - 1, tokens) : [];
      return { ids: [cut], facts: { words: wordsAt(cut, points, tokenizer) } };
    });
    const ids = made.ids[0]!;
    const n = ids.length - 1;
    if (n < 1) {
      throw new QuestError('E_INPUT', `${book.id} has no second token to predict`, {
        hint: 'give a longer text',
      });
    }
    const points = curvePoints(n, tokens);
    return {
      id: `${source.dataset}/${book.id}`,
      index,
      book: book.id,
      bos: tokenizer.addsBos,
      prefillIds: new Int32Array(),
      stepIds: ids,
      maxNewTokens: 0,
      windows: cutWindows(n, window, stride),
      points,
      words: made.facts.words as number[],
      fields: { dataset: source.dataset, book: book.id },
      score: () => 0,
    };
  };
  let last: PerplexityItem | undefined;
  return {
    name: 'ppl',
    params: {
      dataset: source.dataset,
      books: source.books.map((book) => book.id),
      tokens,
      ...(windowed && { window, stride }),
    },
    count: source.books.length,
    rowShape: ROW_SHAPE,
    lockstep,
    item(index) {
      // Asked for when memory is estimated, when the plan is measured, and when it is run.
      if (last?.index !== index) last = makeItem(index);
      return last;
    },
  };
}

const seconds = (since: number): number => Number(((performance.now() - since) / 1000).toFixed(4));

/** Cells that run together: each parallel one alone, evictors in groups that memory allows. */
function groupCells(cells: readonly Cell[], lockstep: number): Cell[][] {
  const groups = cells.filter((cell) => !isSequential(cell)).map((cell) => [cell]);
  const stepwise = cells.filter(isSequential);
  for (let i = 0; i < stepwise.length; i += lockstep) groups.push(stepwise.slice(i, i + lockstep));
  return groups;
}

const groupCost = (group: readonly Cell[]): number =>
  group.length * (isSequential(group[0]!) ? STEP_COST : 1);

/** Feeds one book to the cells of a group and returns each one's curve with its counters and the time taken. */
async function scoreBook(
  model: Model,
  item: PerplexityItem,
  group: readonly Cell[],
  signal: AbortSignal,
  onTokens: (share: number) => void,
) {
  const started = performance.now();
  const ids = item.stepIds;
  const steps = item.windows.reduce((total, w) => total + w.to - w.from, 0);
  const results = group.map(() => ({
    nll: 0,
    counters: {} as Record<string, number>,
    curve: { tokens: [], nll: [], words: [], read_bytes: [], dense_bytes: [] } as Curve,
  }));
  let fed = 0;
  for (const window of item.windows) {
    using root = model.createSequence(group[0]!.pageSize);
    const branches: Sequence[] = [];
    try {
      for (const cell of group) branches.push(root.fork(cell.method));
      const before = results.map((r) => ({ ...r.counters }));
      for (let at = window.from; at < window.to; ) {
        const scored = at >= window.scoredFrom;
        const end = scored ? Math.min(item.points.find((p) => p > at)!, window.to) : window.scoredFrom;
        const piece = ids.slice(at, end);
        // Later windows begin with the token that begins the text: models rest on it.
        if (at === window.from && at > 0 && item.bos) piece[0] = ids[0]!;
        const targets = scored ? ids.slice(at + 1, end + 1) : undefined;
        const done = fed;
        const fedNow = await model.feed(
          branches.map((sequence) => ({ sequence, ids: piece, targets })),
          { signal, onProgress: (n, all) => onTokens((done + ((end - at) * n) / all) / steps) },
        );
        fed += end - at;
        at = end;
        branches.forEach((branch, i) => {
          const r = results[i]!;
          for (const x of fedNow[i]!.nll ?? []) r.nll += x;
          for (const [key, value] of Object.entries(branch.counters()))
            r.counters[key] = (before[i]![key] ?? 0) + value;
          const point = scored ? item.points.indexOf(end) : -1;
          if (point < 0) return;
          r.curve.tokens.push(end);
          r.curve.nll.push(r.nll);
          r.curve.words.push(item.words[point]!);
          r.curve.read_bytes.push(r.counters.kvBytes! + r.counters.metadataBytes!);
          r.curve.dense_bytes.push(r.counters.denseKvBytes!);
        });
      }
    } finally {
      for (const branch of branches) branch.dispose();
    }
  }
  return { results, feed_s: seconds(started) };
}

/** Computes the missing books x cells and returns all rows in plan order. Takes the place of the generating runner. */
export async function runPerplexity(options: RunnerOptions): Promise<RowGrid> {
  const { plan, journal, signal, onProgress } = options;
  const task = plan.task as PerplexityTask;
  const grid: RowGrid = [];
  let model: Model | undefined;
  for (let index = 0; index < task.count; index++) {
    signal.throwIfAborted();
    const item = task.item(index);
    const keyOf = rowKeys(plan, item);
    const missing = plan.cells.filter((cell) => journal.get(keyOf(cell)) === undefined);
    const progress = { items: index, total: task.count };
    onProgress?.({ ...progress, fraction: 0, phase: missing.length > 0 ? 'question' : 'reuse' });
    const groups = groupCells(missing, task.lockstep);
    const cost = groups.reduce((total, group) => total + groupCost(group), 0);
    let done = 0;
    for (const group of groups) {
      model ??= await options.loadModel();
      const label = `book ${item.book}: ${group.map(cellName).join(', ')}`;
      const { results, feed_s } = await scoreBook(model, item, group, signal, (share) =>
        onProgress?.({
          ...progress,
          fraction: (done + share * groupCost(group)) / cost,
          phase: 'question',
          label,
        }),
      );
      done += groupCost(group);
      const { device } = model.info;
      const rows: PerplexityRow[] = group.map((cell, i) => ({
        v: JOURNAL_VERSION,
        key: keyOf(cell),
        item: item.id,
        sample: index,
        cell: cellOptions(cell),
        prefill_tokens: 0,
        step_tokens: item.stepIds.length - 1,
        fields: item.fields,
        output: '',
        output_ids: [],
        score: results[i]!.nll / (item.stepIds.length - 1),
        counters: results[i]!.counters as unknown as JournalRow['counters'],
        timing: { prefill_s: 0, feed_s, generate_s: 0, branches: group.length },
        device,
        curve: results[i]!.curve,
      }));
      journal.append(rows);
    }
    grid.push(plan.cells.map((cell) => journal.get(keyOf(cell))!));
  }
  return grid;
}
