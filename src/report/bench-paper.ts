/** Numbers of the Quest paper's Figures 9 and 10 (Llama-2-7B shapes, batch 1, page 16), which stand beside our benchmarks. */

/** Figure 9, RTX 4090: times faster than dense attention, by context and budget in tokens. */
const ATTENTION_SPEEDUP: Readonly<Record<string, number>> = {
  '8192/4096': 1.69,
  '16384/4096': 2.92,
  '32768/2048': 7.03,
  '32768/4096': 4.86,
};

const CONTEXTS = ['8192', '16384', '32768'];

/** Figure 10, RTX 6000 Ada: milliseconds per token at each of those contexts, by weights and budget. */
const STEP_MS: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>> = {
  fp16: {
    full: [21.6, 26.6, 36.8],
    '512': [17.7, 18.5, 20.3],
    '1024': [18.1, 18.9, 20.7],
    '2048': [18.6, 19.4, 21.2],
    '4096': [19.8, 20.7, 22.4],
  },
  int4: {
    full: [14.4, 19.4, 29.6],
    '512': [10.2, 10.6, 12.4],
    '1024': [10.5, 11.0, 12.8],
    '2048': [11.1, 11.6, 13.3],
    '4096': [12.4, 12.9, 14.6],
  },
};

/** Speed-up of self-attention in the paper, where it gives one. */
export function paperAttentionSpeedup(
  heads: string,
  contextTokens: string,
  budgetTokens: string,
): number | undefined {
  return heads === '32/32' ? ATTENTION_SPEEDUP[`${contextTokens}/${budgetTokens}`] : undefined;
}

/** Milliseconds per token in the paper, where it gives them. `budget`: tokens, or `full`. */
export function paperStepMs(
  shape: string,
  weights: string,
  contextTokens: string,
  budget: string,
): number | undefined {
  if (shape !== 'llama2-7b') return undefined;
  return STEP_MS[weights]?.[budget]?.[CONTEXTS.indexOf(contextTokens)];
}
