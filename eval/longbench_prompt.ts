/** From a row to token ids: the benchmark's prompt, cut in the middle where it is too long, in the model's chat format. */
import { createHash } from 'node:crypto';
import type { LongBenchRow } from '../datasets/longbench.js';
import { fillPrompt, taskPrompt } from '../datasets/longbench_tasks.js';
import { QuestError } from '../src/errors.js';
import type { ChatTemplate } from '../src/model/chat.js';
import type { Tokenizer } from '../src/model/index.js';
import { splitQuestion, usesChat } from './longbench_protocol.js';

/** Tokens below which a prompt cannot even hold its question. */
const SHORTEST = 32;

export interface PromptOptions {
  tokenizer: Tokenizer;
  chat: ChatTemplate | undefined;
  /** Tokens of the prompt before the chat template, at most: longer ones lose their middle. */
  maxLength: number;
  /** Tokens that the model can hold, answer included. */
  maxContext: number;
}

export interface BuiltPrompt {
  prefillIds: Int32Array;
  stepIds: Int32Array;
  truncated: boolean;
  /** First 16 hex digits of the text's SHA-256. */
  hash: string;
}

/** The first and the last half of `limit` tokens as text. */
function dropMiddle(ids: Int32Array, limit: number, tokenizer: Tokenizer): string {
  const half = Math.floor(limit / 2);
  const decode = (part: Int32Array) => tokenizer.decode(part, { skipSpecial: true });
  return decode(ids.subarray(0, half)) + decode(ids.subarray(ids.length - half));
}

/** Makes the prompt of one row. */
export function buildPrompt(task: string, row: LongBenchRow, options: PromptOptions): BuiltPrompt {
  const { tokenizer, chat, maxContext } = options;
  const { prompt, maxNewTokens } = taskPrompt(task);
  const room = maxContext - maxNewTokens;
  const text = fillPrompt(prompt, row);
  let whole: Int32Array | undefined;
  let limit = options.maxLength;
  for (let attempt = 0; attempt < 8 && limit >= SHORTEST; attempt++) {
    let cut = text;
    // No token stands for less than one byte, BOS and a first space aside, so short texts need no counting.
    if (whole !== undefined || Buffer.byteLength(text) + 2 >= limit) {
      whole ??= tokenizer.encode(text);
      if (whole.length > limit) cut = dropMiddle(whole, limit, tokenizer);
    }
    const final = chat !== undefined && usesChat(task) ? chat.render(cut) : cut;
    const { context, question } = splitQuestion(task, final);
    const prefillIds = tokenizer.encode(context);
    const stepIds = tokenizer.encode(question, { bos: false });
    const excess = prefillIds.length + stepIds.length - room;
    if (excess <= 0) {
      const hash = createHash('sha256').update(final).digest('hex').slice(0, 16);
      return { prefillIds, stepIds, truncated: cut !== text, hash };
    }
    // Text that was decoded and encoded again can have a few tokens more, and a template needs its own.
    whole ??= tokenizer.encode(text);
    limit = Math.min(limit, whole.length) - excess;
  }
  throw new QuestError('E_CONTEXT', `a prompt of ${task} does not fit into ${maxContext} tokens`, {
    hint: 'use a model with a longer context, or a smaller --max-length',
  });
}
