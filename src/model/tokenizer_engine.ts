/** @huggingface/tokenizers behind our interface: the library's ids, with what it does differently from the original put right. */
import { Tokenizer as Engine } from '@huggingface/tokenizers';
import { QuestError } from '../errors.js';
import { makeBpe } from './bpe.js';
import type { JsonObject } from './fields.js';
import type { Tokenizer } from './tokenizer.js';

export interface EngineOptions {
  /** tokenizer.json's content (or the like of it made from another format). */
  json: JsonObject;
  /** The pairs of `json.model.merges`, which may then be left out there. */
  merges: readonly (readonly [string, string])[];
  source: string;
  bosId: number | undefined;
  eosIds: number[];
  addsBos: boolean;
  vocabSize: number;
  /** Left out by `decode` with skipSpecial. */
  specialIds: ReadonlySet<number>;
  /** Applied to the text before the library sees it. */
  prepare?: (text: string) => string;
  /** Bytes that are no UTF-8: `run` replaces each byte of the whole run, `byte` only the bad ones. */
  badBytes: 'run' | 'byte';
  /** Each merge's rank where it is not its place in the list; the leftmost of equals goes first. */
  ranks?: readonly number[];
}

/** Builds a tokenizer. Throws E_TOKENIZER when the library cannot use the file. */
export function makeTokenizer(options: EngineOptions): Tokenizer {
  const { source, bosId, addsBos, specialIds, prepare } = options;
  const engine = buildEngine(options);
  const encode = (text: string, { bos = addsBos }: { bos?: boolean } = {}) => {
    if (bos && bosId === undefined)
      throw new QuestError('E_TOKENIZER', `${source} has no BOS token`, {
        hint: 'encode without BOS (--no-bos)',
      });
    const { ids } = engine.encode(prepare ? prepare(text) : text, { add_special_tokens: false });
    if (ids.some((id: number | undefined) => id === undefined))
      throw new QuestError(
        'E_TOKENIZER',
        `${source} has no token for a part of the text and no unknown token`,
        {
          hint: 'the tokenizer file may be incomplete',
        },
      );
    if (bos) ids.unshift(bosId as number);
    return Int32Array.from(ids);
  };
  const decode = (ids: ArrayLike<number>, { skipSpecial = false }: { skipSpecial?: boolean } = {}) => {
    const known: number[] = [];
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i] as number;
      if (!Number.isInteger(id) || id < 0)
        throw new QuestError('E_TOKEN_ID', `${id} is no token id; supported: 0 to ${options.vocabSize - 1}`);
      if (engine.id_to_token(id) !== undefined && !(skipSpecial && specialIds.has(id))) known.push(id);
    }
    return known.length === 0 ? '' : engine.decode(known, { clean_up_tokenization_spaces: false });
  };
  return { encode, decode, vocabSize: options.vocabSize, bosId, eosIds: options.eosIds, addsBos, source };
}

function buildEngine({ json, merges, source, badBytes, ranks }: EngineOptions): Engine {
  try {
    const model = json.model as JsonObject;
    const own = !model.continuing_subword_prefix && !model.end_of_word_suffix;
    const engine = new Engine(own ? { ...json, model: { ...model, merges: [] } } : json, {
      clean_up_tokenization_spaces: false,
    });
    if (own) (engine.model as unknown as { bpe: (word: string) => string[] }).bpe = makeBpe(merges, ranks);
    fixByteFallback(engine, badBytes);
    return engine;
  } catch (cause) {
    throw new QuestError('E_TOKENIZER', `${source} cannot be used: ${(cause as Error).message}`, {
      hint: 'the file is damaged or uses a feature that is not supported; fetch it again',
      cause,
    });
  }
}

/** The library's byte decoder drops U+FEFF and counts bad bytes as browsers do; the originals do neither. */
function fixByteFallback(engine: Engine, badBytes: EngineOptions['badBytes']): void {
  type Part = { config?: { type?: string }; decoders?: Part[]; text_decoder?: unknown };
  const visit = (part: Part | null) => {
    if (part?.config?.type === 'ByteFallback')
      part.text_decoder = { decode: (bytes: Uint8Array) => decodeBytes(bytes, badBytes) };
    part?.decoders?.forEach(visit);
  };
  visit(engine.decoder as unknown as Part | null);
}

/** UTF-8 with one U+FFFD per bad byte, or per byte of a run that is bad anywhere. */
export function decodeBytes(bytes: Uint8Array, badBytes: 'run' | 'byte'): string {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    if (badBytes === 'run') return '\ufffd'.repeat(bytes.length);
  }
  let text = '';
  for (let i = 0; i < bytes.length; ) {
    const length = [1, 2, 3, 4].find((n) => i + n <= bytes.length && isUtf8(bytes.subarray(i, i + n)));
    text += length === undefined ? '\ufffd' : strictUtf8.decode(bytes.subarray(i, i + length));
    i += length ?? 1;
  }
  return text;
}

const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function isUtf8(bytes: Uint8Array): boolean {
  try {
    strictUtf8.decode(bytes);
    return true;
  } catch {
    return false;
  }
}

/**
 * A pre-tokenizer that cuts before each run of `▁` changes no id when no merge makes a token with `▁` after another
 * character: nothing could have been merged across such a cut. It turns one huge word into many short, cached ones.
 */
export const SPACE_SPLIT = {
  type: 'Split',
  pattern: { Regex: '▁+[^▁]*|[^▁]+' },
  behavior: 'Isolated',
  invert: false,
} as const;

/** Metaspace's own cut: before every `▁`. */
export const WORD_SPLIT = { ...SPACE_SPLIT, pattern: { Regex: '▁[^▁]*|[^▁]+' } } as const;

/** Whether {@link SPACE_SPLIT} is safe for these merges. */
export function splitsAtSpaces(merges: Iterable<readonly [string, string]>): boolean {
  for (const [left, right] of merges) if (/[^▁]▁/u.test(left + right)) return false;
  return true;
}
