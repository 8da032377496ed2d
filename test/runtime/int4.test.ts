/** 4-bit weights through whole models: AutoAWQ's packing written by hand here, and the same numbers in fp32 beside it. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/model/index.js';
import { createSafetensors, writeSafetensors } from '../../src/model/safetensors_write.js';
import { type MethodOptions, Model } from '../../src/runtime/index.js';
import { Quantizer } from '../../src/runtime/quantizer.js';
import { type RandomTensor, randomIds, randomNumbers, writeRandomModel } from '../support/random_model.js';

const folders: string[] = [];
afterAll(() => {
  for (const f of folders) rmSync(f, { recursive: true, force: true });
});
const newFolder = () => {
  folders.push(mkdtempSync(join(tmpdir(), 'quest-int4-')));
  return folders.at(-1)!;
};

/** fp16 bits of m * 2^-10 for whole m from 8 to 15. */
const scaleBits = (m: number) => ((-10 + 3 + 15) << 10) | ((m - 8) << 7);

interface Packed {
  name: string;
  dtype: string;
  shape: number[];
  data: Uint8Array;
}

/** A random 4-bit matrix [rows, columns]: what AutoAWQ stores, and what it stands for. */
function packedMatrix(name: string, rows: number, columns: number, group: number, next: () => number) {
  const order = [0, 2, 4, 6, 1, 3, 5, 7];
  const digit = () => Math.floor((next() + 1) * 8) & 15;
  const groups = columns / group;
  const q = Uint8Array.from({ length: rows * columns }, digit);
  const zero = Uint8Array.from({ length: rows * groups }, digit);
  const scale = Uint8Array.from({ length: rows * groups }, () => 8 + (digit() & 7));
  const words = (values: Uint8Array, inputs: number) => {
    const out = new Uint32Array((inputs * rows) / 8);
    for (let i = 0; i < inputs; i++)
      for (let c = 0; c < rows / 8; c++)
        for (let b = 0; b < 8; b++)
          out[i * (rows / 8) + c]! |= values[(c * 8 + order[b]!) * inputs + i]! << (4 * b);
    return new Uint8Array(out.buffer);
  };
  const scales = new Uint16Array(groups * rows);
  const values = new Float32Array(rows * columns);
  for (let j = 0; j < rows; j++)
    for (let i = 0; i < columns; i++) {
      const g = j * groups + Math.floor(i / group);
      scales[Math.floor(i / group) * rows + j] = scaleBits(scale[g]!);
      values[j * columns + i] = ((q[j * columns + i]! - zero[g]!) * scale[g]!) / 1024;
    }
  const stem = name.replace(/weight$/, '');
  const parts: Packed[] = [
    { name: `${stem}qweight`, dtype: 'I32', shape: [columns, rows / 8], data: words(q, columns) },
    { name: `${stem}qzeros`, dtype: 'I32', shape: [groups, rows / 8], data: words(zero, groups) },
    { name: `${stem}scales`, dtype: 'F16', shape: [groups, rows], data: new Uint8Array(scales.buffer) },
  ];
  return { parts, values };
}

/** Two folders with the same model: 4-bit, and its numbers in fp32. */
async function twins(group: number): Promise<[packed: string, plain: string]> {
  const wide = newFolder();
  const { tensors } = await writeRandomModel(
    { hidden: 128, ffn: 192, headDim: 32, heads: 4, kvHeads: 2 },
    wide,
  );
  const next = randomNumbers(21);
  const packed: Packed[] = [];
  const plain: RandomTensor[] = [];
  for (const tensor of tensors) {
    const { name, shape, data } = tensor;
    if (!name.includes('_proj')) {
      packed.push({ name, dtype: 'F32', shape, data: new Uint8Array(data.buffer) });
      plain.push(tensor);
      continue;
    }
    const made = packedMatrix(name, shape[0]!, shape[1]!, group, next);
    packed.push(...made.parts);
    plain.push({ name, shape, data: made.values });
  }
  const narrow = newFolder();
  const writer = await createSafetensors(
    join(narrow, 'model.safetensors'),
    packed.map(({ data, ...entry }) => ({ ...entry, bytes: data.byteLength })),
  );
  for (const { data } of packed) await writer.write(data);
  await writer.finish();
  await writeSafetensors(join(wide, 'model.safetensors'), plain);
  const config = JSON.parse(readFileSync(join(wide, 'config.json'), 'utf8'));
  config.quantization_config = {
    quant_method: 'awq',
    bits: 4,
    group_size: group,
    version: 'gemm',
    zero_point: true,
  };
  writeFileSync(join(narrow, 'config.json'), JSON.stringify(config));
  return [narrow, wide];
}

const quest: MethodOptions = {
  method: 'quest',
  budgetTokens: 48,
  skipLayers: 1,
  group: 'max',
  sinks: 4,
  h2oPrefill: false,
};

/** Logits of a prefill and of decode steps. */
async function logitsOf(dir: string, threads = 2): Promise<[Float32Array, number]> {
  const { spec } = await openCheckpoint(dir);
  using model = await Model.load(spec, { device: 'cpu', threads });
  using root = model.createSequence(16);
  const ids = randomIds(300, spec.vocab);
  await root.prefill(ids.slice(0, 280));
  using branch = root.fork(quest);
  const [result] = await model.feed([{ sequence: branch, ids: ids.slice(280), logits: 'all' }]);
  return [result!.logits!, model.info.weightBytes];
}

describe('4-bit weights', () => {
  it.each([32, 64])('in groups of %i give the bits of the same numbers in fp32', async (group) => {
    const [packed, plain] = await twins(group);
    const [mine, bytes] = await logitsOf(packed);
    const [theirs, wideBytes] = await logitsOf(plain);
    expect(mine).toEqual(theirs);
    expect(mine.some((x) => Number.isFinite(x) && x !== 0)).toBe(true);
    expect(bytes).toBeLessThan(0.6 * wideBytes);
    expect((await logitsOf(packed, 1))[0]).toEqual(mine);
  });

  it('are refused by the native side when the file ends before them', async () => {
    const [packed] = await twins(32);
    const { spec } = await openCheckpoint(packed);
    for (const part of ['zeros', 'scales'] as const) {
      const tensor = spec.tensors['layers.2.down']!;
      const lying = {
        ...spec,
        tensors: { ...spec.tensors, 'layers.2.down': { ...tensor, [part]: { file: 0, offset: 1e7 } } },
      };
      await expect(Model.load(lying, { device: 'cpu', threads: 1 })).rejects.toThrow(
        /layers.2.down ends at byte/,
      );
    }
    for (const group of [0, 16, 96]) {
      const lying = {
        ...spec,
        tensors: { ...spec.tensors, 'layers.0.q': { ...spec.tensors['layers.0.q']!, group } },
      };
      await expect(Model.load(lying, { device: 'cpu', threads: 1 })).rejects.toThrow(/group/);
    }
  });
});

describe('the quantiser', () => {
  it('folds its scales so that the model stays what it was, but for the rounding', async () => {
    const dir = newFolder();
    await writeRandomModel({ hidden: 128, ffn: 192, headDim: 32, heads: 4, kvHeads: 2 }, dir);
    const { spec } = await openCheckpoint(dir);
    const calibration = randomIds(256, spec.vocab);
    const options = { group: 32, sequence: 64, threads: 2, clip: true };
    using aware = await Quantizer.create(spec, calibration, { ...options, activationAware: true });
    using nearest = await Quantizer.create(spec, new Int32Array(), { ...options, activationAware: false });
    const steps: number[] = [];
    const layer = await aware.next({ onProgress: (done) => steps.push(done) });
    expect(Object.keys(layer.errors).sort()).toEqual(['clip', 'down', 'gate_up', 'o', 'qkv']);
    for (const { before, after } of Object.values(layer.errors)) {
      expect(after).toBeLessThanOrEqual(before);
      expect(after).toBeGreaterThan(0);
      expect(after).toBeLessThan(0.1);
    }
    // Queries and keys are never cut; the rest is, here and there.
    using uncut = await Quantizer.create(spec, calibration, {
      ...options,
      activationAware: true,
      clip: false,
    });
    const whole = await uncut.next();
    expect(Object.keys(whole.errors)).not.toContain('clip');
    const same = (name: string) =>
      Buffer.from(whole.tensors[name]!).equals(Buffer.from(layer.tensors[name]!));
    expect(['q', 'k', 'v', 'o', 'gate', 'up', 'down'].filter((name) => same(`${name}.scales`))).toEqual([
      'q',
      'k',
    ]);
    expect(steps.length).toBeGreaterThan(0);
    const plain = await nearest.next();
    expect(plain.errors).toEqual({});
    expect(plain.tensors['q.weights']!.byteLength).toBe((128 * 128) / 2);
    expect(plain.tensors['k.scales']!.byteLength).toBe(4 * 64 * 2);
    // Without scales the norms are the model's own; with them they are not.
    const norms = await nearest.plain('norm', 0, 1);
    expect(norms.byteLength).toBe(256);
    expect(Buffer.from(plain.tensors.attn_norm!).equals(Buffer.from(layer.tensors.attn_norm!))).toBe(false);
  });

  it('can be cancelled, and says what it does not take', async () => {
    const dir = newFolder();
    await writeRandomModel({ hidden: 128, ffn: 192, headDim: 32, heads: 4, kvHeads: 2 }, dir);
    const { spec } = await openCheckpoint(dir);
    const options = { group: 32, sequence: 64, threads: 2, activationAware: true, clip: true };
    using quantizer = await Quantizer.create(spec, randomIds(512, spec.vocab), options);
    const abort = new AbortController();
    const running = quantizer.next({
      signal: abort.signal,
      onProgress: () => abort.abort(new Error('enough')),
    });
    await expect(running).rejects.toThrow('enough');
    await expect(Quantizer.create(spec, new Int32Array(8), options)).rejects.toThrow(
      /8 tokens, wanted at least 64/,
    );
    await expect(
      Quantizer.create(
        spec,
        Int32Array.from({ length: 64 }, () => 999),
        options,
      ),
    ).rejects.toThrow(/id 999/);
    await expect(Quantizer.create(spec, new Int32Array(64), { ...options, group: 128 })).rejects.toThrow(
      /down: 192 inputs in groups of 128/,
    );
    await expect(quantizer.plain('nonsense', 0, 1)).rejects.toThrow(/nonsense/);
    await expect(quantizer.plain('embed', 100, 100)).rejects.toThrow(/embed has 128 rows/);
  });
});
