/**
 * How much of one layer's KV cache can be dropped (the paper's Figure 3).
 *
 * The first part of each text is prefilled densely; the last `scored` tokens are decode steps through a method that acts in
 * one layer alone (`onlyLayer`), all other layers dense. For that layer and method, the answer is the smallest budget on the
 * method's grid (single tokens for the oracle, whole pages for page selectors) for which the perplexity of those tokens stays
 * less than `tolerance` above the dense one, found by bisection: the budget below it on the grid failed. Its share of KV
 * dropped is counted over the steps, 1 - attended / held. The oracle is `oracle`: per query head the tokens with the highest
 * true logits, the newest one always among them.
 */
import { z } from 'zod';
import { encodePrefix, type TextSource } from '../datasets/texts.js';
import { QuestError } from '../src/errors.js';
import type { Tokenizer } from '../src/model/index.js';
import type { Model, Sequence } from '../src/runtime/index.js';
import { JOURNAL_VERSION, type JournalRow } from './journal.js';
import { type Cell, cellOptions, methodDefinition } from './methods.js';
import { rowKeys } from './plan.js';
import type { RowGrid, RunnerOptions, RunnerProgress } from './runner.js';
import type { Task, TaskItem } from './task.js';

export interface SparsityOptions {
  /** Length of each text. */
  tokens: number;
  /** Its last tokens, which are predicted. */
  scored: number;
  /** Perplexity may rise by less than this. */
  tolerance: number;
  nLayers: number;
}

export interface SparsityRow extends JournalRow {
  /** Every budget that was tried, with its perplexity. */
  tried: { budget_tokens: number; ppl: number }[];
}

export interface SparsityTask extends Task {
  options: SparsityOptions;
  /** Ids of each text, the one after its last step included. */
  texts(): Int32Array[];
}

/** Refuses what leaves nothing to prefill or does not fit. */
export function checkSparsityOptions(options: SparsityOptions, maxContext: number, modelName: string): void {
  const { tokens, scored } = options;
  if (tokens > maxContext) {
    throw new QuestError(
      'E_CONTEXT',
      `${tokens} tokens exceed the ${maxContext} that ${modelName} supports`,
      {
        hint: `use --tokens ${maxContext} or less`,
      },
    );
  }
  if (scored >= tokens) {
    throw new QuestError('E_SCORED', `--scored ${scored} leaves nothing of ${tokens} tokens to prefill`, {
      hint: `use --scored ${Math.max(1, Math.floor(tokens / 8))}`,
    });
  }
}

/** One item per layer. */
export function createSparsityTask(
  source: TextSource,
  options: SparsityOptions,
  tokenizer: Tokenizer,
): SparsityTask {
  const { tokens, scored, tolerance, nLayers } = options;
  let cut: Int32Array[] | undefined;
  const texts = () => {
    cut ??= source.books.map((book) => {
      const ids = encodePrefix(book.read(), tokens + 1, (text) => tokenizer.encode(text));
      if (ids.length === tokens + 1) return ids;
      throw new QuestError(
        'E_INPUT',
        `${book.id} has only ${ids.length} of the ${tokens + 1} tokens wanted`,
        {
          hint: `use --tokens ${Math.max(2, ids.length - 1)} or less`,
        },
      );
    });
    return cut;
  };
  return {
    name: 'sparsity',
    params: {
      dataset: source.dataset,
      books: source.books.map((book) => book.id),
      tokens,
      scored,
      tolerance,
    },
    count: nLayers,
    rowShape: { fields: z.looseObject({ budget_tokens: z.number(), ppl: z.number(), full_ppl: z.number() }) },
    options,
    texts,
    item(index): TaskItem {
      const all = texts();
      const steps = Int32Array.from(all.flatMap((ids) => [...ids.subarray(tokens - scored)]));
      return {
        id: `layer ${index}`,
        index,
        prefillIds: Int32Array.from(all.flatMap((ids) => [...ids.subarray(0, tokens - scored)])),
        stepIds: steps,
        maxNewTokens: 0,
        fields: { layer: index },
        score: () => 0,
      };
    },
  };
}

/** The smallest k in 1..most for which `passes(k)` holds, if it holds for all k above some limit; `most` is taken to pass. */
export async function bisectLowest(most: number, passes: (k: number) => Promise<boolean>): Promise<number> {
  let [low, high] = [0, most];
  while (high - low > 1) {
    // Sparse budgets are far below the cache: halve in proportion until the ends are near.
    const middle = low > 0 && high / low < 2 ? (low + high) / 2 : Math.sqrt(Math.max(1, low) * high);
    const k = Math.min(high - 1, Math.max(low + 1, Math.round(middle)));
    if (await passes(k)) high = k;
    else low = k;
  }
  return high;
}

interface Measured {
  ppl: number;
  counters: JournalRow['counters'];
}

/** The prefilled texts, and what a method costs on their last tokens. */
class Texts implements Disposable {
  private readonly roots: Sequence[] = [];

  constructor(
    private readonly model: Model,
    private readonly task: SparsityTask,
    private readonly signal: AbortSignal,
  ) {}

  /** `onShare` hears how much is prefilled, 0 to 1. */
  async prefill(pageSize: number, onShare: (share: number) => void): Promise<void> {
    const { tokens, scored } = this.task.options;
    const texts = this.task.texts();
    for (const [i, ids] of texts.entries()) {
      const root = this.model.createSequence(pageSize);
      this.roots.push(root);
      const onProgress = (done: number, all: number) => onShare((i + done / all) / texts.length);
      await root.prefill(ids.slice(0, tokens - scored), { signal: this.signal, onProgress });
    }
  }

  async measure(method: Cell['method']): Promise<Measured> {
    const { tokens, scored } = this.task.options;
    const counters: Record<string, number> = {};
    let nll = 0;
    for (const [i, ids] of this.task.texts().entries()) {
      using branch = this.roots[i]!.fork(method);
      const [result] = await this.model.feed(
        [
          {
            sequence: branch,
            ids: ids.slice(tokens - scored, tokens),
            targets: ids.slice(tokens - scored + 1),
          },
        ],
        { signal: this.signal },
      );
      for (const x of result!.nll!) nll += x;
      for (const [key, value] of Object.entries(branch.counters()))
        counters[key] = (counters[key] ?? 0) + value;
    }
    return {
      ppl: Math.exp(nll / (scored * this.roots.length)),
      counters: counters as unknown as Measured['counters'],
    };
  }

  [Symbol.dispose](): void {
    for (const root of this.roots) root.dispose();
  }
}

/** Bisects one layer's budget. `onShare` hears how far the search is, 0 to 1, roughly. */
async function searchBudget(
  texts: Texts,
  cell: Cell,
  layer: number,
  limits: { full: number; task: SparsityTask },
  onShare: (share: number) => void,
) {
  const { tokens, tolerance } = limits.task.options;
  const unit = methodDefinition(cell.method.method).fields.includes('page_size') ? cell.pageSize : 1;
  const most = Math.ceil(tokens / unit);
  const halvings = Math.ceil(Math.log2(most)) + 1;
  const tried = new Map<number, Measured>();
  const measure = async (k: number) => {
    const measured = await texts.measure({
      ...cell.method,
      budgetTokens: k * unit,
      skipLayers: 0,
      onlyLayer: layer,
    });
    tried.set(k, measured);
    onShare(Math.min(1, tried.size / halvings));
    return measured;
  };
  const k = await bisectLowest(most, async (at) => (await measure(at)).ppl - limits.full < tolerance);
  const best = tried.get(k) ?? (await measure(k));
  return {
    budget: k * unit,
    best,
    tried: [...tried]
      .map(([at, { ppl }]) => ({ budget_tokens: at * unit, ppl }))
      .sort((a, b) => a.budget_tokens - b.budget_tokens),
  };
}

/** Share of the one acting layer's KV that the steps did not attend; all other layers attended everything. */
export function droppedShare(counters: JournalRow['counters'], nLayers: number): number {
  return ((counters.tokensAvailable - counters.tokensAttended) * nLayers) / counters.tokensAvailable;
}

const seconds = (since: number): number => Number(((performance.now() - since) / 1000).toFixed(4));

/** Computes the missing layers x methods and returns all rows, `rows[layer][method]`. */
export async function runSparsity(options: RunnerOptions): Promise<RowGrid> {
  const { plan, journal, signal, onProgress } = options;
  const task = plan.task as SparsityTask;
  const { nLayers, tokens, scored } = task.options;
  const base = rowKeys(plan, await task.item(0));
  const keyOf = (cell: Cell, layer: number) => `${base(cell)}-layer${layer}`;
  const grid: RowGrid = [];
  let model: Model | undefined;
  let texts: Texts | undefined;
  let full = 0;
  try {
    for (let layer = 0; layer < nLayers; layer++) {
      for (const [column, cell] of plan.cells.entries()) {
        if (journal.get(keyOf(cell, layer)) !== undefined) continue;
        const report = (phase: RunnerProgress['phase'], label: string, share = 0) =>
          onProgress?.({
            items: layer,
            fraction: (column + share) / plan.cells.length,
            total: nLayers,
            phase,
            label,
          });
        if (texts === undefined) {
          model = await options.loadModel();
          texts = new Texts(model, task, signal);
          await texts.prefill(cell.pageSize, (share) =>
            report('prefill', `prefill: ${Math.floor(100 * share)}%`),
          );
          full = (await texts.measure({ ...cell.method, method: 'full', skipLayers: 0 })).ppl;
          report('reuse', ''); // what was there and the prefill do not count towards the speed
        }
        const started = performance.now();
        const label = `layer ${layer} of ${nLayers}: ${cell.method.method}`;
        const { budget, best, tried } = await searchBudget(texts, cell, layer, { full, task }, (share) =>
          report('question', label, share),
        );
        const row: SparsityRow = {
          v: JOURNAL_VERSION,
          key: keyOf(cell, layer),
          item: `layer ${layer}`,
          sample: layer,
          cell: cellOptions(cell),
          prefill_tokens: tokens - scored,
          step_tokens: scored,
          fields: { layer, budget_tokens: budget, ppl: best.ppl, full_ppl: full },
          output: '',
          output_ids: [],
          score: droppedShare(best.counters, nLayers),
          counters: best.counters,
          timing: { prefill_s: 0, feed_s: seconds(started), generate_s: 0, branches: 1 },
          device: model!.info.device,
          tried,
        };
        journal.append([row]);
      }
      grid.push(plan.cells.map((cell) => journal.get(keyOf(cell, layer))!));
    }
  } finally {
    texts?.[Symbol.dispose]();
  }
  return grid;
}
