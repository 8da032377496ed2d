/** The prompt of generate and demo: a text, an instruction after it, and the model's chat format around both. */
import { cutMiddle } from '../../eval/cut_middle.js';
import { QuestError } from '../errors.js';
import { type ChatTemplate, findChatTemplate } from '../model/chat.js';
import type { Checkpoint, Tokenizer } from '../model/index.js';
import { readText } from './input.js';
import type { Settings } from './settings.js';

export interface Prompt {
  /** Prefilled densely. */
  prefillIds: Int32Array;
  /** The instruction and what the format puts after it: fed as decode steps through the method. Empty without an instruction. */
  stepIds: Int32Array;
  /** The chat format, where one was applied. */
  format: string | undefined;
}

/** The text of `--prompt` or `--prompt-file`; empty when neither was given and `--instruction` was. */
export async function readPromptText(settings: Settings): Promise<string> {
  const [text, file] = [settings.maybeString('prompt'), settings.maybeString('prompt-file')];
  if (text !== undefined && file !== undefined)
    throw new QuestError('E_USAGE', 'both --prompt and --prompt-file were given', {
      hint: 'give one of --prompt TEXT and --prompt-file FILE',
    });
  if (text === undefined && file === undefined) {
    if (settings.maybeString('instruction') !== undefined) return '';
    throw new QuestError('E_USAGE', 'there is no prompt', {
      hint: 'give --prompt TEXT or --prompt-file FILE, and --instruction TEXT for what to do with it',
    });
  }
  const prompt = text ?? (await readText(file!, '--prompt-file'));
  if (prompt === '')
    throw new QuestError('E_INPUT', `${file} is empty`, { hint: 'a prompt needs at least one character' });
  return prompt;
}

/**
 * Puts the instruction after the text and the chat format around both, and cuts where the instruction begins: what comes
 * before is known long before the question is, so it is prefilled; the rest goes through the method. Without an instruction
 * the text is continued as it stands.
 */
export function composePrompt(
  tokenizer: Tokenizer,
  text: string,
  instruction: string | undefined,
  chat: ChatTemplate | undefined,
): Prompt {
  const none = new Int32Array(0);
  if (instruction === undefined)
    return { prefillIds: tokenizer.encode(text), stepIds: none, format: undefined };
  const question = instruction.trim();
  const message = text === '' ? question : `${text.trimEnd()}\n\n${question}`;
  const whole = chat?.render(message) ?? message;
  const at = whole.lastIndexOf(question);
  if (question === '' || at < 0)
    throw new QuestError(
      'E_TEMPLATE',
      question === ''
        ? '--instruction is empty'
        : `the chat format ${chat?.name} changes the instruction, so that its tokens cannot be told apart`,
      { hint: question === '' ? 'say what to do with the text' : 'leave the format out with --chat none' },
    );
  const prefillIds = tokenizer.encode(whole.slice(0, at));
  const stepIds = tokenizer.encode(whole.slice(at), { bos: prefillIds.length === 0 && tokenizer.addsBos });
  const format = chat?.name;
  // Nothing before the instruction: then it is the prompt.
  return prefillIds.length === 0
    ? { prefillIds: stepIds, stepIds: none, format }
    : { prefillIds, stepIds, format };
}

const tokensOf = ({ prefillIds, stepIds }: Prompt): number => prefillIds.length + stepIds.length;

/** Reads and composes what the options say. `note` hears how much of the text `--max-length` has left out. */
export async function readPrompt(
  settings: Settings,
  checkpoint: Checkpoint,
  note: (text: string) => void,
): Promise<Prompt> {
  const text = await readPromptText(settings);
  const instruction = settings.maybeString('instruction');
  const chat =
    instruction === undefined || settings.string('chat') === 'none'
      ? undefined
      : await findChatTemplate(checkpoint);
  const tokenizer = await checkpoint.tokenizer();
  const compose = (part: string) => composePrompt(tokenizer, part, instruction, chat);
  const whole = compose(text);
  const limit = settings.maybeNumber('max-length');
  if (limit === undefined || tokensOf(whole) <= limit) return whole;
  const cut = cutMiddle(text, limit, tokenizer, (part) => tokensOf(compose(part)));
  if (cut === undefined)
    throw new QuestError(
      'E_CONTEXT',
      `the instruction alone has more than the ${limit} tokens of --max-length`,
      {
        hint: 'use a longer --max-length or a shorter instruction',
      },
    );
  const prompt = compose(cut);
  note(`the prompt's ${tokensOf(whole)} tokens are cut to ${tokensOf(prompt)}: the text loses its middle`);
  return prompt;
}

/** Refuses a prompt that leaves no room for the answer. */
export function checkRoom(checkpoint: Checkpoint, prompt: Prompt, maxTokens: number): void {
  const tokens = tokensOf(prompt);
  const { maxContext } = checkpoint.spec;
  const room = maxContext - maxTokens;
  if (tokens + maxTokens <= maxContext) return;
  throw new QuestError(
    'E_CONTEXT',
    `the prompt's ${tokens} tokens and ${maxTokens} new ones exceed the ${maxContext} that ${checkpoint.name} supports`,
    {
      hint:
        room >= 64
          ? `use --max-length ${room} (the text loses its middle), a shorter prompt or fewer --max-tokens`
          : 'use a shorter prompt or fewer --max-tokens',
    },
  );
}
