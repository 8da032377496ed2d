/**
 * Runs any task: one dense prefill per item, forked for every cell; the steps go to all branches in one call,
 * then all branches generate in lockstep. Rows that the journal has are not computed again.
 */
import { QuestError } from '../src/errors.js';
import type { Tokenizer } from '../src/model/index.js';
import type { Model, Sequence } from '../src/runtime/index.js';
import { generateAnswers } from './answers.js';
import { JOURNAL_VERSION, type Journal, type JournalRow } from './journal.js';
import { type Cell, cellOptions } from './methods.js';
import { type Plan, rowKeys } from './plan.js';
import type { TaskItem } from './task.js';

export interface RunnerProgress {
  /** Items finished, and how far the current one is, 0 to 1. */
  items: number;
  fraction: number;
  total: number;
  phase: 'reuse' | 'prefill' | 'question' | 'answer';
  /** Says more than sample number and phase, where a task wants it. */
  label?: string;
}

export interface RunnerOptions {
  plan: Plan;
  journal: Journal;
  tokenizer: Tokenizer;
  eosIds: readonly number[];
  /** Called when the first row is missing, so that a finished run loads no weights. */
  loadModel: () => Promise<Model>;
  signal: AbortSignal;
  onProgress?: (progress: RunnerProgress) => void;
}

/** The rows of a finished run, `rows[item][cell]` in plan order. */
export type RowGrid = JournalRow[][];

const seconds = (since: number): number => Number(((performance.now() - since) / 1000).toFixed(4));

/** Computes what is missing and returns all rows of the plan in its order. */
export async function runPlan(options: RunnerOptions): Promise<RowGrid> {
  const { plan, journal, signal, onProgress } = options;
  const total = plan.task.count;
  const grid: RowGrid = [];
  let model: Model | undefined;
  let next = prepare(plan, 0);
  for (let index = 0; index < total; index++) {
    signal.throwIfAborted();
    const item = await next!;
    const keyOf = rowKeys(plan, item);
    const missing = plan.cells.filter((cell) => journal.get(keyOf(cell)) === undefined);
    onProgress?.({ items: index, fraction: 0, total, phase: missing.length > 0 ? 'prefill' : 'reuse' });
    if (missing.length > 0) {
      model ??= await options.loadModel();
      const work = runItem(options, model, item, missing, keyOf);
      next = prepare(plan, index + 1); // tokenised while the native threads compute
      journal.append(await work);
    } else {
      next = prepare(plan, index + 1);
    }
    grid.push(plan.cells.map((cell) => journal.get(keyOf(cell))!));
    checkDevices(grid[index]!, model);
    // Reused rows do not count towards the speed.
    if (missing.length === 0) onProgress?.({ items: index + 1, fraction: 0, total, phase: 'reuse' });
  }
  return grid;
}

function prepare(plan: Plan, index: number): Promise<TaskItem> | undefined {
  if (index >= plan.task.count) return undefined;
  const item = Promise.resolve().then(() => plan.task.item(index));
  item.catch(() => {}); // reported when it is awaited
  return item;
}

/** `cuda:1` -> `cuda`: the devices of one kind give the same results. */
export const deviceKind = (device: string): string => device.replace(/:\d+/, '');

/** Rows of another device in the same folder would make a table of two machines' arithmetic. */
function checkDevices(rows: readonly JournalRow[], model: Model | undefined): void {
  const own = deviceKind(model?.info.device ?? rows[0]!.device);
  const other = rows.find((row) => deviceKind(row.device) !== own);
  if (other === undefined) return;
  throw new QuestError(
    'E_DEVICE',
    `the journal has rows computed on ${other.device}, this run is on ${model?.info.device ?? 'another device'}`,
    {
      hint: 'resume with the same --device, or use another --out',
    },
  );
}

async function runItem(
  options: RunnerOptions,
  model: Model,
  item: TaskItem,
  cells: readonly Cell[],
  keyOf: (cell: Cell) => string,
): Promise<JournalRow[]> {
  const { signal, tokenizer, onProgress, plan } = options;
  const total = plan.task.count;
  const report = (phase: RunnerProgress['phase'], from: number, to: number) => (done: number, all: number) =>
    onProgress?.({
      items: item.index,
      fraction: from + ((to - from) * done) / Math.max(1, all),
      total,
      phase,
    });
  const rows: JournalRow[] = [];
  // Pages are laid out once per cache, so cells of one page size share a prefill.
  for (const pageSize of new Set(cells.map((cell) => cell.pageSize))) {
    const group = cells.filter((cell) => cell.pageSize === pageSize);
    const h2oPrefill = group.some((cell) => cell.method.h2oPrefill);
    using base = model.createSequence(pageSize);
    let started = performance.now();
    await base.prefill(item.prefillIds, { signal, h2oPrefill, onProgress: report('prefill', 0, 0.6) });
    const prefill_s = seconds(started);

    const branches: Sequence[] = [];
    try {
      for (const cell of group) branches.push(base.fork(cell.method));
      started = performance.now();
      const fed = await model.feed(
        branches.map((sequence) => ({ sequence, ids: item.stepIds, logits: item.stopIds ? 'last' : 'none' })),
        { signal, onProgress: report('question', 0.6, 0.9) },
      );
      const feed_s = seconds(started);

      started = performance.now();
      let tokens = 0;
      const outputs = await generateAnswers(model, branches, fed, item, {
        eosIds: options.eosIds,
        signal,
        onToken: () => report('answer', 0.9, 1)(++tokens, item.maxNewTokens * branches.length),
      });
      const generate_s = seconds(started);

      group.forEach((cell, i) => {
        const ids = outputs[i]!;
        const output = tokenizer.decode(ids, { skipSpecial: true });
        rows.push({
          v: JOURNAL_VERSION,
          key: keyOf(cell),
          item: item.id,
          sample: item.index,
          cell: cellOptions(cell),
          prefill_tokens: item.prefillIds.length,
          step_tokens: item.stepIds.length,
          fields: item.fields,
          output,
          output_ids: [...ids],
          score: item.score(output),
          counters: branches[i]!.counters(),
          timing: { prefill_s, feed_s, generate_s, branches: branches.length },
          device: model.info.device,
        });
      });
    } finally {
      for (const branch of branches) branch.dispose();
    }
  }
  return rows;
}
