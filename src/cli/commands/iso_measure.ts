/** The attention times of Figure 11 measured now: one layer's decode step at each task's mean context and lossless budget. */
import { kernelCase } from '../../../eval/efficiency/kernels.js';
import { attentionStep, type IsoRow } from '../../../eval/iso.js';
import type { AttentionStep, StepTime } from '../../../eval/iso_attention.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import { startProgress } from '../progress.js';
import { openKernelBench } from './bench_kernels.js';

export interface Attention {
  time: StepTime;
  /** What a reader must know of these times. */
  note: string;
}

/** As `quest bench kernels` repeats a case. */
const RULES = { minRepeats: 15, noisePct: 1, maxSeconds: 0.5 };

const keyOf = (step: AttentionStep): string => JSON.stringify(step);

/** Times every step that the rows ask for, each once. */
export async function measureAttention(
  context: CommandContext,
  rows: readonly IsoRow[],
  heads: string,
): Promise<Attention> {
  const { out, signal } = context;
  using bench = openKernelBench(context);
  const steps = new Map<string, AttentionStep>();
  for (const { lossless, contextTokens } of rows) {
    const step = lossless && attentionStep(lossless, contextTokens);
    if (step !== undefined) steps.set(keyOf(step), step);
  }
  const times = new Map<string, number>();
  const progress = await startProgress(out, 'attention');
  try {
    // Steps of one layer follow each other, so that its data is made once.
    const ordered = [...steps].sort(([, a], [, b]) => a.contextTokens - b.contextTokens);
    for (const [i, [key, step]] of ordered.entries()) {
      const one = kernelCase(heads, step);
      progress.update(i / ordered.length, `${one.kernel}, ${one.contextTokens} tokens`);
      times.set(key, (await bench.time(one, RULES, signal)).medianUs);
    }
  } finally {
    progress.stop();
  }
  const device = bench.info.gpu ?? `${bench.info.simd}, ${plural(bench.info.threads!, 'thread')}`;
  return {
    time: (step) => times.get(keyOf(step)),
    note: `attention: one decode step at the mean context with ${heads} heads of 128, measured now on ${device}`,
  };
}
