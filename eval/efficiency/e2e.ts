/** Whole models with random weights: prefill and decode steps through the runtime as every command uses it (Figure 10). */
import type { ModelSpec, WeightType } from '../../src/model/spec.js';
import type { Model, Sequence } from '../../src/runtime/index.js';
import { makeCell } from '../methods.js';

/** `undefined` is the dense step. */
export type Budget = number | undefined;

export interface E2eOptions {
  pageSize: number;
  skipLayers: number;
  /** Decode steps of one repeat. */
  steps: number;
  repeats: number;
}

/** One measured cell. */
export interface E2eTime {
  prefillS: number;
  /** Per step: median of the repeats, and half of their range in percent of it. */
  ms: number;
  noisePct: number;
  /** What a step must read. */
  bytes: number;
}

const WARM_UP_STEPS = 8;
/** Decode steps that one budget takes, untimed ones included: the first token of each run costs a step too. */
export const timedStepCount = (steps: number, repeats: number): number =>
  WARM_UP_STEPS + 1 + repeats * (steps + 1);
const GREEDY = { temperature: 0, topP: 1, seed: 0 };

/** Token ids that differ and repeat with no short period. */
const promptIds = (spec: ModelSpec, length: number): Int32Array =>
  Int32Array.from({ length }, (_, i) => (i * 7919 + 13) % spec.vocab);

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

/** Bytes that one step reads at least: the weights but for the embedding, keys and values, metadata. */
export function stepBytes(
  info: Model['info'],
  spec: ModelSpec,
  contextTokens: number,
  budget: Budget,
  { pageSize, skipLayers, steps }: E2eOptions,
): number {
  const embedding = spec.tiedEmbeddings ? 0 : spec.vocab * spec.hidden * 2;
  const tokens = contextTokens + steps / 2; // the cache grows while it is timed
  const dense = tokens * info.kvBytesPerToken;
  if (budget === undefined) return info.weightBytes - embedding + dense;
  const denseShare = Math.min(skipLayers, spec.nLayers) / spec.nLayers;
  const sparse = budget * info.kvBytesPerToken + (tokens / pageSize) * info.metadataBytesPerPage;
  return info.weightBytes - embedding + denseShare * dense + (1 - denseShare) * sparse;
}

/** Prefills `contextTokens` tokens; the caller disposes of the sequence. */
export async function timedPrefill(
  model: Model,
  contextTokens: number,
  options: E2eOptions,
  signal: AbortSignal,
): Promise<{ base: Sequence; prefillS: number }> {
  const base = model.createSequence(options.pageSize);
  try {
    const ids = promptIds(model.spec, contextTokens);
    const prefillS = await seconds(() => base.prefill(ids, { signal }));
    return { base, prefillS };
  } catch (error) {
    base.dispose();
    throw error;
  }
}

/** Times decode steps from a prefilled sequence. The first token of each repeat comes from the fork's own last logits. */
export async function timedSteps(
  model: Model,
  base: Sequence,
  budget: Budget,
  options: E2eOptions,
  signal: AbortSignal,
): Promise<{ ms: number; noisePct: number }> {
  const settings = {
    pageSize: options.pageSize,
    skipLayers: options.skipLayers,
    group: 'max',
    sinks: 4,
    h2oPrefill: false,
  } as const;
  const cell = budget === undefined ? makeCell('full', 0, settings) : makeCell('quest', budget, settings);
  const run = async (steps: number): Promise<number> => {
    using branch = base.fork(cell.method);
    return await seconds(() =>
      model.generate([branch], { maxTokens: steps + 1, stopIds: new Int32Array(), sampling: GREEDY, signal }),
    );
  };
  await run(WARM_UP_STEPS);
  const times: number[] = [];
  for (let i = 0; i < options.repeats; i++) times.push((1000 * (await run(options.steps))) / options.steps);
  times.sort((a, b) => a - b);
  const ms = times[times.length >> 1]!;
  return { ms, noisePct: (50 * (times.at(-1)! - times[0]!)) / ms };
}

/** One line of e2e.csv. `full` itself is a line without a sparse time. */
export interface E2eRow {
  shape: string;
  weights: WeightType;
  contextTokens: number;
  budget: Budget;
  denseMs: number;
  sparseMs: number | undefined;
  speedup: number | undefined;
  /** The bytes of a step at the measured read bandwidth. */
  floorMs: number;
  floorPct: number;
  prefillS: number;
}

/** A row from a dense and a sparse time of the same prefill. */
export function e2eRow(
  place: Pick<E2eRow, 'shape' | 'weights' | 'contextTokens' | 'budget'>,
  dense: E2eTime,
  sparse: E2eTime | undefined,
  bytesPerSecond: number,
): E2eRow {
  const timed = sparse ?? dense;
  const floorMs = (1000 * timed.bytes) / bytesPerSecond;
  return {
    ...place,
    denseMs: dense.ms,
    sparseMs: sparse?.ms,
    speedup: sparse && dense.ms / sparse.ms,
    floorMs,
    floorPct: (100 * floorMs) / timed.ms,
    prefillS: dense.prefillS,
  };
}
