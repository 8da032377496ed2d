import { chmodSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { duplicateKey } from '../../src/model/jsonkeys.js';
import { readSafetensorsHeader } from '../../src/model/safetensors.js';
import { writeSafetensors } from '../../src/model/safetensors_write.js';
import { errorOf, rawSafetensors, safetensors, temporaryFolder } from './helpers.js';

const root = temporaryFolder();
let serial = 0;
const write = (bytes: Buffer): string => {
  const file = path.join(root, `${serial++}.safetensors`);
  writeFileSync(file, bytes);
  return file;
};
const entry = (dtype: string, shape: unknown, begin: unknown, end: unknown) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});
const header = (tensors: object) => JSON.stringify(tensors);

describe('safetensors headers', () => {
  it('gives place, dtype and shape, and metadata', async () => {
    const { tensors, metadata } = await readSafetensorsHeader(
      write(safetensors({ a: [2, 3], b: [], c: [0, 4], d: [5] })),
    );
    const start = tensors.get('a')?.offset as number;
    expect(start).toBeGreaterThan(8);
    expect([...tensors]).toEqual([
      ['a', { dtype: 'F16', shape: [2, 3], offset: start, bytes: 12 }],
      ['b', { dtype: 'F16', shape: [], offset: start + 12, bytes: 2 }],
      ['c', { dtype: 'F16', shape: [0, 4], offset: start + 14, bytes: 0 }],
      ['d', { dtype: 'F16', shape: [5], offset: start + 14, bytes: 10 }],
    ]);
    expect(metadata).toEqual({ format: 'pt' });
  });

  it('accepts an order of entries that is not the order of bytes, padding, dtypes that are no weights, and __proto__', async () => {
    const text = `${header({ b: entry('I64', [1], 4, 12), a: entry('F32', [1], 0, 4) }).slice(0, -1)},"__proto__":{"dtype":"F4","shape":[2],"data_offsets":[12,13]}}   `;
    const { tensors } = await readSafetensorsHeader(write(rawSafetensors(text, 13)));
    expect([...tensors.keys()].sort()).toEqual(['__proto__', 'a', 'b']);
  });

  const good = header({ a: entry('F32', [2], 0, 8) });
  it.each<[string, Buffer, RegExp]>([
    ['an empty file', Buffer.alloc(0), /has 0 bytes/],
    ['seven bytes', Buffer.alloc(7), /has 7 bytes/],
    ['a length beyond the file', rawSafetensors(good, 8, 1000), /states a header of 1000 bytes but has only/],
    ['a length beyond the limit', rawSafetensors(good, 8, 100_000_001), /at most 100000000/],
    [
      'a length of 2^63',
      Buffer.concat([Buffer.from('0000000000000080', 'hex'), Buffer.from(good)]),
      /9223372036854775808 bytes/,
    ],
    ['a header of no bytes', rawSafetensors('', 0), /does not start with \{/],
    ['a header that is a list', rawSafetensors('[]', 0), /does not start with \{/],
    ['a space before the header', rawSafetensors(` ${good}`, 8), /does not start with \{/],
    ['cut JSON', rawSafetensors(good, 8, good.length - 3), /not valid JSON/],
    ['bytes that are no UTF-8', rawSafetensors('', 0, 2).fill(0x7b, 8), /states a header/],
    ['a truncated file', rawSafetensors(good, 5), /claims bytes 0 to 8, but the file holds 5/],
    ['bytes after the last tensor', rawSafetensors(good, 9), /1 bytes at its end belong to no tensor/],
    [
      'a hole',
      rawSafetensors(header({ a: entry('F32', [1], 0, 4), b: entry('F32', [1], 8, 12) }), 12),
      /"b" follows a hole \(4 bytes\)/,
    ],
    ['a hole at the start', rawSafetensors(header({ a: entry('F32', [1], 4, 8) }), 8), /"a" follows a hole/],
    [
      'an overlap',
      rawSafetensors(header({ a: entry('F32', [2], 0, 8), b: entry('F32', [1], 4, 8) }), 8),
      /"b" overlaps the one before it \(4 bytes\)/,
    ],
    [
      'the same bytes twice',
      rawSafetensors(header({ a: entry('F32', [1], 0, 4), b: entry('F32', [1], 0, 4) }), 4),
      /overlaps/,
    ],
    [
      'a key twice',
      rawSafetensors(`${good.slice(0, -1)},"\\u0061":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8),
      /the key "a" twice/,
    ],
    [
      'a key twice inside',
      rawSafetensors('{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', 8),
      /the key "shape" twice/,
    ],
    [
      'an unknown dtype',
      rawSafetensors(header({ a: entry('F99', [2], 0, 8) }), 8),
      /dtype "F99", which the format does not know/,
    ],
    [
      'a dtype from the prototype',
      rawSafetensors(header({ a: entry('constructor', [2], 0, 8) }), 8),
      /dtype "constructor"/,
    ],
    [
      'a shape that overflows',
      rawSafetensors(header({ a: entry('F32', [2 ** 40, 2 ** 40], 0, 8) }), 8),
      /product is too large/,
    ],
    [
      'a shape that overflows to zero',
      rawSafetensors(header({ a: entry('F32', [2 ** 32, 2 ** 32, 0], 0, 0) }), 0),
      /product is too large/,
    ],
    [
      'a negative size',
      rawSafetensors(header({ a: entry('F32', [-2, -1], 0, 8) }), 8),
      /not a list of sizes/,
    ],
    ['a broken size', rawSafetensors(header({ a: entry('F32', [1.5], 0, 6) }), 6), /not a list of sizes/],
    [
      'a shape that is a text',
      rawSafetensors(header({ a: entry('F32', '2', 0, 8) }), 8),
      /not a list of sizes/,
    ],
    [
      'a size that does not fit the bytes',
      rawSafetensors(header({ a: entry('F32', [3], 0, 8) }), 8),
      /claims 8 bytes, but F32 \[3\] takes 12/,
    ],
    [
      'offsets that run backwards',
      rawSafetensors(header({ a: entry('F32', [0], 8, 0) }), 8),
      /claims bytes 8 to 0/,
    ],
    [
      'offsets that are no numbers',
      rawSafetensors(header({ a: entry('F32', [2], '0', 8) }), 8),
      /not two byte positions/,
    ],
    ['an entry that is no object', rawSafetensors(header({ a: 5 }), 0), /"a" is 5, not an object/],
    [
      'metadata that is no text',
      rawSafetensors(header({ __metadata__: { n: 1 } }), 0),
      /__metadata__ is not an object of strings/,
    ],
  ])('refuses %s', async (_, bytes, message) => {
    const error = await errorOf(readSafetensorsHeader(write(bytes)));
    expect(error.code).toBe('E_SAFETENSORS');
    expect(error.message).toMatch(message);
    expect(error.hint).toMatch(/fetch .* again/);
  });

  it('says when a file is not there', async () => {
    expect((await errorOf(readSafetensorsHeader(path.join(root, 'none')))).code).toBe('E_IO');
  });
});

describe('duplicateKey', () => {
  it.each([
    ['{}', undefined],
    ['{"a":1,"b":{"a":1}}', undefined],
    ['{"a":["a","a",{"a":1}],"b":"a\\":"}', undefined],
    ['{"a":1,"b":2,"a":3}', 'a'],
    ['{"a":{"x":1,"y":{},"x":2}}', 'x'],
    ['{"\\"":1,"\\u0022" : 2}', '"'],
    ['[{"a":1},{"a":1}]', undefined],
    ['{"k\\\\":1,"k\\\\":2}', 'k\\'],
  ])('%s', (json, key) => {
    JSON.parse(json);
    expect(duplicateKey(json)).toBe(key);
  });
});

describe('writeSafetensors', () => {
  it('writes what the reader reads, in place of what was there', async () => {
    const file = path.join(root, 'out.safetensors');
    writeFileSync(file, 'old');
    await writeSafetensors(
      file,
      [
        { name: 'logits', data: Float32Array.of(1.5, -2, Number.NaN, 4, 5, 6), shape: [2, 3] },
        { name: 'pages', data: Int32Array.of(-1, 7), shape: [2] },
        { name: '5', data: BigInt64Array.of(-9n), shape: [1, 1] },
        { name: 'none', data: new Float32Array(0), shape: [0, 3] },
      ],
      { method: 'quest' },
    );
    const { tensors, metadata } = await readSafetensorsHeader(file);
    expect(metadata).toEqual({ method: 'quest' });
    const bytes = readFileSync(file);
    const at = (name: string) => tensors.get(name)?.offset as number;
    expect(at('logits') % 8).toBe(0);
    expect(bytes.readFloatLE(at('logits') + 4)).toBe(-2);
    expect(bytes.readInt32LE(at('pages'))).toBe(-1);
    expect(bytes.readBigInt64LE(at('5'))).toBe(-9n);
    expect(tensors.get('pages')).toMatchObject({ dtype: 'I32', shape: [2], bytes: 8 });
    expect(tensors.get('none')).toMatchObject({ shape: [0, 3], bytes: 0 });
    expect(readdirSync(root).filter((name) => name.includes('.tmp'))).toEqual([]);
  });

  it('refuses data that do not fill the shape, and leaves nothing behind when it cannot write', async () => {
    const tensor = { name: 'a', data: Float32Array.of(1, 2), shape: [3] };
    expect((await errorOf(writeSafetensors(path.join(root, 'x.safetensors'), [tensor]))).message).toMatch(
      /2 numbers do not fill \[3\]/,
    );
    const fine = { ...tensor, shape: [2] };
    expect((await errorOf(writeSafetensors(path.join(root, 'x.safetensors'), [fine, fine]))).code).toBe(
      'E_WRITE',
    );
    const error = await errorOf(writeSafetensors(path.join(root, 'no', 'folder', 'x.safetensors'), [fine]));
    expect(error).toMatchObject({ code: 'E_WRITE', exitCode: 3 });
    expect(existsSync(path.join(root, 'x.safetensors'))).toBe(false);
  });

  it.skipIf(process.getuid?.() === 0)(
    'says when the folder is read-only (skipped as root, who may write anywhere)',
    async () => {
      const dir = temporaryFolder();
      chmodSync(dir, 0o500);
      const error = await errorOf(
        writeSafetensors(path.join(dir, 'a'), [{ name: 'a', data: Float32Array.of(1), shape: [1] }]),
      );
      expect(error.code).toBe('E_WRITE');
    },
  );
});
