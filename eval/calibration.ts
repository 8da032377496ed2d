/** What a quantised model is made from and judged by: sequences for calibration, and perplexity on a part they do not touch. */
import { QuestError } from '../src/errors.js';
import type { Tokenizer } from '../src/model/index.js';
import type { MethodOptions, Model } from '../src/runtime/index.js';

/** Longest sequence of calibration tokens that see each other, as AutoAWQ cuts them. */
const SEQUENCE = 512;

export interface Calibration {
  /** Sequences of `sequence` tokens, one after another, from the first three quarters of the text. */
  ids: Int32Array;
  sequence: number;
  /** From the last quarter. */
  held: Int32Array;
}

/** Cuts a text. Throws E_INPUT when it is too short for `tokens` of calibration and `heldTokens` of measurement. */
export function cutCalibration(
  text: string,
  tokenizer: Tokenizer,
  tokens: number,
  heldTokens: number,
  maxContext: number,
): Calibration {
  const all = tokenizer.encode(text);
  const border = Math.floor(all.length * 0.75);
  const sequence = Math.min(SEQUENCE, tokens, maxContext);
  const count = Math.floor(tokens / sequence);
  if (border < count * sequence || all.length - border < Math.min(heldTokens, 1) * 2)
    throw new QuestError(
      'E_INPUT',
      `the calibration text has ${all.length} tokens; its first three quarters must hold ${count * sequence}`,
      { hint: 'give a longer text, or fewer --calibration-tokens' },
    );
  const ids = new Int32Array(count * sequence);
  for (let i = 0; i < count; i++) {
    const from = Math.floor((i * (border - sequence)) / Math.max(1, count - 1));
    ids.set(all.subarray(from, from + sequence), i * sequence);
  }
  return { ids, sequence, held: all.slice(border, border + heldTokens + 1) };
}

const FULL: MethodOptions = {
  method: 'full',
  budgetTokens: 0,
  skipLayers: 0,
  group: 'max',
  sinks: 0,
  h2oPrefill: false,
};

/** Perplexity of each token after the first, in windows of at most `window` tokens that do not see each other. */
export async function plainPerplexity(
  model: Model,
  ids: Int32Array,
  window: number,
  options: { signal?: AbortSignal; onTokens?: (share: number) => void } = {},
): Promise<number> {
  let nll = 0;
  const predicted = ids.length - 1;
  for (let at = 0; at < predicted; at += window) {
    const end = Math.min(predicted, at + window);
    using root = model.createSequence(16);
    using branch = root.fork(FULL);
    const [result] = await model.feed(
      [{ sequence: branch, ids: ids.slice(at, end), targets: ids.slice(at + 1, end + 1) }],
      {
        signal: options.signal,
        onProgress: (done, total) => options.onTokens?.((at + ((end - at) * done) / total) / predicted),
      },
    );
    for (const x of result!.nll!) nll += x;
  }
  return Math.exp(nll / predicted);
}
