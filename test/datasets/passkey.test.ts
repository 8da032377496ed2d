import { describe, expect, test } from 'vitest';
import {
  createPasskeyDataset,
  type Encode,
  passkeyDepth,
  passkeyKey,
  passkeyPrompt,
  scorePasskey,
  splitPrompt,
} from '../../datasets/passkey.js';
import { createRandom, uniformInt } from '../../datasets/random.js';
import { openCheckpoint } from '../../src/model/index.js';

const codes = (text: string): number[] => [...text].map((c) => c.codePointAt(0)!);
/** One token per character. */
const chars: Encode = (text, bos) => Int32Array.from([...(bos ? [1] : []), ...codes(text)]);
/** One token per word with its leading space, as byte-level tokenizers split. */
const words: Encode = (text, bos) =>
  Int32Array.from([...(bos ? [1] : []), ...(text.match(/ ?[^\s]+|\s/g) ?? []).map((w) => w.length)]);
/** Pieces of a fixed length, so that pieces reach across the filler's periods and the estimate cannot be exact. */
const blocks: Encode = (text, bos) => new Int32Array(Math.ceil(text.length / 7) + (bos ? 1 : 0));

describe('the random numbers', () => {
  test('are the same on every machine', () => {
    const random = createRandom(0, 0);
    expect([random(), random(), random()]).toMatchInlineSnapshot(`
      [
        3635991192,
        1042736354,
        2490863188,
      ]
    `);
    expect(Array.from({ length: 5 }, (_, i) => passkeyKey(0, i))).toMatchInlineSnapshot(`
      [
        41193,
        37400,
        10535,
        17063,
        18063,
      ]
    `);
  });

  test('cover the range evenly, both ends included', () => {
    const random = createRandom(7, 1);
    const counts = new Map<number, number>();
    for (let i = 0; i < 6000; i++) {
      const value = uniformInt(random, 1, 6);
      counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    expect([...counts.keys()].sort()).toEqual([1, 2, 3, 4, 5, 6]);
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });

  test('differ between seeds and between samples', () => {
    const keys = new Set<number>();
    for (let seed = 0; seed < 20; seed++) for (let i = 0; i < 20; i++) keys.add(passkeyKey(seed, i));
    expect(keys.size).toBeGreaterThan(390);
  });
});

describe('the prompt', () => {
  test('is the protocol, word for word', () => {
    expect(passkeyPrompt(123, 100, 50)).toMatchInlineSnapshot(`
      "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you about the important information there.
      The grass is green. The sky is blue. The sun is ye
      The pass key is 123. Remember it. 123 is the pass key.
      The grass is green. The sky is blue. The sun is ye
      What is the pass key? The pass key is"
    `);
  });

  test('hides the key at the share of filler characters that the depth says', () => {
    for (const [depth, before] of [
      [0, 0],
      [10, 200],
      [55, 1100],
      [100, 2000],
    ] as const) {
      const lines = passkeyPrompt(7, 2000, depth).split('\n');
      expect(lines).toHaveLength(5);
      expect(lines[1]).toHaveLength(before);
      expect(lines[3]).toHaveLength(2000 - before);
    }
  });

  test('follows the depth rule floor(100/N)*(i+1)', () => {
    expect(Array.from({ length: 20 }, (_, i) => passkeyDepth(20, i))).toEqual(
      Array.from({ length: 20 }, (_, i) => 5 * (i + 1)),
    );
    expect(passkeyDepth(30, 29)).toBe(90);
    expect([0, 1, 2, 3].map((i) => passkeyDepth(4, i, [10, 50, 90]))).toEqual([10, 50, 90, 10]);
  });

  test('is split at the last 400 characters', () => {
    const prompt = passkeyPrompt(50_000, 3000, 40);
    const { context, question } = splitPrompt(prompt);
    expect(question).toHaveLength(400);
    expect(context + question).toBe(prompt);
    expect(question.endsWith('\nWhat is the pass key? The pass key is')).toBe(true);
  });

  test('is scored by the first integer of the output', () => {
    expect(scorePasskey(' 123. The', 123)).toBe(1);
    expect(scorePasskey(' the number 123 or 7', 123)).toBe(1);
    expect(scorePasskey('1234', 123)).toBe(0);
    expect(scorePasskey('12 3', 123)).toBe(0);
    expect(scorePasskey('no digits', 123)).toBe(0);
    expect(scorePasskey('', 123)).toBe(0);
  });
});

describe('the length in tokens', () => {
  const check = (encode: Encode, contextTokens: number, slack: number) => {
    const dataset = createPasskeyDataset({ contextTokens, samples: 10, seed: 3 }, encode);
    for (let i = 0; i < 10; i++) {
      const item = dataset.item(i);
      const { context, question } = splitPrompt(passkeyPrompt(item.key, item.garbageChars, item.depthPct));
      expect(item.prefillIds).toEqual(encode(context, true));
      expect(item.stepIds).toEqual(encode(question, false));
      expect(item.tokens).toBe(item.prefillIds.length + item.stepIds.length);
      expect(item.tokens).toBeLessThanOrEqual(contextTokens);
      expect(item.tokens).toBeGreaterThanOrEqual(contextTokens - slack);
    }
  };

  test.each([450, 1000, 1601, 10_000])('one token per character, %i tokens', (n) => check(chars, n, 0));
  test.each([100, 333, 1000, 10_000])('one token per word, %i tokens', (n) => check(words, n, 1));
  test.each([100, 1000, 9999])('tokens across periods, %i tokens', (n) => check(blocks, n, 0));

  test('an item does not depend on which others were made before', () => {
    const options = { contextTokens: 2000, samples: 10, seed: 1 };
    const forward = createPasskeyDataset(options, words);
    const all = Array.from({ length: 10 }, (_, i) => forward.item(i));
    for (const i of [9, 4, 0, 7]) expect(createPasskeyDataset(options, words).item(i)).toEqual(all[i]);
  });

  test('a context without room for the question is refused with the smallest that works', () => {
    const dataset = createPasskeyDataset({ contextTokens: 20, samples: 4, seed: 0 }, words);
    expect(() => dataset.item(0)).toThrow(/too short for the passkey prompt/);
  });

  test('the embedded tokenizer: at most the context, and no more than two tokens below', async () => {
    // One more character of filler can split the words around the cut anew and add three tokens at once.
    const tokenizer = await (await openCheckpoint('quest-tiny')).tokenizer();
    check((text, bos) => tokenizer.encode(text, { bos }), 3000, 2);
  });
});
