/** config.json -> the numbers that the runtime needs, or a refusal that names the key. */
import { QuestError } from '../errors.js';
import { ARCHITECTURES, type Architecture, supportedArchitectures } from './architectures.js';
import { type AwqFormat, readQuantization } from './awq.js';
import { Fields, type JsonObject, show, tokenIds } from './fields.js';
import { extendedContext, type RopeParams, readRope, ropeSpec } from './rope.js';
import type { ModelSpec } from './spec.js';

/** Everything of a {@link ModelSpec} that is not about files, plus what tokenizers may need. */
export interface ModelConfig {
  architecture: Architecture;
  shape: Omit<ModelSpec, 'files' | 'tensors'>;
  ropeParams: RopeParams;
  /** How the layers' matrices are packed; undefined where they are not. */
  quantization: AwqFormat | undefined;
  bosId: number | undefined;
  eosIds: number[];
}

/** Head dimensions that the kernels are built for; 8 is for the 260K-parameter test model, on the CPU. */
export const HEAD_DIMS = [8, 32, 64, 96, 128] as const;

/** Checks a parsed config.json. Throws E_CONFIG naming key, value found and values supported. `where` is what errors call the file. */
export function parseConfig(json: JsonObject, where = 'config.json'): ModelConfig {
  const config = new Fields(where, json);
  const architecture = findArchitecture(config);
  const { defaults } = architecture;
  const positions = config.integer('max_position_embeddings', 1, 1 << 28, defaults.maxContext);
  checkRules(config, architecture, positions);
  const hidden = config.integer('hidden_size', 1, 1 << 20);
  const nHeads = config.integer('num_attention_heads', 1, 4096);
  const ownKvHeads = Object.hasOwn(json, 'num_key_value_heads') ? undefined : defaults.kvHeads;
  const nKvHeads = config.integer('num_key_value_heads', 1, 4096, ownKvHeads ?? nHeads);
  if (nHeads % nKvHeads !== 0)
    throw config.error('num_key_value_heads', `a divisor of num_attention_heads, which is ${nHeads}`);
  const headDim = readHeadDim(config, hidden, nHeads);
  const ropeParams = readRope(config, positions, defaults.ropeTheta);
  return {
    architecture,
    shape: {
      nLayers: config.integer('num_hidden_layers', 1, 1024),
      hidden,
      nHeads,
      nKvHeads,
      headDim,
      ffn: config.integer('intermediate_size', 1, 1 << 22),
      vocab: config.integer('vocab_size', 1, 1 << 24),
      normEps: config.number('rms_norm_eps', 1e-12, 1, defaults.normEps),
      maxContext: extendedContext(ropeParams, positions),
      rope: ropeSpec(ropeParams, headDim),
      tiedEmbeddings: config.boolean('tie_word_embeddings', defaults.tiedEmbeddings),
      qkvBias: architecture.qkvBias,
    },
    ropeParams,
    quantization: readQuantization(config),
    bosId: tokenIds(config, 'bos_token_id')[0],
    eosIds: tokenIds(config, 'eos_token_id'),
  };
}

function findArchitecture(config: Fields): Architecture {
  const named = config.values.architectures;
  const byName = Array.isArray(named) && named.length > 0;
  const found = ARCHITECTURES.find((family) =>
    byName ? named.includes(family.name) : config.values.model_type === family.modelType,
  );
  if (found) return found;
  const seen = byName
    ? `architectures is [${named.slice(0, 4).map(show).join(', ')}]`
    : `model_type is ${show(config.values.model_type)}`;
  throw new QuestError('E_CONFIG', `${config.where}: ${seen}; supported: ${supportedArchitectures()}`, {
    hint: 'this model family is not supported',
  });
}

function checkRules(config: Fields, architecture: Architecture, maxContext: number): void {
  for (const { key, accepts, orContext, absent, because } of architecture.rules) {
    const given = Object.hasOwn(config.values, key);
    const value = given ? config.values[key] : absent;
    const covers = orContext === true && Number.isInteger(value) && (value as number) >= maxContext;
    if (value === undefined || value === null || accepts.includes(value) || covers) continue;
    const larger = orContext ? [`a number of at least max_position_embeddings, which is ${maxContext}`] : [];
    const wanted = [...accepts.map(show), ...larger, 'null'].join(' or ');
    const assumed = given ? '' : `without the key ${architecture.name} means ${show(value)}; `;
    throw config.error(key, wanted, `${assumed}${because}; use a checkpoint without it`);
  }
  const layers = config.values.layer_types;
  if (Array.isArray(layers) && layers.some((kind) => kind !== 'full_attention'))
    throw config.error('layer_types', '"full_attention" for every layer');
}

function readHeadDim(config: Fields, hidden: number, nHeads: number): number {
  const wanted = HEAD_DIMS.join(', ');
  if (config.missing('head_dim')) {
    const derived = hidden / nHeads;
    if (HEAD_DIMS.some((dim) => dim === derived)) return derived;
    throw new QuestError(
      'E_CONFIG',
      `${config.where}: hidden_size ${hidden} / num_attention_heads ${nHeads} gives a head_dim of ${derived}; supported: ${wanted}`,
      { hint: 'the attention kernels are built for these head dimensions only' },
    );
  }
  const value = config.values.head_dim;
  const found = HEAD_DIMS.find((dim) => dim === value);
  if (!found)
    throw config.error('head_dim', wanted, 'the attention kernels are built for these head dimensions only');
  return found;
}
