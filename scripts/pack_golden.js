// Writes the golden vectors in the plain form that the native CUDA tests read (native/tests/cuda_tests/test_golden.cpp):
//   node scripts/pack_golden.js <golden folder> <output folder>
// per case `<output>/<case>.txt` (model description and the vectors' places) and `<output>/<case>.bin` (weights, vectors).
import { mkdirSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { openCheckpoint } from '../dist/src/model/index.js';

const [golden, output] = process.argv.slice(2).map((p) => resolve(p));
const cases = [
  'mha-d128',
  'linear8-d64',
  'yarn32-d128',
  'llama3-gqa4-d64',
  'llama3-gqa4-d64-bf16',
  'gqa8-d32-tied',
];
const bytesOf = { fp32: 4, fp16: 2, bf16: 2 };

/** name -> { dtype, bytes } of a safetensors file. */
function safetensors(path) {
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + length));
  const tensors = new Map();
  for (const [name, t] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [from, to] = t.data_offsets;
    tensors.set(name, {
      dtype: t.dtype,
      shape: t.shape,
      bytes: file.subarray(8 + length + from, 8 + length + to),
    });
  }
  return tensors;
}

mkdirSync(output, { recursive: true });
for (const name of cases) {
  const { spec } = await openCheckpoint(join(golden, name));
  const lines = [];
  const parts = [];
  let at = 0;
  const put = (bytes) => {
    parts.push(bytes);
    at += bytes.length;
    const pad = (16 - (at % 16)) % 16;
    parts.push(Buffer.alloc(pad));
    at += pad;
    return at - pad - bytes.length;
  };
  for (const key of [
    'nLayers',
    'hidden',
    'nHeads',
    'nKvHeads',
    'headDim',
    'ffn',
    'vocab',
    'normEps',
    'maxContext',
  ])
    lines.push(`${key} ${spec[key]}`);
  lines.push(
    `tied ${spec.tiedEmbeddings ? 1 : 0}`,
    `bias ${spec.qkvBias ? 1 : 0}`,
    `attentionFactor ${spec.rope.attentionFactor}`,
    `invFreq ${[...spec.rope.invFreq].join(' ')}`,
  );
  const files = spec.files.map((f) => openSync(f, 'r'));
  for (const [tensor, ref] of Object.entries(spec.tensors)) {
    const bytes = Buffer.alloc(ref.shape.reduce((a, b) => a * b, 1) * bytesOf[ref.dtype]);
    readSync(files[ref.file], bytes, 0, bytes.length, ref.offset);
    lines.push(`tensor ${tensor} ${put(bytes)} ${ref.dtype} ${ref.shape.join(' ')}`);
  }
  // The bf16 checkpoint holds the same weights: it is held against the fp16 one's vectors, more loosely.
  const source = join(golden, name.replace(/-bf16$/, ''));
  for (const file of [
    'golden.safetensors',
    ...(name === 'linear8-d64' ? [] : ['golden-paper.safetensors']),
  ]) {
    for (const [key, t] of safetensors(join(source, file))) {
      if (t.dtype !== 'F32' && t.dtype !== 'I32' && t.dtype !== 'I64')
        throw new Error(`${key} is ${t.dtype}`);
      lines.push(`vector ${key} ${put(t.bytes)} ${t.dtype} ${t.shape.join(' ')}`);
    }
  }
  writeFileSync(join(output, `${name}.txt`), `${lines.join('\n')}\n`);
  writeFileSync(join(output, `${name}.bin`), Buffer.concat(parts));
}
