/** The part of SentencePiece's ModelProto that encoding needs, read with protobufjs. */

export type SentencePieceType = 'NORMAL' | 'UNKNOWN' | 'CONTROL' | 'USER_DEFINED' | 'UNUSED' | 'BYTE';

export interface SentencePieceModel {
  /** By id. */
  pieces: { text: string; score: number; type: SentencePieceType }[];
  modelType: string;
  /** Negative: none. */
  bosId: number;
  eosId: number;
  byteFallback: boolean;
  whitespaceSuffix: boolean;
  normalizer: string;
  charsmapBytes: number;
  addDummyPrefix: boolean;
  removeExtraWhitespaces: boolean;
  escapeWhitespaces: boolean;
}

const PIECE_TYPES: Readonly<Record<SentencePieceType, number>> = {
  NORMAL: 1,
  UNKNOWN: 2,
  CONTROL: 3,
  USER_DEFINED: 4,
  UNUSED: 5,
  BYTE: 6,
};
const MODEL_TYPES = { UNIGRAM: 1, BPE: 2, WORD: 3, CHAR: 4 } as const;

const flag = (id: number, value: boolean) => ({ type: 'bool', id, options: { default: value } });

/** Field numbers and defaults of the format. Under proto3 rules an explicit `false` would be lost to a default of true. */
const SCHEMA = {
  nested: {
    Piece: {
      edition: 'proto2',
      fields: {
        piece: { type: 'string', id: 1 },
        score: { type: 'float', id: 2 },
        type: { type: 'int32', id: 3, options: { default: PIECE_TYPES.NORMAL } },
      },
    },
    Trainer: {
      edition: 'proto2',
      fields: {
        modelType: { type: 'int32', id: 3, options: { default: MODEL_TYPES.UNIGRAM } },
        whitespaceSuffix: flag(24, false),
        byteFallback: flag(35, false),
        bosId: { type: 'int32', id: 41, options: { default: 1 } },
        eosId: { type: 'int32', id: 42, options: { default: 2 } },
      },
    },
    Normalizer: {
      edition: 'proto2',
      fields: {
        name: { type: 'string', id: 1 },
        charsmap: { type: 'bytes', id: 2 },
        addDummyPrefix: flag(3, true),
        removeExtraWhitespaces: flag(4, true),
        escapeWhitespaces: flag(5, true),
      },
    },
    Model: {
      edition: 'proto2',
      fields: {
        pieces: { rule: 'repeated', type: 'Piece', id: 1 },
        trainer: { type: 'Trainer', id: 2 },
        normalizer: { type: 'Normalizer', id: 3 },
      },
    },
  },
};

interface RawModel {
  pieces: { piece: string; score: number; type: number }[];
  trainer?: {
    modelType: number;
    whitespaceSuffix: boolean;
    byteFallback: boolean;
    bosId: number;
    eosId: number;
  };
  normalizer?: {
    name: string;
    charsmap: Uint8Array;
    addDummyPrefix: boolean;
    removeExtraWhitespaces: boolean;
    escapeWhitespaces: boolean;
  };
}

/** Decodes a tokenizer.model. Throws a plain Error when the bytes are no such message. */
export async function readModelProto(bytes: Uint8Array): Promise<SentencePieceModel> {
  const { Root } = await import('protobufjs/light.js');
  const raw = Root.fromJSON(SCHEMA).lookupType('Model').decode(bytes) as unknown as RawModel;
  const { trainer, normalizer } = raw;
  if (!trainer || !normalizer) throw new Error('its trainer or normalizer settings are missing');
  return {
    pieces: raw.pieces.map(({ piece, score, type }, id) => ({
      text: checkText(piece, id),
      score: checkScore(score, id),
      type: pieceType(type, id),
    })),
    modelType: nameOf(MODEL_TYPES, trainer.modelType) ?? String(trainer.modelType),
    bosId: trainer.bosId,
    eosId: trainer.eosId,
    byteFallback: trainer.byteFallback,
    whitespaceSuffix: trainer.whitespaceSuffix,
    normalizer: normalizer.name,
    charsmapBytes: normalizer.charsmap.length,
    addDummyPrefix: normalizer.addDummyPrefix,
    removeExtraWhitespaces: normalizer.removeExtraWhitespaces,
    escapeWhitespaces: normalizer.escapeWhitespaces,
  };
}

function checkText(text: string, id: number): string {
  if (text === '') throw new Error(`piece ${id} is empty`);
  return text;
}

function checkScore(score: number, id: number): number {
  if (!Number.isFinite(score)) throw new Error(`piece ${id} has no finite score`);
  return score;
}

function pieceType(type: number, id: number): SentencePieceType {
  const name = nameOf(PIECE_TYPES, type);
  if (!name) throw new Error(`piece ${id} has the unknown type ${type}`);
  return name;
}

function nameOf<K extends string>(table: Readonly<Record<K, number>>, value: number): K | undefined {
  return (Object.keys(table) as K[]).find((name) => table[name] === value);
}
