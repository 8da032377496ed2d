/** Shapes of models that benchmarks make up: random weights need no checkpoint. */
import { QuestError } from '../../src/errors.js';
import type { ModelSpec, WeightType } from '../../src/model/spec.js';

type Shape = Pick<ModelSpec, 'nLayers' | 'hidden' | 'nHeads' | 'nKvHeads' | 'headDim' | 'ffn' | 'vocab'>;

export const SHAPES: Readonly<Record<string, Shape>> = {
  'llama2-7b': {
    nLayers: 32,
    hidden: 4096,
    nHeads: 32,
    nKvHeads: 32,
    headDim: 128,
    ffn: 11008,
    vocab: 32000,
  },
  'llama2-13b': {
    nLayers: 40,
    hidden: 5120,
    nHeads: 40,
    nKvHeads: 40,
    headDim: 128,
    ffn: 13824,
    vocab: 32000,
  },
  'llama3.1-8b': {
    nLayers: 32,
    hidden: 4096,
    nHeads: 32,
    nKvHeads: 8,
    headDim: 128,
    ffn: 14336,
    vocab: 128256,
  },
  'mistral-7b': {
    nLayers: 32,
    hidden: 4096,
    nHeads: 32,
    nKvHeads: 8,
    headDim: 128,
    ffn: 14336,
    vocab: 32768,
  },
  // For trying the benchmark out on any machine.
  tiny: { nLayers: 4, hidden: 256, nHeads: 4, nKvHeads: 2, headDim: 64, ffn: 768, vocab: 4096 },
};

/** The shape of a name in the table. */
export function shapeOf(name: string): Shape {
  const shape = SHAPES[name];
  if (shape !== undefined) return shape;
  throw new QuestError('E_OPTION', `there is no shape "${name}"`, {
    hint: `there are ${Object.keys(SHAPES).join(', ')}`,
  });
}

/** A model of that shape with random weights, for contexts up to `maxContext` tokens. */
export function randomSpec(name: string, weights: WeightType, maxContext: number): ModelSpec {
  const shape = shapeOf(name);
  const invFreq = Float32Array.from(
    { length: shape.headDim / 2 },
    (_, i) => 10000 ** ((-2 * i) / shape.headDim),
  );
  return {
    ...shape,
    normEps: 1e-5,
    maxContext,
    rope: { invFreq, attentionFactor: 1 },
    tiedEmbeddings: false,
    qkvBias: false,
    randomWeights: weights,
    files: [],
    tensors: {},
  };
}

/** Bytes of the weights, the embedding's among them. */
export function weightBytes(name: string, weights: WeightType): number {
  const { nLayers, hidden, nHeads, nKvHeads, headDim, ffn, vocab } = shapeOf(name);
  const layer = 2 * hidden * headDim * (nHeads + nKvHeads) + 3 * hidden * ffn;
  // Four bits and, in groups of 128, 20 for a scale and a zero.
  const perWeight = weights === 'int4' ? 0.5 + 2.5 / 128 : 2;
  return 4 * vocab * hidden + nLayers * layer * perWeight;
}

/** The matrix products of a layer and the head, as [n, k]. */
export function matricesOf(name: string): { name: string; n: number; k: number }[] {
  const { hidden, nHeads, nKvHeads, headDim, ffn, vocab } = shapeOf(name);
  return [
    { name: 'qkv', n: (nHeads + 2 * nKvHeads) * headDim, k: hidden },
    { name: 'o', n: hidden, k: nHeads * headDim },
    { name: 'gate_up', n: 2 * ffn, k: hidden },
    { name: 'down', n: hidden, k: ffn },
    { name: 'lm_head', n: vocab, k: hidden },
  ];
}

/** `32/8` as numbers of query and KV heads. */
export function parseHeads(text: string): { nHeads: number; nKvHeads: number } {
  const found = /^(\d{1,4})\/(\d{1,4})$/.exec(text);
  const [nHeads, nKvHeads] = [Number(found?.[1]), Number(found?.[2])];
  if (found !== null && nKvHeads >= 1 && nHeads % nKvHeads === 0 && nHeads >= 1) return { nHeads, nKvHeads };
  throw new QuestError('E_OPTION', `--heads wants query heads / KV heads, got "${text}"`, {
    hint: 'the query heads are a multiple of the KV heads, e.g. 32/32 or 32/8',
  });
}
