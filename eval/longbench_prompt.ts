/** From a row to token ids: the benchmark's prompt, cut in the middle where it is too long, in the model's chat format. */
import { createHash } from 'node:crypto';
import type { LongBenchRow } from '../datasets/longbench.js';
import { fillPrompt, taskPrompt } from '../datasets/longbench_tasks.js';
import { QuestError } from '../src/errors.js';
import type { ChatTemplate } from '../src/model/chat.js';
import type { Tokenizer } from '../src/model/index.js';
import { cutMiddle } from './cut_middle.js';
import { splitQuestion, usesChat } from './longbench_protocol.js';

/** Tokens below which a prompt cannot even hold its question. */
const SHORTEST = 32;

export interface PromptOptions {
  tokenizer: Tokenizer;
  chat: ChatTemplate | undefined;
  /** Tokens of the prompt with BOS and without what the chat template adds, at most: longer ones lose their middle. */
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

/** Makes the prompt of one row. */
export function buildPrompt(task: string, row: LongBenchRow, options: PromptOptions): BuiltPrompt {
  const { tokenizer, maxContext } = options;
  const { prompt, maxNewTokens } = taskPrompt(task);
  const room = maxContext - maxNewTokens;
  const text = fillPrompt(prompt, row);
  const chat = usesChat(task) ? options.chat : undefined;
  const build = (cut: string) => {
    const final = chat?.render(cut) ?? cut;
    const { context, question } = splitQuestion(task, final);
    const prefillIds = tokenizer.encode(context);
    const stepIds = tokenizer.encode(question, { bos: false });
    return { final, prefillIds, stepIds, tokens: prefillIds.length + stepIds.length };
  };
  // Without a template what counts is what is fed: encoded in two parts, a prompt can have a token more than in one.
  const count = (cut: string) => (chat === undefined ? build(cut).tokens : tokenizer.encode(cut).length);
  for (let limit = Math.min(options.maxLength, room); limit >= SHORTEST; ) {
    // No token stands for less than one byte, BOS and first spaces aside, so short texts need no counting.
    const short = Buffer.byteLength(text) + 3 < limit;
    const cut = short ? text : cutMiddle(text, limit, tokenizer, count);
    if (cut === undefined) break;
    const { final, prefillIds, stepIds, tokens } = build(cut);
    if (tokens <= room) {
      const hash = createHash('sha256').update(final).digest('hex').slice(0, 16);
      return { prefillIds, stepIds, truncated: cut !== text, hash };
    }
    limit = Math.min(limit, count(cut)) - (tokens - room); // the template needs tokens of its own
  }
  throw new QuestError('E_CONTEXT', `a prompt of ${task} does not fit into ${maxContext} tokens`, {
    hint: 'use a model with a longer context, or a smaller --max-length',
  });
}
