/** Texts that are too long lose their middle: their beginning says what they are, their end what is asked. */
import type { Tokenizer } from '../src/model/index.js';

/**
 * The first and the last `limit / 2` tokens of a text, decoded, as LongBench's reference cuts prompts. Decoded text can have
 * more tokens when it is encoded again: where `count` finds more than `limit`, as many more are left out of the middle,
 * until it fits. A text that fits stays whole; undefined where not even its ends fit.
 */
export function cutMiddle(
  text: string,
  limit: number,
  tokenizer: Tokenizer,
  count: (text: string) => number,
): string | undefined {
  const ids = tokenizer.encode(text);
  if (ids.length <= limit && count(text) <= limit) return text;
  const decode = (part: Int32Array) => tokenizer.decode(part, { skipSpecial: true });
  let [head, tail] = [Math.floor(limit / 2), Math.floor(limit / 2)];
  // Room beside the text can be what is lacking: then more than the text has would be kept.
  if (head + tail >= ids.length) [head, tail] = [Math.ceil(ids.length / 2), Math.floor(ids.length / 2)];
  while (head + tail > 0) {
    const cut = decode(ids.subarray(0, head)) + decode(ids.subarray(ids.length - tail));
    const excess = count(cut) - limit;
    if (excess <= 0) return cut;
    head = Math.max(0, head - Math.ceil(excess / 2));
    tail = Math.max(0, tail - Math.floor(excess / 2));
  }
  return undefined;
}
