import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { writeAwqCheckpoint } from '../../src/model/awq_write.js';
import { openCheckpoint } from '../../src/model/index.js';
import { tensorBytes } from '../../src/model/weights.js';
import {
  CONFIG,
  count,
  errorOf,
  folder,
  rawSafetensors,
  SHAPES,
  safetensors,
  temporaryFolder,
} from './helpers.js';

const root = temporaryFolder();
let serial = 0;
const QUANTIZATION = { quant_method: 'awq', bits: 4, group_size: 32, zero_point: true, version: 'gemm' };
// The helpers' model with a feed-forward of 32, which groups of 32 divide.
const shapes = Object.fromEntries(
  Object.entries(SHAPES).map(([name, shape]) => [
    name,
    name.includes('mlp') ? shape.map((n) => (n === 16 ? 32 : n)) : shape,
  ]),
);
const config = { ...CONFIG, intermediate_size: 32, quantization_config: QUANTIZATION };
const isMatrix = (name: string) => name.includes('_proj');

type Stored = Record<string, { dtype: string; shape: number[] }>;

/** What AutoAWQ stores for the model, before a test spoils it. */
function stored(group = 32, plain: string[] = []): Stored {
  const out: Stored = {};
  for (const [name, shape] of Object.entries(shapes)) {
    if (!isMatrix(name) || plain.some((part) => name.includes(part))) {
      out[name] = { dtype: 'F16', shape };
      continue;
    }
    const [rows, columns] = shape as [number, number];
    const stem = name.replace(/weight$/, '');
    out[`${stem}qweight`] = { dtype: 'I32', shape: [columns, rows / 8] };
    out[`${stem}qzeros`] = { dtype: 'I32', shape: [columns / group, rows / 8] };
    out[`${stem}scales`] = { dtype: 'F16', shape: [columns / group, rows] };
  }
  return out;
}

function file(tensors: Stored): Buffer {
  let at = 0;
  const header = Object.fromEntries(
    Object.entries(tensors).map(([name, { dtype, shape }]) => {
      const from = at;
      at += count(shape) * (dtype === 'F16' || dtype === 'BF16' ? 2 : 4);
      return [name, { dtype, shape, data_offsets: [from, at] }];
    }),
  );
  return rawSafetensors(JSON.stringify(header), at);
}

const model = (tensors: Stored, json: object = config) =>
  folder(root, `m${serial++}`, { 'config.json': json, 'model.safetensors': file(tensors) });

const Q = 'model.layers.0.self_attn.q_proj.';

describe('4-bit checkpoints', () => {
  it('are mapped to canonical names with their zeros and scales', async () => {
    const { spec, weightBytes } = await openCheckpoint(model(stored()));
    expect(spec.tensors['layers.0.k']).toMatchObject({ dtype: 'int4', shape: [32, 64], group: 32 });
    expect(spec.tensors['layers.0.attn_norm']).toMatchObject({ dtype: 'fp16' });
    expect(spec.tensors.lm_head).toMatchObject({ dtype: 'fp16' });
    const { offset, zeros, scales } = spec.tensors['layers.0.q']!;
    expect(zeros!.offset - offset).toBe(64 * 8 * 4);
    expect(scales!.offset - zeros!.offset).toBe(2 * 8 * 4);
    expect(Object.values(spec.tensors).reduce((sum, tensor) => sum + tensorBytes(tensor), 0)).toBe(
      weightBytes,
    );
  });

  it('may leave modules in 16 bits, and take the version in capitals', async () => {
    const json = {
      ...config,
      quantization_config: { ...QUANTIZATION, version: 'GEMM', modules_to_not_convert: ['down_proj'] },
    };
    const { spec } = await openCheckpoint(model(stored(32, ['down_proj']), json));
    expect(spec.tensors['layers.0.down']).toMatchObject({ dtype: 'fp16' });
    expect(spec.tensors['layers.0.up']).toMatchObject({ dtype: 'int4' });
  });

  it.each([
    [{ quant_method: 'gptq' }, /quant_method is "gptq"; supported: "awq"/],
    [{ quant_method: undefined }, /quant_method is nothing; supported: "awq"/],
    [{ bits: 8 }, /bits is 8; supported: 4/],
    [{ bits: '4' }, /bits is "4"/],
    [{ group_size: 0 }, /group_size is 0; supported: 32, 64, 128/],
    [{ group_size: -1 }, /group_size is -1/],
    [{ group_size: 1e9 }, /group_size is 1000000000/],
    [{ zero_point: false }, /zero_point is false; supported: true/],
    [{ version: 'gemv' }, /version is "gemv"; supported: "gemm"/],
    [{ version: { toString: 1 } }, /version is an object/],
    [{ modules_to_not_convert: [''] }, /modules_to_not_convert is a list of 1/],
    [{ modules_to_not_convert: 'lm_head' }, /modules_to_not_convert is "lm_head"/],
  ])('refuse a config with %o', async (change, message) => {
    const json = { ...config, quantization_config: { ...QUANTIZATION, ...change } };
    const error = await errorOf(openCheckpoint(model(stored(), json)));
    expect(error.code).toBe('E_CONFIG');
    expect(error.message).toMatch(/config.json: quantization_config: /);
    expect(error.message).toMatch(message);
  });

  const spoil = (change: (tensors: Stored) => void) => {
    const tensors = stored();
    change(tensors);
    return model(tensors);
  };
  it.each<[string, (tensors: Stored) => void, RegExp]>([
    ['no zeros', (t) => delete t[`${Q}qzeros`], /no tensor "model.layers.0.self_attn.q_proj.qzeros"/],
    [
      '16-bit weights',
      (t) => {
        delete t[`${Q}qweight`];
        t[`${Q}weight`] = { dtype: 'F16', shape: [64, 64] };
      },
      /no tensor ".*q_proj.qweight"/,
    ],
    [
      'a transposed matrix',
      (t) => {
        t[`${Q}qweight`]!.shape = [8, 64];
      },
      /qweight" is I32 \[8, 64\]; config.json asks for I32 \[64, 8\]/,
    ],
    [
      'zeros of another group',
      (t) => {
        t[`${Q}qzeros`]!.shape = [1, 8];
      },
      /qzeros" is I32 \[1, 8\]; config.json asks for I32 \[2, 8\]/,
    ],
    [
      'scales in bf16',
      (t) => {
        t[`${Q}scales`]!.dtype = 'BF16';
      },
      /scales" is BF16 \[2, 64\]; config.json asks for F16/,
    ],
    [
      'weights in fp32',
      (t) => {
        t[`${Q}qweight`]!.dtype = 'F32';
      },
      /qweight" is F32/,
    ],
    [
      'a vector',
      (t) => {
        t[`${Q}scales`]!.shape = [128];
      },
      /scales" is F16 \[128\]/,
    ],
  ])('refuse %s', async (_, change, message) => {
    const error = await errorOf(openCheckpoint(spoil(change)));
    expect(error.code).toBe('E_WEIGHTS');
    expect(error.message).toMatch(message);
  });

  it('refuse widths that the group does not divide', async () => {
    const json = { ...config, quantization_config: { ...QUANTIZATION, group_size: 128 } };
    const error = await errorOf(openCheckpoint(model(stored(), json)));
    expect(error.message).toMatch(/\[64, 64\] cannot be stored in 4 bits in groups of 128/);
  });

  it('refuse a truncated file', async () => {
    const dir = model(stored());
    const whole = readFileSync(path.join(dir, 'model.safetensors'));
    writeFileSync(path.join(dir, 'model.safetensors'), whole.subarray(0, whole.length - 10));
    expect((await errorOf(openCheckpoint(dir))).code).toBe('E_SAFETENSORS');
  });
});

describe('writing a 4-bit checkpoint', () => {
  const plainConfig = { ...CONFIG, intermediate_size: 32, torch_dtype: 'bfloat16' };
  const from = folder(root, 'plain', {
    'config.json': plainConfig,
    'model.safetensors': safetensors(shapes),
    'tokenizer.json': '{}',
    'quantize_config.json': '{}',
  });
  const sizes: Record<string, number> = {};
  for (const [name, { dtype, shape }] of Object.entries(stored()))
    sizes[name] = count(shape) * (dtype === 'F16' ? 2 : 4);
  const short = (name: string) =>
    name
      .replace(/^model\.layers\.0\.(self_attn|mlp)\.(\w+)_proj\.qweight$/, '$2.weights')
      .replace(/^model\.layers\.0\.(self_attn|mlp)\.(\w+)_proj\.qzeros$/, '$2.zeros')
      .replace(/^model\.layers\.0\.(self_attn|mlp)\.(\w+)_proj\.scales$/, '$2.scales')
      .replace('model.layers.0.input_layernorm.weight', 'attn_norm')
      .replace('model.layers.0.post_attention_layernorm.weight', 'ffn_norm');
  const source = {
    layer: async () =>
      Object.fromEntries(
        Object.entries(sizes).map(([name, bytes], i) => [short(name), new Uint8Array(bytes).fill(i + 1)]),
      ),
    plain: async (_: string, __: number, rows: number) => new Uint8Array(rows * 64 * 2).fill(9),
  };

  it('gives a folder that opens, with everything in its place', async () => {
    const out = path.join(root, 'written');
    await writeAwqCheckpoint(from, out, 32, source);
    expect(readdirSync(out).sort()).toEqual(['config.json', 'model.safetensors', 'tokenizer.json']);
    const json = JSON.parse(readFileSync(path.join(out, 'config.json'), 'utf8'));
    expect(json).toMatchObject({ torch_dtype: 'float16', quantization_config: QUANTIZATION });
    const { spec } = await openCheckpoint(out);
    const bytes = readFileSync(path.join(out, 'model.safetensors'));
    const at = (name: string) => bytes[spec.tensors[name]!.offset];
    const names = Object.keys(sizes).map(short);
    expect(at('embed')).toBe(9);
    expect(at('layers.0.q')).toBe(names.indexOf('q.weights') + 1);
    expect(bytes[spec.tensors['layers.0.down']!.scales!.offset]).toBe(names.indexOf('down.scales') + 1);
    expect(at('layers.0.ffn_norm')).toBe(names.indexOf('ffn_norm') + 1);
  });

  it('leaves nothing behind when it fails', async () => {
    const out = path.join(root, 'failed');
    mkdirSync(out);
    const failing = { ...source, layer: () => Promise.reject(new Error('interrupted')) };
    await expect(writeAwqCheckpoint(from, out, 32, failing)).rejects.toThrow('interrupted');
    expect(readdirSync(out)).toEqual([]);
    const lying = { ...source, layer: async () => ({ attn_norm: new Uint8Array(3) }) };
    expect((await errorOf(writeAwqCheckpoint(from, out, 32, lying))).message).toMatch(
      /came as 3 bytes, wanted 128/,
    );
    expect(readdirSync(out)).toEqual([]);
    expect(existsSync(path.join(out, 'config.json'))).toBe(false);
  });
});
