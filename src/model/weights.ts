/** Finds a checkpoint's weight files and turns their tensors into the decoder's canonical ones. */
import path from 'node:path';
import { QuestError } from '../errors.js';
import type { Architecture } from './architectures.js';
import { checkPart, isPacked, packedParts } from './awq.js';
import type { ModelConfig } from './config.js';
import { base, fileSize, show } from './fields.js';
import { readSafetensorsHeader, type StoredFile, type StoredTensor } from './safetensors.js';
import { readShardIndex } from './shards.js';
import type { DType, ModelSpec, TensorPlace, TensorRef } from './spec.js';
import { readTorchIndex } from './torchbin.js';

export interface Weights {
  /** Absolute paths, only of files that hold a needed tensor. */
  files: string[];
  tensors: Record<string, TensorRef>;
  /** Bytes of all needed tensors. */
  bytes: number;
}

const DTYPES: Readonly<Record<string, DType>> = { F32: 'fp32', F16: 'fp16', BF16: 'bf16' };
const BYTES: Readonly<Record<DType, number>> = { fp32: 4, fp16: 2, bf16: 2, int4: 0.5 };

/** In order of preference: one file or an index of shards, and who reads its headers. */
const LAYOUTS = [
  { single: 'model.safetensors', index: 'model.safetensors.index.json', read: readSafetensorsHeader },
  { single: 'pytorch_model.bin', index: 'pytorch_model.bin.index.json', read: readTorchIndex },
] as const;

/** Canonical name -> shape, for every tensor that a decoder of these numbers needs. */
export function neededTensors(shape: ModelConfig['shape']): Map<string, number[]> {
  const { hidden, vocab, ffn } = shape;
  const q = shape.nHeads * shape.headDim;
  const kv = shape.nKvHeads * shape.headDim;
  const needed = new Map<string, number[]>([
    ['embed', [vocab, hidden]],
    ['norm', [hidden]],
  ]);
  if (!shape.tiedEmbeddings) needed.set('lm_head', [vocab, hidden]);
  for (let i = 0; i < shape.nLayers; i++) {
    const layer = `layers.${i}`;
    needed.set(`${layer}.attn_norm`, [hidden]);
    needed.set(`${layer}.q`, [q, hidden]);
    needed.set(`${layer}.k`, [kv, hidden]);
    needed.set(`${layer}.v`, [kv, hidden]);
    if (shape.qkvBias) {
      needed.set(`${layer}.q_bias`, [q]);
      needed.set(`${layer}.k_bias`, [kv]);
      needed.set(`${layer}.v_bias`, [kv]);
    }
    needed.set(`${layer}.o`, [hidden, q]);
    needed.set(`${layer}.ffn_norm`, [hidden]);
    needed.set(`${layer}.gate`, [ffn, hidden]);
    needed.set(`${layer}.up`, [ffn, hidden]);
    needed.set(`${layer}.down`, [hidden, ffn]);
  }
  return needed;
}

/** The family's own name of a canonical tensor. */
export function storedName(architecture: Architecture, canonical: string): string {
  const layer = /^layers\.(\d+)\./.exec(canonical)?.[1];
  const pattern = architecture.tensors[layer === undefined ? canonical : canonical.replace(layer, '{i}')];
  if (pattern === undefined)
    throw new QuestError('E_WEIGHTS', `${architecture.name} has no tensor for ${canonical}`);
  return pattern.replace('{i}', layer ?? '');
}

/** Reads the headers of a checkpoint folder's weight files. Throws E_WEIGHTS that names the tensor, what it is and what was wanted. */
export async function locateWeights(dir: string, config: ModelConfig): Promise<Weights> {
  const needed = neededTensors(config.shape);
  const stored = [...needed].map(([canonical, shape]) => {
    const name = storedName(config.architecture, canonical);
    const { quantization } = config;
    const packed = isPacked(quantization, name, shape, canonical.startsWith('layers.'));
    return { canonical, shape, name, parts: packed ? packedParts(quantization, name, shape) : undefined };
  });
  const names = stored.flatMap(({ name, parts }) => parts?.map((part) => part.name) ?? [name]);
  const { sources, read, from } = await findSources(dir, names);
  const headers = new Map<string, StoredFile>();
  const files: string[] = [];
  const tensors: Record<string, TensorRef> = {};
  let bytes = 0;
  const find = async (name: string) => {
    const file = sources(name);
    if (file === undefined) throw missing(name, from, config);
    const header = headers.get(file) ?? (await read(file));
    headers.set(file, header);
    const tensor = header.tensors.get(name);
    if (!tensor) throw missing(name, base(file), config);
    if (!files.includes(file)) files.push(file);
    bytes += tensor.bytes;
    return { tensor, from: base(file), place: { file: files.indexOf(file), offset: tensor.offset } };
  };
  for (const { canonical, shape, name, parts } of stored) {
    if (!parts) {
      const { tensor, from, place } = await find(name);
      tensors[canonical] = { ...place, dtype: checkTensor(name, tensor, shape, from), shape };
      continue;
    }
    const places: Partial<Record<string, TensorPlace>> = {};
    for (const part of parts) {
      const { tensor, from, place } = await find(part.name);
      checkPart(part, tensor, from);
      places[part.role] = place;
    }
    const { weights, zeros, scales } = places as Record<'weights' | 'zeros' | 'scales', TensorPlace>;
    tensors[canonical] = {
      ...weights,
      dtype: 'int4',
      shape,
      group: config.quantization?.group,
      zeros,
      scales,
    };
  }
  return { files, tensors, bytes };
}

async function findSources(dir: string, names: string[]) {
  for (const { single, index, read } of LAYOUTS) {
    const file = path.join(dir, single);
    if ((await fileSize(file)) !== undefined) return { sources: () => file, read, from: single };
    const shards = await readShardIndex(dir, index, names);
    if (shards) return { sources: (name: string) => shards.get(name), read, from: index };
  }
  throw new QuestError('E_WEIGHTS', `${dir} holds no weights`, {
    hint: `looked for ${LAYOUTS.flatMap(({ single, index }) => [single, index]).join(', ')}`,
  });
}

function missing(name: string, from: string, config: ModelConfig): QuestError {
  const tied = name === config.architecture.tensors.lm_head;
  return new QuestError('E_WEIGHTS', `${from} holds no tensor ${show(name)}`, {
    hint: tied
      ? 'config.json says tie_word_embeddings false; set it to true if the model shares them'
      : `config.json asks for ${config.shape.nLayers} layers of ${config.architecture.name}; the weights may be incomplete or of another model`,
  });
}

function checkTensor(name: string, tensor: StoredTensor, wanted: number[], from: string): DType {
  if (tensor.shape.length !== wanted.length || tensor.shape.some((size, i) => size !== wanted[i]))
    throw new QuestError(
      'E_WEIGHTS',
      `${from}: tensor ${show(name)} has shape [${tensor.shape.join(', ')}]; config.json asks for [${wanted.join(', ')}]`,
      { hint: 'config.json and the weights are of different models' },
    );
  const dtype = Object.hasOwn(DTYPES, tensor.dtype) ? DTYPES[tensor.dtype] : undefined;
  if (!dtype)
    throw new QuestError(
      'E_WEIGHTS',
      `${from}: tensor ${show(name)} has dtype ${tensor.dtype}; supported: F32, F16, BF16`,
      {
        hint: 'use an fp32, fp16 or bf16 version, or a 4-bit one that AutoAWQ made',
      },
    );
  return dtype;
}

/** Bytes of one tensor in memory. */
export function tensorBytes(tensor: TensorRef): number {
  const elements = tensor.shape.reduce((product, size) => product * size, 1);
  // A group's scale and zero take 20 bits.
  return elements * BYTES[tensor.dtype] + (tensor.group === undefined ? 0 : (elements / tensor.group) * 2.5);
}

export type WeightShape = Omit<ModelSpec, 'files' | 'tensors'>;
