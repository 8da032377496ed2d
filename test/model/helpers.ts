/** Fixtures that lie on purpose: safetensors headers, zip archives and pickles made byte by byte. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { deflateRawSync } from 'node:zlib';
import { afterAll, expect } from 'vitest';
import { QuestError } from '../../src/errors.js';
import { packageRoot } from '../../src/model/package_root.js';

export const SHARED = path.resolve(packageRoot(), '../shared');
export const GOLDEN = path.join(SHARED, 'golden');
export const hasGolden = existsSync(GOLDEN);
export const SKIPPED = hasGolden ? '' : ` (skipped: ${GOLDEN} is not there)`;

/** A fresh folder, removed after the file's tests. */
export function temporaryFolder(): string {
  const dir = mkdtempSync(path.join(tmpdir(), 'quest-test-'));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Writes files into a new subfolder of `root` and returns it. */
export function folder(root: string, name: string, files: Record<string, string | Buffer | object>): string {
  const dir = path.join(root, name);
  mkdirSync(dir, { recursive: true });
  for (const [file, content] of Object.entries(files)) {
    const target = path.join(dir, file);
    mkdirSync(path.dirname(target), { recursive: true });
    const plain = typeof content === 'string' || Buffer.isBuffer(content);
    writeFileSync(target, plain ? content : JSON.stringify(content));
  }
  return dir;
}

/** The QuestError that a promise or function ends with; fails when it ends otherwise. */
export async function errorOf(run: Promise<unknown> | (() => unknown)): Promise<QuestError> {
  try {
    await (typeof run === 'function' ? run() : run);
  } catch (error) {
    expect(error).toBeInstanceOf(QuestError);
    const found = error as QuestError;
    expect(found.message).not.toMatch(/undefined|\[object/);
    return found;
  }
  throw new Error('expected a QuestError, but nothing was thrown');
}

/** A small Llama's config.json. */
export const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 64,
  intermediate_size: 16,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 8,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  hidden_act: 'silu',
  tie_word_embeddings: false,
  bos_token_id: 1,
  eos_token_id: 2,
};

/** Its tensors: the family's names and shapes. */
export const SHAPES: Record<string, number[]> = {
  'model.embed_tokens.weight': [8, 64],
  'model.norm.weight': [64],
  'lm_head.weight': [8, 64],
  'model.layers.0.input_layernorm.weight': [64],
  'model.layers.0.self_attn.q_proj.weight': [64, 64],
  'model.layers.0.self_attn.k_proj.weight': [32, 64],
  'model.layers.0.self_attn.v_proj.weight': [32, 64],
  'model.layers.0.self_attn.o_proj.weight': [64, 64],
  'model.layers.0.post_attention_layernorm.weight': [64],
  'model.layers.0.mlp.gate_proj.weight': [16, 64],
  'model.layers.0.mlp.up_proj.weight': [16, 64],
  'model.layers.0.mlp.down_proj.weight': [64, 16],
};

export const count = (shape: number[]) => shape.reduce((product, size) => product * size, 1);

/** A safetensors file from header text (as given) and data bytes. */
export function rawSafetensors(
  header: string,
  dataBytes: number,
  length = Buffer.byteLength(header),
): Buffer {
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(length));
  return Buffer.concat([prefix, Buffer.from(header), Buffer.alloc(dataBytes)]);
}

/** A well-formed safetensors file of zeros. */
export function safetensors(shapes: Record<string, number[]>, dtype = 'F16', itemBytes = 2): Buffer {
  let at = 0;
  const header = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => {
      const begin = at;
      at += count(shape) * itemBytes;
      return [name, { dtype, shape, data_offsets: [begin, at] }];
    }),
  );
  return rawSafetensors(JSON.stringify({ __metadata__: { format: 'pt' }, ...header }), at);
}

export interface ZipItem {
  name: string;
  data: Buffer;
  deflate?: boolean;
  /** What the directory states instead of the real size. */
  statedBytes?: number;
}

function crc32(data: Buffer): number {
  let crc = ~0;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** A zip archive; data starts at multiples of 64 bytes, as torch pads it. */
export function zip(items: ZipItem[]): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const { name, data, deflate, statedBytes } of items) {
    const stored = deflate ? deflateRawSync(data) : data;
    const fields = Buffer.alloc(26);
    fields.writeUInt16LE(deflate ? 8 : 0, 4);
    fields.writeUInt32LE(crc32(data), 10);
    fields.writeUInt32LE(statedBytes ?? stored.length, 14);
    fields.writeUInt32LE(statedBytes ?? data.length, 18);
    fields.writeUInt16LE(Buffer.byteLength(name), 22);
    const padding = Buffer.alloc(4 + ((64 - ((at + 30 + Buffer.byteLength(name) + 4) % 64)) % 64), 'Z');
    padding.write('FB');
    padding.writeUInt16LE(padding.length - 4, 2);
    const local = Buffer.from(fields);
    local.writeUInt16LE(padding.length, 24);
    const entry = Buffer.concat([Buffer.from('PK\x03\x04'), local, Buffer.from(name), padding, stored]);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(at, 10);
    directory.push(Buffer.from('PK\x01\x02\x14\x00'), fields, tail, Buffer.from(name));
    parts.push(entry);
    at += entry.length;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(items.length, 8);
  end.writeUInt16LE(items.length, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(at, 16);
  return Buffer.concat([...parts, central, end]);
}

const op = (code: string, ...rest: Buffer[]) => Buffer.concat([Buffer.from(code, 'latin1'), ...rest]);
const u32 = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};

/** Pickle opcodes, protocol 2. */
export const pickle = {
  text: (value: string) => op('X', u32(Buffer.byteLength(value)), Buffer.from(value)),
  int: (value: number) => op('J', u32(value)),
  global: (module: string, name: string) => op(`c${module}\n${name}\n`),
  tuple: (...items: Buffer[]) => op('(', ...items, op('t')),
  call: (callee: Buffer, ...args: Buffer[]) => Buffer.concat([callee, pickle.tuple(...args), op('R')]),
  dict: (...pairs: [Buffer, Buffer][]) => op('}(', ...pairs.flat(), op('u')),
  bool: (value: boolean) => op(value ? '\x88' : '\x89'),
  orderedDict: () => pickle.call(pickle.global('collections', 'OrderedDict')),
  file: (value: Buffer) => op('\x80\x02', value, op('.')),
  storage: (type: string, key: string, elements: number) =>
    op(
      '',
      pickle.tuple(
        pickle.text('storage'),
        pickle.global('torch', type),
        pickle.text(key),
        pickle.text('cpu'),
        pickle.int(elements),
      ),
      op('Q'),
    ),
  tensor: (storage: Buffer, offset: number, shape: number[], stride: number[]) =>
    pickle.call(
      pickle.global('torch._utils', '_rebuild_tensor_v2'),
      storage,
      pickle.int(offset),
      pickle.tuple(...shape.map(pickle.int)),
      pickle.tuple(...stride.map(pickle.int)),
      pickle.bool(false),
      pickle.orderedDict(),
    ),
};

export function strides(shape: number[]): number[] {
  return shape.map((_, i) => count(shape.slice(i + 1)));
}

/** A torch.save archive from a pickle and storages by key. */
export function torchFile(
  data: Buffer,
  storages: Record<string, number | Buffer>,
  extra: ZipItem[] = [],
): Buffer {
  return zip([
    { name: 'archive/data.pkl', data },
    { name: 'archive/byteorder', data: Buffer.from('little') },
    ...Object.entries(storages).map(([key, bytes]) => ({
      name: `archive/data/${key}`,
      data: typeof bytes === 'number' ? Buffer.alloc(bytes) : bytes,
    })),
    ...extra,
  ]);
}

/** A torch.save archive of zeros in fp16, one storage per tensor. */
export function torchStateDict(shapes: Record<string, number[]>): Buffer {
  const entries = Object.entries(shapes);
  return torchFile(
    pickle.file(
      pickle.dict(
        ...entries.map(([name, shape], i): [Buffer, Buffer] => [
          pickle.text(name),
          pickle.tensor(pickle.storage('HalfStorage', String(i), count(shape)), 0, shape, strides(shape)),
        ]),
      ),
    ),
    Object.fromEntries(entries.map(([, shape], i) => [String(i), count(shape) * 2])),
  );
}
