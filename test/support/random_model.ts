/** Small random checkpoints, written to a temporary folder in Hugging Face layout. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openCheckpoint } from '../../src/model/index.js';
import { writeSafetensors } from '../../src/model/safetensors_write.js';
import type { ModelSpec } from '../../src/model/spec.js';

export interface RandomShape {
  layers?: number;
  hidden?: number;
  heads?: number;
  kvHeads?: number;
  headDim?: number;
  ffn?: number;
  vocab?: number;
  maxContext?: number;
  /** `architectures` and `model_type`; Qwen2's projections get their biases. */
  family?: { name: string; modelType: string };
  tied?: boolean;
  /** More of config.json. */
  config?: Record<string, unknown>;
}

export interface RandomTensor {
  name: string;
  shape: number[];
  data: Float32Array;
}

/** Deterministic numbers in [-1, 1). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

/** Rounds to bf16 precision, so that the same numbers can be stored in either type. */
function roundToBf16(x: number): number {
  const f = new Float32Array([x]);
  const u = new Uint32Array(f.buffer);
  u[0] = (u[0]! + 0x8000) & 0xffff0000;
  return f[0]!;
}

/** Writes an fp32 checkpoint whose weights are exact in bf16. Returns its folder. */
export async function writeRandomCheckpoint(shape: RandomShape = {}, dir?: string): Promise<string> {
  return (await writeRandomModel(shape, dir)).folder;
}

/** The same, with what was written. */
export async function writeRandomModel(
  shape: RandomShape = {},
  dir?: string,
): Promise<{ folder: string; config: Record<string, unknown>; tensors: RandomTensor[] }> {
  const { family = { name: 'LlamaForCausalLM', modelType: 'llama' }, tied = false } = shape;
  const { layers = 3, hidden = 64, heads = 4, kvHeads = 2, headDim = 32, ffn = 96, vocab = 128 } = shape;
  const folder = dir ?? mkdtempSync(join(tmpdir(), 'quest-model-'));
  const next = randomNumbers(11);
  const tensors: RandomTensor[] = [];
  const add = (name: string, dims: number[], scale: number, offset = 0) => {
    const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () =>
      roundToBf16(offset + scale * next()),
    );
    tensors.push({ name, shape: dims, data });
  };
  add('model.embed_tokens.weight', [vocab, hidden], 1);
  add('model.norm.weight', [hidden], 0.2, 1);
  if (!tied) add('lm_head.weight', [vocab, hidden], 0.3);
  for (let i = 0; i < layers; i++) {
    const p = `model.layers.${i}.`;
    add(`${p}input_layernorm.weight`, [hidden], 0.2, 1);
    add(`${p}post_attention_layernorm.weight`, [hidden], 0.2, 1);
    add(`${p}self_attn.q_proj.weight`, [heads * headDim, hidden], 0.4);
    add(`${p}self_attn.k_proj.weight`, [kvHeads * headDim, hidden], 0.4);
    add(`${p}self_attn.v_proj.weight`, [kvHeads * headDim, hidden], 0.3);
    if (family.name === 'Qwen2ForCausalLM') {
      add(`${p}self_attn.q_proj.bias`, [heads * headDim], 1);
      add(`${p}self_attn.k_proj.bias`, [kvHeads * headDim], 3);
      add(`${p}self_attn.v_proj.bias`, [kvHeads * headDim], 1);
    }
    add(`${p}self_attn.o_proj.weight`, [hidden, heads * headDim], 0.2);
    add(`${p}mlp.gate_proj.weight`, [ffn, hidden], 0.3);
    add(`${p}mlp.up_proj.weight`, [ffn, hidden], 0.3);
    add(`${p}mlp.down_proj.weight`, [hidden, ffn], 0.2);
  }
  await writeSafetensors(join(folder, 'model.safetensors'), tensors);
  const config = {
    architectures: [family.name],
    model_type: family.modelType,
    hidden_size: hidden,
    intermediate_size: ffn,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    vocab_size: vocab,
    max_position_embeddings: shape.maxContext ?? 4096,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: tied,
    hidden_act: 'silu',
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: 'float32',
    ...shape.config,
  };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  return { folder, config, tensors };
}

/** The spec of a random checkpoint; the folder is removed when the process ends. */
export async function randomSpec(shape: RandomShape = {}): Promise<ModelSpec> {
  const dir = await writeRandomCheckpoint(shape);
  process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
  return (await openCheckpoint(dir)).spec;
}

export function randomIds(count: number, vocab: number, seed = 5): Int32Array {
  const next = randomNumbers(seed);
  return Int32Array.from({ length: count }, () => Math.floor(((next() + 1) / 2) * vocab));
}
