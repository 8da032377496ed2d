/**
 * RoPE frequencies from config.json, in both of transformers' notations. fp32 is rounded step by step as torch does
 * (Math.fround after each tensor operation; Python scalars stay double until they meet a tensor).
 */
import { QuestError } from '../errors.js';
import { type Fields, show } from './fields.js';
import type { RopeSpec } from './spec.js';

const KINDS = ['default', 'linear', 'llama3', 'yarn'] as const;
export type RopeKind = (typeof KINDS)[number];

/** What config.json says about positions, checked, in one notation. */
export interface RopeParams {
  kind: RopeKind;
  theta: number;
  /** linear, llama3, yarn: context extension. */
  factor: number;
  /** llama3, yarn: tokens of the context before extension. */
  originalContext: number;
  /** llama3 */
  lowFreqFactor: number;
  highFreqFactor: number;
  /** yarn */
  betaFast: number;
  betaSlow: number;
  truncate: boolean;
  attentionFactor: number | undefined;
  mscale: number | undefined;
  mscaleAllDim: number | undefined;
}

const f32 = Math.fround;
const MAX_CONTEXT = 1 << 30;

/**
 * Reads `rope_parameters` (transformers 5) or `rope_theta` + `rope_scaling` (transformers 4).
 * `maxContext` in tokens is the default of yarn's original context. Throws E_CONFIG naming the key.
 */
export function readRope(config: Fields, maxContext: number, defaultTheta: number): RopeParams {
  const topTheta = config.number('rope_theta', 1, 1e15, defaultTheta);
  const modern = config.object('rope_parameters');
  const scaling = config.object('rope_scaling');
  const params = readParams(modern ?? scaling, topTheta, maxContext);
  if (modern && scaling) {
    const other = readParams(scaling, params.theta, maxContext);
    if (JSON.stringify(other) !== JSON.stringify(params))
      throw new QuestError(
        'E_CONFIG',
        `${config.where}: rope_parameters and rope_scaling contradict each other`,
        {
          hint: 'keep the one that the model was trained with and remove the other',
        },
      );
  }
  return condensed(config, params, modern ?? scaling);
}

/** LongChat's own notation, which its first revisions have alone: `rope_condense_ratio` is linear scaling by that factor. */
function condensed(config: Fields, params: RopeParams, rope: Fields | undefined): RopeParams {
  const ratio = config.number('rope_condense_ratio', 1, 1e6, 1);
  if (ratio === 1) return params;
  if (rope === undefined) return { ...params, kind: 'linear', factor: ratio };
  if (params.factor !== ratio || params.kind !== 'linear')
    throw config.error(
      'rope_condense_ratio',
      `${params.factor}, the linear factor that the scaling beside it has`,
    );
  return params;
}

function readParams(rope: Fields | undefined, topTheta: number, maxContext: number): RopeParams {
  const params: RopeParams = {
    kind: 'default',
    theta: topTheta,
    factor: 1,
    originalContext: maxContext,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    betaFast: 32,
    betaSlow: 1,
    truncate: true,
    attentionFactor: undefined,
    mscale: undefined,
    mscaleAllDim: undefined,
  };
  if (!rope) return params;
  params.kind = readKind(rope);
  params.theta = rope.number('rope_theta', 1, 1e15, topTheta);
  if (!rope.missing('partial_rotary_factor') && rope.values.partial_rotary_factor !== 1)
    throw rope.error('partial_rotary_factor', '1 (the whole head is rotated)');
  if (params.kind === 'linear') params.factor = rope.number('factor', 1, 1e6);
  if (params.kind === 'llama3') readLlama3(rope, params);
  if (params.kind === 'yarn') readYarn(rope, params, maxContext);
  return params;
}

function readKind(rope: Fields): RopeKind {
  const key = rope.missing('rope_type') ? 'type' : 'rope_type';
  if (rope.missing(key)) {
    if (Object.values(rope.values).some((value) => typeof value === 'object' && value !== null))
      throw new QuestError(
        'E_CONFIG',
        `${rope.where} gives one set of values per layer type; supported: one for all`,
        {
          hint: 'models that mix layer types are not supported',
        },
      );
    if (!rope.missing('factor')) throw rope.error('rope_type', KINDS.join(', '));
    return 'default';
  }
  const kind = KINDS.find((name) => name === rope.values[key]);
  if (!kind) throw rope.error(key, KINDS.join(', '), 'this position scaling is not implemented');
  for (const other of ['rope_type', 'type'])
    if (!rope.missing(other) && rope.values[other] !== kind)
      throw rope.error(other, `${show(kind)}, as ${key} says`);
  return kind;
}

function readLlama3(rope: Fields, params: RopeParams): void {
  params.factor = rope.number('factor', 1, 1e6);
  params.lowFreqFactor = rope.number('low_freq_factor', 1e-6, 1e6);
  params.highFreqFactor = rope.number('high_freq_factor', 1e-6, 1e6);
  params.originalContext = rope.integer('original_max_position_embeddings', 1, MAX_CONTEXT);
  if (params.highFreqFactor <= params.lowFreqFactor)
    throw rope.error('high_freq_factor', `more than low_freq_factor, which is ${params.lowFreqFactor}`);
}

function readYarn(rope: Fields, params: RopeParams, maxContext: number): void {
  params.originalContext = rope.integer('original_max_position_embeddings', 1, MAX_CONTEXT, maxContext);
  params.factor = rope.number('factor', 1, 1e6, maxContext / params.originalContext);
  params.betaFast = rope.number('beta_fast', 1e-6, 1e6, 32);
  params.betaSlow = rope.number('beta_slow', 1e-6, 1e6, 1);
  params.truncate = rope.boolean('truncate', true);
  if (!rope.missing('attention_factor')) params.attentionFactor = rope.number('attention_factor', 1e-6, 1e6);
  if (!rope.missing('mscale')) params.mscale = rope.number('mscale', 0, 1e6);
  if (!rope.missing('mscale_all_dim')) params.mscaleAllDim = rope.number('mscale_all_dim', 0, 1e6);
  if (params.betaFast < params.betaSlow)
    throw rope.error('beta_fast', `at least beta_slow, which is ${params.betaSlow}`);
  if (params.theta === 1) throw rope.error('rope_theta', 'more than 1 for yarn');
}

/**
 * Tokens that a model with `positions` (max_position_embeddings) supports. Beside linear scaling transformers documents that
 * number as the one before it; with yarn both habits exist, so that the original context decides. Llama 3.1's is the final one.
 */
export function extendedContext({ kind, factor, originalContext }: RopeParams, positions: number): number {
  if (kind !== 'linear' && kind !== 'yarn') return positions;
  return Math.min(1 << 28, Math.floor((kind === 'linear' ? positions : originalContext) * factor));
}

/** Frequencies of a head of `headDim` numbers: invFreq [headDim / 2] in radians per token, and the factor on cos and sin. */
export function ropeSpec(params: RopeParams, headDim: number): RopeSpec {
  const period = new Float32Array(headDim / 2).map((_, i) => f32(params.theta) ** f32((2 * i) / headDim));
  const plain = period.map((value) => 1 / value);
  switch (params.kind) {
    case 'default':
      return { invFreq: plain, attentionFactor: 1 };
    case 'linear':
      return { invFreq: plain.map((value) => value / f32(params.factor)), attentionFactor: 1 };
    case 'llama3':
      return { invFreq: plain.map((value) => llama3Frequency(value, params)), attentionFactor: 1 };
    case 'yarn':
      return {
        invFreq: yarnFrequencies(period, params, headDim),
        attentionFactor: yarnAttentionFactor(params),
      };
  }
}

/** Llama 3.1: long waves are stretched by `factor`, short ones kept, those between blended. */
function llama3Frequency(frequency: number, p: RopeParams): number {
  const wave = f32(f32(2 * Math.PI) / frequency);
  const stretched = f32(frequency / f32(p.factor));
  if (wave > f32(p.originalContext / p.lowFreqFactor)) return stretched;
  if (wave < f32(p.originalContext / p.highFreqFactor)) return frequency;
  const turns = f32(f32(p.originalContext) / wave);
  const keep = f32(f32(turns - f32(p.lowFreqFactor)) / f32(p.highFreqFactor - p.lowFreqFactor));
  const stretchedPart = f32(f32(f32(1 - keep) * frequency) / f32(p.factor));
  return stretchedPart + f32(keep * frequency);
}

/** Yarn: pairs that turn more than betaFast times over the original context keep their frequency, those under betaSlow are stretched. */
function yarnFrequencies(period: Float32Array, p: RopeParams, headDim: number): Float32Array {
  const pairAt = (turns: number) =>
    (headDim * Math.log(p.originalContext / (turns * 2 * Math.PI))) / (2 * Math.log(p.theta));
  let low = pairAt(p.betaFast);
  let high = pairAt(p.betaSlow);
  if (p.truncate) {
    low = Math.floor(low);
    high = Math.ceil(high);
  }
  low = Math.max(low, 0);
  high = Math.min(high, headDim - 1);
  if (low === high) high += 0.001;
  return period.map((value, i) => {
    const ramp = Math.min(Math.max(f32(f32(i - f32(low)) / f32(high - low)), 0), 1);
    const keep = f32(1 - ramp);
    const stretched = f32(1 / f32(f32(p.factor) * value));
    return f32(stretched * f32(1 - keep)) + f32(f32(1 / value) * keep);
  });
}

function yarnAttentionFactor(p: RopeParams): number {
  if (p.attentionFactor !== undefined) return p.attentionFactor;
  const magnitude = (weight: number) => (p.factor <= 1 ? 1 : 0.1 * weight * Math.log(p.factor) + 1);
  return p.mscale && p.mscaleAllDim ? magnitude(p.mscale) / magnitude(p.mscaleAllDim) : magnitude(1);
}
