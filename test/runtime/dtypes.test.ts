/** 16-bit weights stay 16-bit in memory and compute exactly what the same numbers compute in fp32. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/model/index.js';
import { type MethodOptions, Model } from '../../src/runtime/index.js';
import { randomIds, writeRandomCheckpoint } from '../support/random_model.js';

const folders: string[] = [];
afterAll(() => {
  for (const f of folders) rmSync(f, { recursive: true, force: true });
});

/** Rewrites an fp32 safetensors file whose numbers are exact in bf16 as bf16, at odd offsets. */
function toBf16(path: string): void {
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const parts: Buffer[] = [];
  let at = 0;
  const entries = Object.entries(header).filter(([name]) => name !== '__metadata__');
  for (const [, entry] of entries.sort((a, b) => a[1].data_offsets[0] - b[1].data_offsets[0])) {
    const source = bytes.subarray(8 + length + entry.data_offsets[0], 8 + length + entry.data_offsets[1]);
    const half = Buffer.alloc(source.length / 2);
    for (let i = 0; i < half.length / 2; i++) half.writeUInt16LE(source.readUInt16LE(4 * i + 2), 2 * i);
    entry.dtype = 'BF16';
    entry.data_offsets = [at, at + half.length];
    at += half.length;
    parts.push(half);
  }
  let text = JSON.stringify(Object.fromEntries(entries));
  // An odd header length makes every tensor unaligned.
  if (text.length % 2 === 0) text += ' ';
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([size, Buffer.from(text), ...parts]));
}

it('bf16 equals fp32 bit for bit', async () => {
  const quest: MethodOptions = {
    method: 'quest',
    budgetTokens: 48,
    skipLayers: 1,
    group: 'max',
    sinks: 4,
    h2oPrefill: false,
  };
  const outputs: Float32Array[] = [];
  const bytes: number[] = [];
  for (const convert of [false, true]) {
    const dir = await writeRandomCheckpoint();
    folders.push(dir);
    if (convert) toBf16(join(dir, 'model.safetensors'));
    const { spec } = await openCheckpoint(dir);
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    bytes.push(model.info.weightBytes);
    using root = model.createSequence(16);
    const ids = randomIds(400, spec.vocab);
    await root.prefill(ids.slice(0, 380));
    using branch = root.fork(quest);
    const [result] = await model.feed([{ sequence: branch, ids: ids.slice(380), logits: 'all' }]);
    outputs.push(result!.logits!);
  }
  expect(outputs[1]).toEqual(outputs[0]);
  expect(bytes[0]).toBe(2 * bytes[1]!);
});
