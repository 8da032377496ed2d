/** One dense prefill, a branch for each method forked from it, and the question fed through each. */
import { type Cell, cellName, methodDefinition } from '../../eval/methods.js';
import type { Checkpoint } from '../model/index.js';
import type { Counters, Model, Sequence } from '../runtime/index.js';
import type { CommandContext } from './commands.js';
import { estimateMemory, type MemoryEstimate } from './memory.js';
import { startProgress } from './progress.js';
import type { Prompt } from './prompt.js';
import { loadModel } from './session.js';
import type { Settings } from './settings.js';

export interface BranchRun {
  context: CommandContext;
  settings: Settings;
  checkpoint: Checkpoint;
  prompt: Prompt;
  cells: readonly Cell[];
  maxTokens: number;
}

export interface Branches extends Disposable {
  model: Model;
  /** In the order of the cells. */
  sequences: Sequence[];
  prefillSeconds: number;
}

/** What the run needs, before anything is loaded. */
export function branchMemory({ settings, checkpoint, prompt, cells, maxTokens }: BranchRun): MemoryEstimate {
  return estimateMemory({
    spec: checkpoint.spec,
    weightBytes: checkpoint.weightBytes,
    tokens: prompt.prefillIds.length + prompt.stepIds.length + maxTokens,
    pageSize: settings.number('page-size'),
    branches: cells.length,
    branchTokens: prompt.stepIds.length + maxTokens,
    evictors: cells.filter((cell) => methodDefinition(cell.method.method).kind === 'evictor').length,
  });
}

/** Loads the model, prefills once, forks, and feeds the question; dispose what it returns. */
export async function openBranches(run: BranchRun): Promise<Branches> {
  const { context, settings, checkpoint, prompt, cells } = run;
  const { out, signal } = context;
  const model = await loadModel(context, settings, checkpoint, branchMemory(run));
  const sequences: Sequence[] = [];
  const dispose = () => {
    for (const sequence of sequences) sequence.dispose();
    model.dispose();
  };
  try {
    using base = model.createSequence(settings.number('page-size'));
    const progress = await startProgress(out, 'prefill');
    const started = performance.now();
    let prefillSeconds: number;
    try {
      await base.prefill(prompt.prefillIds, {
        signal,
        h2oPrefill: cells.some((cell) => cell.method.h2oPrefill),
        onProgress: (done, total) => progress.update(done / total, `${done} of ${total} tokens`),
      });
      prefillSeconds = (performance.now() - started) / 1000;
      for (const cell of cells) sequences.push(base.fork(cell.method));
      if (prompt.stepIds.length > 0)
        await model.feed(
          sequences.map((sequence) => ({ sequence, ids: prompt.stepIds })),
          { signal, onProgress: (done, total) => progress.update(done / total, 'question') },
        );
    } finally {
      progress.stop();
    }
    return { model, sequences, prefillSeconds, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** What a branch read of the bytes that `full` would have read, in percent; undefined before the first decode step. */
export function readPct(counters: Counters): number | undefined {
  if (counters.decodeSteps === 0) return undefined;
  return (100 * (counters.kvBytes + counters.metadataBytes)) / Math.max(1, counters.denseKvBytes);
}

/** `quest 256 read 9.3% of the KV cache`, and whether it was sparse at all. */
export function describeReading(cell: Cell, counters: Counters): string {
  const name = cellName(cell);
  const pct = readPct(counters);
  if (pct === undefined) return `${name} made no decode step`;
  const never = methodDefinition(cell.method.method).kind !== 'dense' && counters.sparseSteps === 0;
  return `${name} read ${pct.toFixed(1)}% of the KV cache${never ? ' (it never attended fewer tokens than the cache held: the same as full)' : ''}`;
}

/** `120 tokens in 1.50 s (80.0 tokens/s)` */
export const describeSpeed = (tokens: number, seconds: number): string =>
  `${tokens} tokens in ${seconds.toFixed(2)} s (${(tokens / Math.max(seconds, 1e-9)).toFixed(1)} tokens/s)`;
