/** The passkey protocol as a task: the haystack is prefilled, the last 400 characters and the answer go through the method. */
import {
  createPasskeyDataset,
  PASSKEY_NEW_TOKENS,
  type PasskeyOptions,
  passkeyDepth,
  passkeyKey,
  passkeyPrompt,
  scorePasskey,
} from '../datasets/passkey.js';
import { QuestError } from '../src/errors.js';
import type { Tokenizer } from '../src/model/index.js';
import type { Task } from './task.js';
import { NO_TOKEN_CACHE, type TokenCache, type Tokenised, textHash } from './token_cache.js';

/** Refuses what the protocol cannot do, before any work. */
export function checkPasskeyOptions(options: PasskeyOptions, maxContext: number, modelName: string): void {
  const { contextTokens, samples, depths } = options;
  const needed = contextTokens + PASSKEY_NEW_TOKENS;
  if (needed > maxContext) {
    throw new QuestError(
      'E_CONTEXT',
      `a context of ${contextTokens} tokens and ${PASSKEY_NEW_TOKENS} generated ones exceed the ${maxContext} that ${modelName} supports`,
      { hint: `use --context ${maxContext - PASSKEY_NEW_TOKENS} or less, or a model with a longer context` },
    );
  }
  if (samples > 100 && depths === undefined) {
    throw new QuestError(
      'E_SAMPLES',
      `the protocol's depth rule floor(100/N) has no depths for ${samples} samples`,
      {
        hint: 'use at most 100 samples, or name the depths with --depths',
      },
    );
  }
}

/** Makes the task; items are tokenised when asked for. */
export function createPasskeyTask(
  options: PasskeyOptions,
  tokenizer: Tokenizer,
  cache: TokenCache = NO_TOKEN_CACHE,
): Task {
  const dataset = createPasskeyDataset(options, (text, bos) => tokenizer.encode(text, { bos }));
  const { contextTokens, samples, seed, depths } = options;
  const tokenised = (index: number, key: number, depthPct: number): Tokenised =>
    // A prompt of this key and depth stands for the wording; its length is searched from the context.
    cache.through(['passkey', contextTokens, depthPct, textHash(passkeyPrompt(key, 1000, depthPct))], () => {
      const { prefillIds, stepIds, garbageChars } = dataset.item(index);
      return { ids: [prefillIds, stepIds], facts: { garbageChars } };
    });
  let last: { index: number; made: Tokenised } | undefined;
  return {
    name: 'passkey',
    params: { context_tokens: contextTokens, samples, seed, ...(depths && { depths }) },
    count: samples,
    item(index) {
      const key = passkeyKey(seed, index);
      const depthPct = passkeyDepth(samples, index, depths);
      // The first item is asked for twice: when memory is estimated, and when it is run.
      const made = last?.index === index ? last.made : tokenised(index, key, depthPct);
      last = { index, made };
      return {
        id: `passkey/${contextTokens}/${seed}/${index}`,
        index,
        prefillIds: made.ids[0]!,
        stepIds: made.ids[1]!,
        maxNewTokens: PASSKEY_NEW_TOKENS,
        fields: { depth_pct: depthPct, answer: key, garbage_chars: Number(made.facts.garbageChars) },
        score: (text) => scorePasskey(text, key),
      };
    },
  };
}
