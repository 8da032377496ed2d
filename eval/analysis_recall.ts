/**
 * Which share of the tokens that matter most a method attends (the paper's Figure 4), on passkey prompts.
 *
 * The context is prefilled densely and the question fed through the method. At every step, in every layer and for every
 * query head, the `top` tokens with the highest true attention (softmax over the whole cache, evicted tokens included, with
 * the keys and queries of this very run) are compared with the tokens that the step attended. The recall is the mean over
 * query heads, steps, samples and the layers in which the method acts. The first step is left out for every method: evictors
 * evict after it and read everything in it.
 */

import { z } from 'zod';
import type { Model, Sequence } from '../src/runtime/index.js';
import { JOURNAL_VERSION, type JournalRow } from './journal.js';
import type { Cell } from './methods.js';
import { cellOptions } from './methods.js';
import { rowKeys } from './plan.js';
import type { RowGrid, RunnerOptions } from './runner.js';
import type { Task } from './task.js';

export interface RecallRow extends JournalRow {
  /** Mean over heads and steps, per layer, 0 to 1. */
  recall: number[];
}

export interface RecallTask extends Task {
  top: number;
}

/** The passkey task's items, measured instead of answered. */
export function createRecallTask(passkey: Task, top: number): RecallTask {
  return {
    ...passkey,
    name: 'recall',
    params: { ...passkey.params, top },
    rowShape: { recall: z.array(z.number()) },
    top,
  };
}

/** Means over steps of `recall` [steps, layers], without the first step. */
export function meanByLayer(recall: Float32Array, nLayers: number): number[] {
  const steps = recall.length / nLayers;
  const from = steps > 1 ? 1 : 0;
  return Array.from({ length: nLayers }, (_, layer) => {
    let total = 0;
    for (let step = from; step < steps; step++) total += recall[step * nLayers + layer]!;
    return total / (steps - from);
  });
}

/** Mean over the layers in which the cell's method acts; all of them for `full`. */
export function actingMean(byLayer: readonly number[], cell: Cell): number {
  const acting = cell.method.method === 'full' ? byLayer : byLayer.slice(cell.method.skipLayers);
  return acting.reduce((a, b) => a + b, 0) / acting.length;
}

const seconds = (since: number): number => Number(((performance.now() - since) / 1000).toFixed(4));

/** Computes the missing samples x cells and returns all rows in plan order. */
export async function runRecall(options: RunnerOptions): Promise<RowGrid> {
  const { plan, journal, signal, onProgress } = options;
  const { count, top } = plan.task as RecallTask;
  const grid: RowGrid = [];
  let model: Model | undefined;
  for (let index = 0; index < count; index++) {
    signal.throwIfAborted();
    const item = await plan.task.item(index);
    const keyOf = rowKeys(plan, item);
    const missing = plan.cells.filter((cell) => journal.get(keyOf(cell)) === undefined);
    // Reused rows do not count towards the speed.
    if (missing.length === 0) onProgress?.({ items: index, fraction: 1, total: count, phase: 'reuse' });
    const report = (phase: 'prefill' | 'question', from: number, to: number) => (done: number, all: number) =>
      onProgress?.({
        items: index,
        fraction: from + ((to - from) * done) / Math.max(1, all),
        total: count,
        phase,
      });
    if (missing.length > 0) {
      model ??= await options.loadModel();
      const { nLayers } = model.spec;
      const rows: RecallRow[] = [];
      using root = model.createSequence(missing[0]!.pageSize);
      let started = performance.now();
      await root.prefill(item.prefillIds, { signal, onProgress: report('prefill', 0, 0.4) });
      const prefill_s = seconds(started);
      const branches: Sequence[] = [];
      try {
        for (const cell of missing) branches.push(root.fork(cell.method));
        started = performance.now();
        const results = await model.feed(
          branches.map((sequence) => ({ sequence, ids: item.stepIds, recallTop: top })),
          { signal, onProgress: report('question', 0.4, 1) },
        );
        const feed_s = seconds(started);
        for (const [i, cell] of missing.entries()) {
          const recall = meanByLayer(results[i]!.recall!, nLayers);
          rows.push({
            v: JOURNAL_VERSION,
            key: keyOf(cell),
            item: item.id,
            sample: index,
            cell: cellOptions(cell),
            prefill_tokens: item.prefillIds.length,
            step_tokens: item.stepIds.length,
            fields: item.fields,
            output: '',
            output_ids: [],
            score: actingMean(recall, cell),
            counters: branches[i]!.counters(),
            timing: { prefill_s, feed_s, generate_s: 0, branches: branches.length },
            device: model.info.device,
            recall,
          });
        }
      } finally {
        for (const branch of branches) branch.dispose();
      }
      journal.append(rows);
    }
    grid.push(plan.cells.map((cell) => journal.get(keyOf(cell))!));
  }
  return grid;
}
