import { rmSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { ARCHITECTURES } from '../../src/model/architectures.js';
import { parseConfig } from '../../src/model/config.js';
import { openCheckpoint } from '../../src/model/index.js';
import { neededTensors, storedName, tensorBytes } from '../../src/model/weights.js';
import {
  CONFIG,
  count,
  errorOf,
  folder,
  SHAPES,
  safetensors,
  temporaryFolder,
  torchStateDict,
} from './helpers.js';

const root = temporaryFolder();
let serial = 0;
const model = (files: Record<string, Buffer | object | string>, config: object = CONFIG) =>
  folder(root, `m${serial++}`, { 'config.json': config, ...files });
const without = (...names: string[]) =>
  Object.fromEntries(Object.entries(SHAPES).filter(([name]) => !names.includes(name)));
const mapped = (file: (name: string) => unknown) => ({
  metadata: { total_size: 1 },
  weight_map: Object.fromEntries(Object.keys(SHAPES).map((name) => [name, file(name)])),
});
const total = (shapes: Record<string, number[]>, itemBytes: number) =>
  Object.values(shapes).reduce((sum, shape) => sum + count(shape) * itemBytes, 0);
const isNorm = (name: string) => name.includes('norm');

describe('weights', () => {
  it('maps one safetensors file to canonical names', async () => {
    const dir = model({ 'model.safetensors': safetensors(SHAPES) });
    const { spec, weightBytes } = await openCheckpoint(dir);
    expect(spec.files).toEqual([path.join(dir, 'model.safetensors')]);
    expect(Object.keys(spec.tensors)).toEqual([
      'embed',
      'norm',
      'lm_head',
      ...['attn_norm', 'q', 'k', 'v', 'o', 'ffn_norm', 'gate', 'up', 'down'].map(
        (name) => `layers.0.${name}`,
      ),
    ]);
    expect(spec.tensors['layers.0.k']).toMatchObject({ file: 0, dtype: 'fp16', shape: [32, 64] });
    expect(weightBytes).toBe(total(SHAPES, 2));
    expect(Object.values(spec.tensors).reduce((sum, tensor) => sum + tensorBytes(tensor), 0)).toBe(
      weightBytes,
    );
  });

  it('prefers safetensors to torch files, and one file to shards', async () => {
    const both = model({
      'model.safetensors': safetensors(SHAPES),
      'pytorch_model.bin': 'broken',
      'model.safetensors.index.json': 'broken',
    });
    expect((await openCheckpoint(both)).spec.files[0]).toMatch(/model\.safetensors$/);
  });

  it('reads shards of both kinds, and links as the hub cache has them', async () => {
    const parts = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'] as const;
    const split = (norm: boolean) =>
      Object.fromEntries(Object.entries(SHAPES).filter(([name]) => isNorm(name) === norm));
    const blobs = folder(root, 'blobs', { one: safetensors(split(true)), two: safetensors(split(false)) });
    const linked = model({ 'model.safetensors.index.json': mapped((name) => parts[isNorm(name) ? 0 : 1]) });
    symlinkSync(path.join(blobs, 'one'), path.join(linked, parts[0]));
    symlinkSync('../blobs/two', path.join(linked, parts[1]));
    const { spec } = await openCheckpoint(linked);
    expect(spec.files).toEqual([path.join(linked, parts[1]), path.join(linked, parts[0])]);
    expect(spec.tensors.norm?.file).toBe(1);

    const torch = model({
      'a.bin': torchStateDict(split(true)),
      'b.bin': torchStateDict(split(false)),
      'pytorch_model.bin.index.json': mapped((name) => (isNorm(name) ? 'a.bin' : 'b.bin')),
    });
    const found = await openCheckpoint(torch);
    expect(found.spec.files.map((file) => path.basename(file))).toEqual(['b.bin', 'a.bin']);
    expect(found.weightBytes).toBe(total(SHAPES, 2));
    rmSync(path.join(blobs, 'one'));
    expect((await errorOf(openCheckpoint(linked))).message).toMatch(
      /names model-00001-of-00002\.safetensors, which is not in/,
    );
  });

  it('ignores what a decoder does not need, and mixes dtypes', async () => {
    const extra = { ...SHAPES, 'model.layers.0.self_attn.rotary_emb.inv_freq': [16], other: [3] };
    const dir = model({ 'pytorch_model.bin': torchStateDict(extra) });
    expect(Object.keys((await openCheckpoint(dir)).spec.tensors)).toHaveLength(Object.keys(SHAPES).length);
    const norms = Object.fromEntries(Object.entries(SHAPES).filter(([name]) => isNorm(name)));
    const rest = Object.fromEntries(Object.entries(SHAPES).filter(([name]) => !isNorm(name)));
    const mixed = model({
      'n.safetensors': safetensors(norms, 'F32', 4),
      'r.safetensors': safetensors(rest, 'BF16', 2),
      'model.safetensors.index.json': mapped((name) => (isNorm(name) ? 'n.safetensors' : 'r.safetensors')),
    });
    const { spec } = await openCheckpoint(mixed);
    expect([spec.tensors.norm?.dtype, spec.tensors.embed?.dtype]).toEqual(['fp32', 'bf16']);
  });

  it('uses the embedding where config.json says so, whether or not an lm_head is there', async () => {
    const config = { ...CONFIG, tie_word_embeddings: true };
    for (const shapes of [SHAPES, without('lm_head.weight')]) {
      const { spec, weightBytes } = await openCheckpoint(
        model({ 'model.safetensors': safetensors(shapes) }, config),
      );
      expect(spec.tiedEmbeddings).toBe(true);
      expect(spec.tensors).not.toHaveProperty('lm_head');
      expect(weightBytes).toBe(total(without('lm_head.weight'), 2));
    }
    const error = await errorOf(
      openCheckpoint(model({ 'model.safetensors': safetensors(without('lm_head.weight')) })),
    );
    expect(error.message).toMatch(/model\.safetensors holds no tensor "lm_head\.weight"/);
    expect(error.hint).toMatch(/tie_word_embeddings/);
  });

  const k = 'model.layers.0.self_attn.k_proj.weight';
  it.each<[string, Record<string, Buffer | object | string>, object, RegExp, RegExp]>([
    [
      'no weights',
      {},
      CONFIG,
      /holds no weights/,
      /looked for model\.safetensors, model\.safetensors\.index\.json, pytorch_model\.bin/,
    ],
    [
      'a missing tensor',
      { 'model.safetensors': safetensors(without(k)) },
      CONFIG,
      /model\.safetensors holds no tensor "model\.layers\.0\.self_attn\.k_proj\.weight"/,
      /1 layers of LlamaForCausalLM/,
    ],
    [
      'a missing layer',
      { 'model.safetensors': safetensors(SHAPES) },
      { ...CONFIG, num_hidden_layers: 2 },
      /no tensor "model\.layers\.1\.input_layernorm\.weight"/,
      /2 layers/,
    ],
    [
      'a wrong shape',
      { 'model.safetensors': safetensors({ ...SHAPES, [k]: [64, 64] }) },
      CONFIG,
      /k_proj\.weight" has shape \[64, 64\]; config\.json asks for \[32, 64\]/,
      /different models/,
    ],
    [
      'a wrong rank',
      { 'model.safetensors': safetensors({ ...SHAPES, [k]: [32 * 64] }) },
      CONFIG,
      /has shape \[2048\]/,
      /different models/,
    ],
    [
      'a dtype that is not run',
      { 'model.safetensors': safetensors(SHAPES, 'F64', 8) },
      CONFIG,
      /has dtype F64; supported: F32, F16, BF16/,
      /fp32, fp16 or bf16/,
    ],
    [
      'a tensor the index lacks',
      {
        'a.safetensors': safetensors(SHAPES),
        'model.safetensors.index.json': { weight_map: { 'model.norm.weight': 'a.safetensors' } },
      },
      CONFIG,
      /index\.json holds no tensor "model\.embed_tokens\.weight"/,
      /incomplete/,
    ],
    [
      'a tensor the shard lacks',
      {
        'a.safetensors': safetensors(without(k)),
        'model.safetensors.index.json': mapped(() => 'a.safetensors'),
      },
      CONFIG,
      /a\.safetensors holds no tensor/,
      /incomplete/,
    ],
    [
      'an index that climbs out',
      { 'model.safetensors.index.json': mapped(() => '../m0/model.safetensors') },
      CONFIG,
      /into "\.\.\/m0\/model\.safetensors"; supported: a file name in the same folder/,
      /outside/,
    ],
    [
      'an index with an absolute path',
      { 'model.safetensors.index.json': mapped(() => '/etc/passwd') },
      CONFIG,
      /into "\/etc\/passwd"/,
      /outside/,
    ],
    [
      'an index with ..',
      { 'model.safetensors.index.json': mapped(() => '..') },
      CONFIG,
      /into "\.\."/,
      /outside/,
    ],
    [
      'an index with a NUL',
      { 'model.safetensors.index.json': mapped(() => 'a\0b') },
      CONFIG,
      /same folder/,
      /outside/,
    ],
    [
      'an index with a number',
      { 'model.safetensors.index.json': mapped(() => 7) },
      CONFIG,
      /into 7/,
      /outside/,
    ],
    [
      'an index without a map',
      { 'model.safetensors.index.json': { weight_map: [1] } },
      CONFIG,
      /weight_map is a list of 1/,
      /fetch/,
    ],
    [
      'an index that is no JSON',
      { 'model.safetensors.index.json': '{' },
      CONFIG,
      /not valid JSON/,
      /cut off/,
    ],
    [
      'a shard that is not there',
      { 'pytorch_model.bin.index.json': mapped(() => 'gone.bin') },
      CONFIG,
      /names gone\.bin, which is not in/,
      /incomplete/,
    ],
  ])('refuses %s', async (_, files, config, message, hint) => {
    const error = await errorOf(openCheckpoint(model(files, config)));
    expect(error.message).toMatch(message);
    expect(error.hint).toMatch(hint);
  });

  it('every architecture names every tensor that it needs, and no other', () => {
    const { shape } = parseConfig(CONFIG);
    for (const architecture of ARCHITECTURES) {
      const needed = neededTensors({ ...shape, qkvBias: architecture.qkvBias });
      const names = [...needed.keys()].map((canonical) => storedName(architecture, canonical));
      expect(new Set(names).size).toBe(Object.keys(architecture.tensors).length);
    }
  });

  it('asks Qwen2 for its biases', async () => {
    const config = { ...CONFIG, architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2' };
    const part = (name: string) => `model.layers.0.self_attn.${name}_proj.bias`;
    const shapes = { ...SHAPES, [part('q')]: [64], [part('k')]: [32], [part('v')]: [32] };
    const { spec, weightBytes } = await openCheckpoint(
      model({ 'model.safetensors': safetensors(shapes) }, config),
    );
    expect(spec.tensors['layers.0.k_bias']).toMatchObject({ dtype: 'fp16', shape: [32] });
    expect(weightBytes).toBe(total(shapes, 2));
    const refusals: [Record<string, number[]>, RegExp][] = [
      [SHAPES, /holds no tensor "model\.layers\.0\.self_attn\.q_proj\.bias"/],
      [{ ...shapes, [part('v')]: [64] }, /v_proj\.bias" has shape \[64\]; config\.json asks for \[32\]/],
    ];
    for (const [wrong, message] of refusals) {
      const error = await errorOf(openCheckpoint(model({ 'model.safetensors': safetensors(wrong) }, config)));
      expect(error.message).toMatch(message);
    }
  });
});
