/** Rough times, to tell minutes from days before a run starts. */
import type { ModelSpec } from '../model/index.js';

export interface Rates {
  /** Prefill arithmetic. */
  flopsPerS: number;
  /** Weights and keys that decode steps read. */
  bytesPerS: number;
}

/** What an ordinary machine of this kind reaches. */
export const roughRates = (device: string, cores: number): Rates =>
  device === 'cpu' ? { flopsPerS: 60e9 * cores, bytesPerS: 8e9 } : { flopsPerS: 300e12, bytesPerS: 2e12 };

/** Keys and values of one token: 16 bits on a GPU, 32 on the CPU. */
export const kvTokenBytes = (spec: ModelSpec, device: string): number =>
  2 * spec.nLayers * spec.nKvHeads * spec.headDim * (device === 'cpu' ? 4 : 2);

/** Operations of a dense prefill of `tokens` in all, in sequences of `longest`. */
export function prefillFlops(spec: ModelSpec, tokens: number, longest: number): number {
  const projections =
    spec.nLayers *
    (spec.hidden * spec.headDim * (2 * spec.nHeads + 2 * spec.nKvHeads) + 3 * spec.hidden * spec.ffn);
  const attention = spec.nLayers * spec.nHeads * spec.headDim * 2 * (longest / 2);
  return 2 * tokens * (projections + attention);
}
