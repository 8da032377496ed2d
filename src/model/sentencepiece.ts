/**
 * SentencePiece `tokenizer.model` (BPE): the protobuf's pieces become a vocabulary and merges for the tokenizer library.
 * Text that looks like a control token (`<s>`) is text, as SentencePiece itself has it.
 */
import { readFile } from 'node:fs/promises';
import { QuestError } from '../errors.js';
import { base, fileSize, show, unreadable } from './fields.js';
import { readModelProto, type SentencePieceModel, type SentencePieceType } from './sentencepiece_proto.js';
import type { Tokenizer } from './tokenizer.js';
import { makeTokenizer, SPACE_SPLIT, splitsAtSpaces } from './tokenizer_engine.js';
import { MAX_TOKENIZER_BYTES, type ModelTokenIds, type TokenizerConfig } from './tokenizer_files.js';

/** Loads a tokenizer.model. Throws E_TOKENIZER naming what is wrong or not supported. */
export async function loadSentencePiece(
  file: string,
  config: TokenizerConfig,
  model: ModelTokenIds,
): Promise<Tokenizer> {
  const source = base(file);
  const size = (await fileSize(file)) ?? 0;
  if (size > MAX_TOKENIZER_BYTES)
    throw broken(source, `has ${size} bytes; at most ${MAX_TOKENIZER_BYTES} are read`);
  const bytes = await readFile(file).catch((cause) => {
    throw unreadable(file, cause);
  });
  const proto = await readModelProto(bytes).catch((cause) => {
    throw broken(source, `is no SentencePiece model (${(cause as Error).message})`);
  });
  checkSupported(proto, source);
  const ids = (type: SentencePieceType) =>
    proto.pieces.flatMap((piece, id) => (piece.type === type ? [id] : []));
  const { merges, ranks } = recoverMerges(proto);
  const added = [...config.added].filter(([, id]) => id >= proto.pieces.length);
  const userDefined = ids('USER_DEFINED').map((id) => [proto.pieces[id]?.text as string, id] as const);
  const bosId = validId(proto.bosId, proto) ?? model.bosId;
  const eosId = validId(proto.eosId, proto);
  const unknown = ids('UNKNOWN')[0];
  return makeTokenizer({
    json: {
      added_tokens: [...userDefined, ...added].map(([content, id]) => ({
        id,
        content,
        special: false,
        normalized: false,
      })),
      normalizer: null,
      pre_tokenizer: splitsAtSpaces(merges) ? SPACE_SPLIT : null,
      post_processor: null,
      decoder: decoder(proto.addDummyPrefix),
      model: {
        type: 'BPE',
        vocab: Object.fromEntries(proto.pieces.map(({ text }, id) => [text, id])),
        merges: [],
        unk_token: unknown === undefined ? null : proto.pieces[unknown]?.text,
        byte_fallback: proto.byteFallback,
        // SentencePiece joins neighbouring unknown characters into one token.
        fuse_unk: ids('BYTE').length < 256,
      },
    },
    merges,
    source,
    bosId,
    eosIds: eosId === undefined ? model.eosIds : [eosId],
    addsBos: bosId !== undefined && (config.addBos ?? true),
    vocabSize: Math.max(proto.pieces.length, ...added.map(([, id]) => id + 1)),
    specialIds: new Set([...ids('CONTROL'), ...ids('UNKNOWN')]),
    prepare: (text) =>
      text === '' ? '' : (proto.addDummyPrefix ? ' ' : '').concat(text).replaceAll(' ', '▁'),
    badBytes: 'byte',
    ranks,
  });
}

function broken(source: string, what: string): QuestError {
  return new QuestError('E_TOKENIZER', `${source} ${what}`, {
    hint: "the file is damaged or of a kind that is not supported; use the model's tokenizer.json if it has one",
  });
}

function checkSupported(proto: SentencePieceModel, source: string): void {
  if (proto.pieces.length === 0) throw broken(source, 'holds no pieces');
  if (proto.modelType !== 'BPE') throw broken(source, `is of type ${proto.modelType}; supported: BPE`);
  if (proto.charsmapBytes > 0)
    throw broken(source, `normalises text by the rules ${show(proto.normalizer)}; supported: identity`);
  if (proto.removeExtraWhitespaces || !proto.escapeWhitespaces || proto.whitespaceSuffix)
    throw broken(
      source,
      'treats spaces in a way that is not supported (supported: kept, escaped, in front of words)',
    );
  if (proto.pieces.some(({ type }) => type === 'UNUSED'))
    throw broken(source, 'holds unused pieces, which are not supported');
  if (new Set(proto.pieces.map(({ text }) => text)).size !== proto.pieces.length)
    throw broken(source, 'holds the same piece twice');
}

/**
 * SentencePiece joins the neighbours whose joint piece has the best score, the leftmost of equals first. Every way to cut a
 * piece in two is therefore a merge, and all merges of equal score have one rank.
 */
function recoverMerges({ pieces }: SentencePieceModel): { merges: [string, string][]; ranks: number[] } {
  const scores = new Map(
    pieces.filter(({ type }) => type === 'NORMAL').map(({ text, score }) => [text, score]),
  );
  const found: { pair: [string, string]; score: number }[] = [];
  for (const [text, score] of scores) {
    const first = charLength(text, 0);
    for (let cut = first; cut < text.length; cut += charLength(text, cut)) {
      const left = text.slice(0, cut);
      const right = text.slice(cut);
      // A single character need not be a piece of its own to be joined.
      if ((cut === first || scores.has(left)) && (right.length === charLength(right, 0) || scores.has(right)))
        found.push({ pair: [left, right], score });
    }
  }
  found.sort((a, b) => b.score - a.score);
  let rank = -1;
  const ranks = found.map(({ score }, i) => {
    if (i === 0 || score !== found[i - 1]?.score) rank++;
    return rank;
  });
  return { merges: found.map(({ pair }) => pair), ranks };
}

/** UTF-16 units of the character at `at`. */
function charLength(text: string, at: number): number {
  return (text.codePointAt(at) as number) > 0xffff ? 2 : 1;
}

function decoder(dropFirstSpace: boolean) {
  const parts: object[] = [
    { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
  ];
  if (dropFirstSpace) parts.push({ type: 'Strip', content: ' ', start: 1, stop: 0 });
  return { type: 'Sequence', decoders: parts };
}

function validId(id: number, proto: SentencePieceModel): number | undefined {
  return id >= 0 && id < proto.pieces.length ? id : undefined;
}
