/** Which tokenizer a checkpoint folder has, and how its model uses it. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../errors.js';
import { Fields, fileSize, isObject, type JsonObject, readJsonObject } from './fields.js';
import type { Tokenizer } from './tokenizer.js';

/** What config.json says, for tokenizer files that do not say it themselves. */
export interface ModelTokenIds {
  bosId: number | undefined;
  eosIds: number[];
}

/** tokenizer_config.json, as far as it matters to ids. */
export interface TokenizerConfig {
  bosToken: string | undefined;
  eosToken: string | undefined;
  /** Undefined where the file does not say. */
  addBos: boolean | undefined;
  /** `tokenizer_class`, e.g. LlamaTokenizer. */
  className: string | undefined;
  /** Tokens beyond the main file, by content, from added_tokens.json and `added_tokens_decoder`. */
  added: Map<string, number>;
}

/** Largest tokenizer file read. */
export const MAX_TOKENIZER_BYTES = 256 << 20;

/**
 * Loads `tokenizer.json`, else SentencePiece's `tokenizer.model`. The libraries are imported here, not at start-up.
 * Throws E_TOKENIZER: with the files looked for when there is none, or with the reason when one cannot be used.
 */
export async function loadTokenizer(dir: string, model: ModelTokenIds): Promise<Tokenizer> {
  const config = await readTokenizerConfig(dir);
  const json = path.join(dir, 'tokenizer.json');
  if ((await fileSize(json)) !== undefined) {
    const { loadTokenizerJson } = await import('./tokenizer_json.js');
    return loadTokenizerJson(json, config, model);
  }
  const sentencePiece = path.join(dir, 'tokenizer.model');
  if ((await fileSize(sentencePiece)) !== undefined) {
    const { loadSentencePiece } = await import('./sentencepiece.js');
    return loadSentencePiece(sentencePiece, config, model);
  }
  throw new QuestError(
    'E_TOKENIZER',
    `${dir} holds no tokenizer: looked for tokenizer.json and tokenizer.model`,
    {
      hint: "copy the model's tokenizer files into the folder, or give token ids instead of text",
    },
  );
}

/** sha256 (hex, 16 digits) over all that {@link loadTokenizer} reads: the same text gives the same ids under it. */
export async function tokenizerHash(dir: string, model: ModelTokenIds): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify([model.bosId ?? null, model.eosIds]));
  for (const name of ['tokenizer.json', 'tokenizer.model', 'tokenizer_config.json', 'added_tokens.json']) {
    const bytes = await readFile(path.join(dir, name)).catch(() => undefined);
    hash.update(`${name} ${bytes?.length ?? 'absent'}\n`);
    if (bytes !== undefined) hash.update(bytes);
  }
  return hash.digest('hex').slice(0, 16);
}

async function readTokenizerConfig(dir: string): Promise<TokenizerConfig> {
  const name = 'tokenizer_config.json';
  const json = (await readJsonObject(path.join(dir, name))) ?? {};
  const fields = new Fields(name, json);
  const className = json.tokenizer_class;
  return {
    bosToken: tokenText(json.bos_token),
    eosToken: tokenText(json.eos_token),
    addBos: fields.missing('add_bos_token') ? undefined : fields.boolean('add_bos_token', false),
    className: typeof className === 'string' ? className : undefined,
    added: await readAddedTokens(dir, json),
  };
}

/** A token is written as its text or as an object with `content`. */
function tokenText(value: unknown): string | undefined {
  const text = isObject(value) ? value.content : value;
  return typeof text === 'string' ? text : undefined;
}

async function readAddedTokens(dir: string, config: JsonObject): Promise<Map<string, number>> {
  const added = new Map<string, number>();
  const add = (text: unknown, id: unknown) => {
    if (typeof text === 'string' && text !== '' && Number.isInteger(id) && (id as number) >= 0)
      added.set(text, id as number);
  };
  const file = (await readJsonObject(path.join(dir, 'added_tokens.json'))) ?? {};
  for (const [text, id] of Object.entries(file)) add(text, id);
  if (isObject(config.added_tokens_decoder))
    for (const [id, token] of Object.entries(config.added_tokens_decoder)) add(tokenText(token), Number(id));
  return added;
}
