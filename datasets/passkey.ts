/**
 * Passkey retrieval: a five-digit key hidden in filler. The text, the depth rule and the split into context and question
 * are the published protocol's; the length is asked for in tokens, so the amount of filler is searched per sample.
 */
import { QuestError } from '../src/errors.js';
import { createRandom, uniformInt } from './random.js';

const INSTRUCTION =
  'There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. ' +
  'I will quiz you about the important information there.';
const GARBAGE = 'The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.';
const QUESTION = 'What is the pass key? The pass key is';
/** Filler repeats with single spaces, so it has this period in characters. */
const PERIOD = GARBAGE.length + 1;
/** Filler that is never left out when tokens are estimated: more than the question's share plus two periods. */
const KEPT_CHARS = 400 + 2 * PERIOD;

/** The last characters of the prompt, tokenised on their own and fed as decode steps. */
export const QUESTION_CHARS = 400;
export const MAX_PASSKEY = 50_000;
/** The protocol generates at most this many tokens. */
export const PASSKEY_NEW_TOKENS = 10;

/** Text to ids, with or without the beginning-of-sequence token. */
export type Encode = (text: string, bos: boolean) => Int32Array;

export interface PasskeyItem {
  index: number;
  key: number;
  depthPct: number;
  garbageChars: number;
  /** Prefill and steps together. */
  tokens: number;
  /** Dense prefill: everything but the last 400 characters, with BOS. */
  prefillIds: Int32Array;
  /** Decode steps: the last 400 characters on their own, without BOS. */
  stepIds: Int32Array;
}

export interface PasskeyOptions {
  contextTokens: number;
  samples: number;
  seed: number;
  /** Depths in percent, used in turn; absent means the protocol's rule. */
  depths?: readonly number[];
}

const filler = (chars: number): string => `${GARBAGE} `.repeat(Math.ceil(chars / PERIOD)).slice(0, chars);

/** The whole prompt: instruction, filler, key line, filler, question. `depthPct` percent of the filler comes first. */
export function passkeyPrompt(key: number, garbageChars: number, depthPct: number): string {
  const before = Math.floor((garbageChars * depthPct) / 100);
  return join(key, before, garbageChars - before);
}

function join(key: number, before: number, after: number): string {
  const secret = `The pass key is ${key}. Remember it. ${key} is the pass key.`;
  return [INSTRUCTION, filler(before), secret, filler(after), QUESTION].join('\n');
}

/** Splits a prompt into what is prefilled and what is fed through the method. */
export function splitPrompt(prompt: string): { context: string; question: string } {
  return { context: prompt.slice(0, -QUESTION_CHARS), question: prompt.slice(-QUESTION_CHARS) };
}

/** Depth in percent of sample `index` of `samples`: the protocol's rule, or the given depths in turn. */
export function passkeyDepth(samples: number, index: number, depths?: readonly number[]): number {
  if (depths !== undefined && depths.length > 0) return depths[index % depths.length]!;
  return Math.floor(100 / samples) * (index + 1);
}

/** The key of sample `index`: depends on nothing but seed and index. */
export function passkeyKey(seed: number, index: number): number {
  return uniformInt(createRandom(seed, index), 1, MAX_PASSKEY);
}

/** Correct when the first integer of the output is the key. */
export function scorePasskey(output: string, key: number): number {
  const found = /\d+/.exec(output);
  return found !== null && Number(found[0]) === key ? 1 : 0;
}

interface Counted {
  prefillIds: Int32Array;
  stepIds: Int32Array;
  tokens: number;
}

function encodePrompt(prompt: string, encode: Encode): Counted {
  const { context, question } = splitPrompt(prompt);
  const prefillIds = encode(context, true);
  const stepIds = encode(question, false);
  return { prefillIds, stepIds, tokens: prefillIds.length + stepIds.length };
}

/** Makes samples of one context length. Reuses what it learns about the tokenizer, so 20 samples cost about 20 encodings. */
export function createPasskeyDataset(options: PasskeyOptions, encode: Encode) {
  const { contextTokens, samples, seed, depths } = options;
  let periodTokens: number | undefined;

  const tokensPerPeriod = (): number => {
    periodTokens ??=
      (encode(filler(40 * PERIOD), false).length - encode(filler(8 * PERIOD), false).length) / 32;
    return periodTokens;
  };

  /** Tokens of the prompt, counted on a text from which whole periods of filler were taken out. */
  const estimate = (key: number, chars: number, depthPct: number): number => {
    const before = Math.floor((chars * depthPct) / 100);
    const spare = (n: number) => Math.max(0, Math.floor((n - KEPT_CHARS) / PERIOD));
    const [cutBefore, cutAfter] = [spare(before), spare(chars - before)];
    const short = join(key, before - cutBefore * PERIOD, chars - before - cutAfter * PERIOD);
    return encodePrompt(short, encode).tokens + Math.round((cutBefore + cutAfter) * tokensPerPeriod());
  };

  /** The number of filler characters whose token count comes closest to the context from below. */
  const search = (count: (chars: number) => number, start: number): { chars: number; tokens: number } => {
    const charsPerToken = PERIOD / tokensPerPeriod();
    let best = { chars: -1, tokens: -1 };
    let chars = start;
    const seen = new Set<number>();
    for (let probe = 0; probe < 24 && !seen.has(chars); probe++) {
      seen.add(chars);
      const tokens = count(chars);
      if (tokens <= contextTokens && tokens > best.tokens) best = { chars, tokens };
      if (tokens === contextTokens) break;
      const step = (contextTokens - tokens) * charsPerToken;
      chars = Math.max(minimumChars, chars + (step < 0 ? Math.floor(step) : Math.max(1, Math.floor(step))));
    }
    return best;
  };

  const minimumChars = Math.max(0, QUESTION_CHARS + 1 - passkeyPrompt(MAX_PASSKEY, 0, 0).length + 8);
  let firstGuess: number | undefined;
  /** The same for all samples and independent of their order, so that an item never depends on the ones before it. */
  const startChars = (): number => {
    if (firstGuess !== undefined) return firstGuess;
    const spare = contextTokens - encodePrompt(passkeyPrompt(MAX_PASSKEY, minimumChars, 50), encode).tokens;
    firstGuess = minimumChars + Math.max(0, Math.floor((spare * PERIOD) / tokensPerPeriod()));
    return firstGuess;
  };

  return {
    samples,
    /** The shortest context, in tokens, that holds instruction, key and question. */
    minimumContext(): number {
      return encodePrompt(passkeyPrompt(MAX_PASSKEY, minimumChars, 50), encode).tokens;
    },
    item(index: number): PasskeyItem {
      const key = passkeyKey(seed, index);
      const depthPct = passkeyDepth(samples, index, depths);
      let found = search((chars) => estimate(key, chars, depthPct), startChars());
      const full = (chars: number) => encodePrompt(passkeyPrompt(key, chars, depthPct), encode);
      let counted = found.chars < 0 ? undefined : full(found.chars);
      if (counted !== undefined && counted.tokens !== found.tokens) {
        // A tokenizer whose pieces reach across whole periods: count whole prompts instead.
        found = search((chars) => full(chars).tokens, found.chars);
        counted = found.chars < 0 ? undefined : full(found.chars);
      }
      if (counted === undefined) {
        throw new QuestError(
          'E_CONTEXT',
          `a context of ${contextTokens} tokens is too short for the passkey prompt`,
          {
            hint: `use --context ${this.minimumContext() + 8} or more`,
          },
        );
      }
      return { index, key, depthPct, garbageChars: found.chars, ...counted };
    },
  };
}

export type PasskeyDataset = ReturnType<typeof createPasskeyDataset>;
