/** How long `quest bench e2e` will roughly take: a large model on a CPU is a matter of hours. */
import { type Budget, type E2eOptions, timedStepCount } from '../../../eval/efficiency/e2e.js';
import { randomSpec, weightBytes } from '../../../eval/efficiency/shapes.js';
import type { WeightType } from '../../model/spec.js';
import { clock } from '../progress.js';
import { kvTokenBytes, prefillFlops, type Rates } from '../rough.js';

export interface Place {
  shape: string;
  weights: WeightType;
  contextTokens: number;
}

/** Seconds of one prefill, and of the steps of each budget from it; the dense step is always timed. */
export function roughPlaceSeconds(
  { shape, weights, contextTokens }: Place,
  budgets: readonly Budget[],
  { skipLayers, steps, repeats, pageSize }: E2eOptions,
  device: string,
  rates: Rates,
): number {
  const spec = randomSpec(shape, weights, contextTokens);
  const dense = Math.min(1, skipLayers / spec.nLayers);
  const readTokens = (budget: number) =>
    dense * contextTokens + (1 - dense) * (budget + contextTokens / pageSize);
  const read = [
    contextTokens,
    ...budgets.filter((b) => b !== undefined && b < contextTokens).map((b) => readTokens(b!)),
  ];
  const stepBytes = read.map((tokens) => weightBytes(shape, weights) + tokens * kvTokenBytes(spec, device));
  const bytes = timedStepCount(steps, repeats) * stepBytes.reduce((a, b) => a + b, 0);
  return prefillFlops(spec, contextTokens, contextTokens) / rates.flopsPerS + bytes / rates.bytesPerS;
}

/** `roughly 2:10:00 on this device; less with ...` */
export const describeTime = (seconds: number): string =>
  `roughly ${clock(seconds)}${seconds > 600 ? '; --shape, --context, --budget, --steps and --repeats make it shorter' : ''}`;
