/** `tokenizer.json`. */
import { QuestError } from '../errors.js';
import { base, isObject, type JsonObject, readJsonObject, show } from './fields.js';
import type { Tokenizer } from './tokenizer.js';
import { makeTokenizer, SPACE_SPLIT, splitsAtSpaces, WORD_SPLIT } from './tokenizer_engine.js';
import { MAX_TOKENIZER_BYTES, type ModelTokenIds, type TokenizerConfig } from './tokenizer_files.js';

interface AddedToken {
  id: number;
  content: string;
  special?: boolean;
}

/** Loads a byte-pair tokenizer.json. Throws E_TOKENIZER naming what is wrong with the file. */
export async function loadTokenizerJson(
  file: string,
  config: TokenizerConfig,
  model: ModelTokenIds,
): Promise<Tokenizer> {
  const source = base(file);
  let json: JsonObject;
  try {
    json = (await readJsonObject(file, MAX_TOKENIZER_BYTES)) as JsonObject;
  } catch (cause) {
    if (!(cause instanceof QuestError) || cause.code !== 'E_JSON') throw cause;
    throw new QuestError('E_TOKENIZER', cause.message, { hint: cause.hint ?? 'fetch the file again', cause });
  }
  const { vocab, merges } = checkModel(json, source);
  const added = checkAddedTokens(json, source);
  const idOf = (text: string | undefined) =>
    text === undefined
      ? undefined
      : (added.find(({ content }) => content === text)?.id ?? ownId(vocab, text));
  const template = templateBos(json.post_processor);
  const bosId = template ?? idOf(config.bosToken) ?? model.bosId;
  const eosId = idOf(config.eosToken);
  const isLlama = /^Llama(Tokenizer|TokenizerFast)$/.test(config.className ?? '');
  let largest = -1;
  for (const id of Object.values(vocab)) largest = Math.max(largest, id);
  for (const { id } of added) largest = Math.max(largest, id);
  return makeTokenizer({
    json: {
      ...json,
      added_tokens: added,
      normalizer: json.normalizer ?? null,
      pre_tokenizer: preTokenizer(json, merges),
      // BOS is added by us; templates would only repeat it.
      post_processor: null,
      decoder: json.decoder ?? null,
    },
    merges,
    source,
    bosId,
    eosIds: eosId === undefined ? model.eosIds : [eosId],
    addsBos: bosId !== undefined && (config.addBos ?? (template !== undefined || isLlama)),
    vocabSize: largest + 1,
    specialIds: new Set(added.filter(({ special }) => special).map(({ id }) => id)),
    badBytes: 'run',
  });
}

/**
 * The file's pre-tokenizer. Where it leaves the text whole, a cut that changes no id makes it fast; where it is a Metaspace,
 * its cut before every `▁` is spelt out, since the library does not make it.
 */
function preTokenizer(json: JsonObject, merges: [string, string][]): unknown {
  const own = json.pre_tokenizer ?? null;
  const model = json.model as JsonObject;
  const whole = !model.ignore_merges && !model.continuing_subword_prefix && !model.end_of_word_suffix;
  const cut = whole && splitsAtSpaces(merges) ? [SPACE_SPLIT] : [];
  if (own === null) return cut[0] ?? null;
  if (!isObject(own) || own.type !== 'Metaspace') return own;
  const { replacement = '▁', split = true } = own;
  if (replacement !== '▁') return own;
  return { type: 'Sequence', pretokenizers: [own, ...(split ? [WORD_SPLIT] : cut)] };
}

function broken(source: string, what: string): QuestError {
  return new QuestError('E_TOKENIZER', `${source}: ${what}`, {
    hint: 'the file is damaged or of a kind that is not supported; fetch it again or use tokenizer.model',
  });
}

function checkModel(
  json: JsonObject,
  source: string,
): { vocab: Record<string, number>; merges: [string, string][] } {
  const { model } = json;
  if (!isObject(model)) throw broken(source, `model is ${show(model)}; supported: a BPE model`);
  if (model.type !== undefined && model.type !== 'BPE')
    throw broken(source, `model.type is ${show(model.type)}; supported: "BPE"`);
  const { vocab, merges } = model;
  if (!isObject(vocab) || !Object.values(vocab).every((id) => isTokenId(id)))
    throw broken(source, 'model.vocab is not an object of token ids');
  if (!Array.isArray(merges))
    throw broken(source, `model.merges is ${show(merges)}; supported: a list of pairs`);
  const pairs = merges.map((merge: unknown): [string, string] => {
    const pair = typeof merge === 'string' ? merge.split(' ') : merge;
    if (!Array.isArray(pair) || pair.length !== 2 || pair.some((part) => typeof part !== 'string'))
      throw broken(source, `model.merges holds ${show(merge)}; supported: pairs of texts`);
    return pair as [string, string];
  });
  // The library tells BPE by `type`, which old files lack.
  json.model = { ...model, type: 'BPE', merges: pairs };
  return { vocab: vocab as Record<string, number>, merges: pairs };
}

function checkAddedTokens(json: JsonObject, source: string): AddedToken[] {
  const added = json.added_tokens ?? [];
  if (!Array.isArray(added)) throw broken(source, `added_tokens is ${show(added)}; supported: a list`);
  for (const token of added)
    if (!isObject(token) || !isTokenId(token.id) || typeof token.content !== 'string' || token.content === '')
      throw broken(source, 'added_tokens holds an entry without id or content');
  return added as unknown as AddedToken[];
}

function isTokenId(id: unknown): boolean {
  return Number.isInteger(id) && (id as number) >= 0 && (id as number) <= 0x7fffffff;
}

function ownId(vocab: Record<string, number>, text: string): number | undefined {
  return Object.hasOwn(vocab, text) ? vocab[text] : undefined;
}

/** The id of the special token that a TemplateProcessing puts before the text, looking into Sequences. */
function templateBos(processor: unknown): number | undefined {
  if (!isObject(processor)) return undefined;
  if (processor.type === 'Sequence' && Array.isArray(processor.processors)) {
    for (const part of processor.processors) {
      const found = templateBos(part);
      if (found !== undefined) return found;
    }
  }
  if (processor.type !== 'TemplateProcessing' || !Array.isArray(processor.single)) return undefined;
  const [first] = processor.single;
  const name = isObject(first) && isObject(first.SpecialToken) ? first.SpecialToken.id : undefined;
  const special =
    isObject(processor.special_tokens) && typeof name === 'string'
      ? processor.special_tokens[name]
      : undefined;
  const id = isObject(special) && Array.isArray(special.ids) ? special.ids[0] : undefined;
  return Number.isInteger(id) ? (id as number) : undefined;
}
