/** Chat templates: what a checkpoint's chat model expects around a user's message. */

import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { runInNewContext } from 'node:vm';
import { QuestError } from '../errors.js';
import type { Checkpoint } from './checkpoint.js';
import {
  base,
  fileSize,
  isNotFound,
  isObject,
  type JsonObject,
  readJsonObject,
  unreadable,
} from './fields.js';

export interface ChatTemplate {
  /** `vicuna-v1.1`, or the file that holds it. */
  name: string;
  /** The text to tokenise for one user message, up to where the answer begins; without the BOS that the tokenizer adds. */
  render(message: string): string;
}

/** Vicuna's conversation format, version 1.1 (FastChat), which LongChat shares; their checkpoints carry no template. */
const VICUNA: ChatTemplate = {
  name: 'vicuna-v1.1',
  render: (message) =>
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions." +
    ` USER: ${message} ASSISTANT:`,
};

/** A template's text: a string, or the one called `default` of a list. */
function templateText(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return undefined;
  const named = value.filter(isObject);
  const found = named.find((item) => item.name === 'default') ?? named[0];
  return typeof found?.template === 'string' ? found.template : undefined;
}

const tokenText = (value: unknown): string => {
  const text = isObject(value) ? value.content : value;
  return typeof text === 'string' ? text : '';
};

/** Templates have some kilobytes. */
const MAX_TEMPLATE_BYTES = 1 << 20;
/** A template is a program of somebody else's; one that does not end must not hang the run. */
const RENDER_TIMEOUT_MS = 10_000;

const unusable = (name: string, why: string, cause?: unknown) =>
  new QuestError('E_TEMPLATE', `the chat template in ${name} cannot be used: ${why}`, {
    hint: 'leave it out with --chat none',
    cause,
  });

async function readOptional(file: string): Promise<string | undefined> {
  const size = await fileSize(file);
  if (size !== undefined && size > MAX_TEMPLATE_BYTES)
    throw unusable(base(file), `it has ${size} bytes; at most ${MAX_TEMPLATE_BYTES} are accepted`);
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw unreadable(file, error);
  }
}

async function jinjaTemplate(
  name: string,
  text: string,
  config: JsonObject,
  addsBos: boolean,
  timeoutMs: number,
): Promise<ChatTemplate> {
  const failed = (cause: unknown) =>
    unusable(
      name,
      (cause as { code?: unknown }).code === 'ERR_SCRIPT_EXECUTION_TIMEOUT'
        ? `it takes longer than ${timeoutMs / 1000} s`
        : (cause as Error).message,
      cause,
    );
  const { Template } = await import('@huggingface/jinja');
  const bos = tokenText(config.bos_token);
  let template: InstanceType<typeof Template>;
  try {
    template = new Template(text);
  } catch (cause) {
    throw failed(cause);
  }
  return {
    name,
    render(message) {
      let rendered: string;
      try {
        const render = () =>
          template.render({
            messages: [{ role: 'user', content: message }],
            add_generation_prompt: true,
            // Llama 3's templates write a date; today's would make another prompt every day, so it is their own default.
            date_string: '26 Jul 2024',
            bos_token: bos,
            eos_token: tokenText(config.eos_token),
          });
        // Only for the time limit: what runs is our interpreter, not the template.
        rendered = runInNewContext('render()', { render }, { timeout: timeoutMs }) as string;
      } catch (cause) {
        throw failed(cause);
      }
      // Many templates write the token that the tokenizer adds itself; twice would be one too many.
      return addsBos && bos !== '' && rendered.startsWith(bos) ? rendered.slice(bos.length) : rendered;
    },
  };
}

/** The template of a checkpoint: its preset's, Vicuna's for its kin, else the one its files hold; undefined for base models. */
export async function findChatTemplate(
  checkpoint: Checkpoint,
  timeoutMs = RENDER_TIMEOUT_MS,
): Promise<ChatTemplate | undefined> {
  const { name, dir, preset } = checkpoint;
  if (preset?.chat === 'none') return undefined;
  if (preset?.chat === VICUNA.name) return VICUNA;
  if (/longchat|vicuna/i.test(`${name} ${path.basename(dir)}`)) return VICUNA;
  const config = (await readJsonObject(path.join(dir, 'tokenizer_config.json'))) ?? {};
  const own = 'chat_template.jinja';
  const file = await readOptional(path.join(dir, own));
  const text = file ?? templateText(config.chat_template);
  if (text === undefined) return undefined;
  const { addsBos } = await checkpoint.tokenizer();
  return jinjaTemplate(file === undefined ? 'tokenizer_config.json' : own, text, config, addsBos, timeoutMs);
}
