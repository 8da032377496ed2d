import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { QuestError } from '../../src/errors.js';
import { readStateDict } from '../../src/model/pickle.js';
import { readTorchIndex } from '../../src/model/torchbin.js';
import { errorOf, pickle, temporaryFolder, torchFile, torchStateDict, zip } from './helpers.js';

const root = temporaryFolder();
let serial = 0;
const write = (bytes: Buffer): string => {
  const file = path.join(root, `${serial++}.bin`);
  writeFileSync(file, bytes);
  return file;
};

const half = (key: string, elements: number) => pickle.storage('HalfStorage', key, elements);
const one = (tensor: Buffer) => pickle.file(pickle.dict([pickle.text('w'), tensor]));
const index = (data: Buffer, storages: Record<string, number | Buffer>) =>
  readTorchIndex(write(torchFile(data, storages)));

describe('torch checkpoints', () => {
  it('gives the place of every tensor in the file', async () => {
    const numbers = Buffer.from(Float32Array.of(1, 2, 3, 4).buffer);
    const file = torchFile(
      pickle.file(
        pickle.dict(
          [pickle.text('a'), pickle.tensor(pickle.storage('FloatStorage', '0', 4), 0, [2, 2], [2, 1])],
          // Shares its storage with a, starting at its third number.
          [pickle.text('b'), pickle.tensor(pickle.storage('FloatStorage', '0', 4), 2, [2], [1])],
          [
            pickle.text('c'),
            pickle.tensor(pickle.storage('BFloat16Storage', '1', 3), 0, [1, 3, 1], [99, 1, 7]),
          ],
          [pickle.text('steps'), pickle.int(7)],
          [
            pickle.text('p'),
            pickle.call(
              pickle.global('torch._utils', '_rebuild_parameter'),
              pickle.tensor(half('2', 1), 0, [], []),
              pickle.bool(true),
              pickle.orderedDict(),
            ),
          ],
          [pickle.text('ids'), pickle.tensor(pickle.storage('LongStorage', '3', 2), 0, [2], [1])],
        ),
      ),
      { 0: numbers, 1: 6, 2: 2, 3: 16 },
    );
    const { tensors } = await readTorchIndex(write(file));
    expect([...tensors.keys()]).toEqual(['a', 'b', 'c', 'p', 'ids']);
    const a = tensors.get('a');
    expect(a).toMatchObject({ dtype: 'F32', shape: [2, 2], bytes: 16 });
    expect(file.readFloatLE(a?.offset)).toBe(1);
    expect(tensors.get('b')).toEqual({
      dtype: 'F32',
      shape: [2],
      offset: (a?.offset as number) + 8,
      bytes: 8,
    });
    expect(file.readFloatLE(tensors.get('b')?.offset)).toBe(3);
    expect(tensors.get('c')).toMatchObject({ dtype: 'BF16', shape: [1, 3, 1], bytes: 6 });
    expect(tensors.get('p')).toMatchObject({ dtype: 'F16', shape: [], bytes: 2 });
    expect(tensors.get('ids')?.dtype).toBe('LongStorage');
    expect((a?.offset as number) % 64).toBe(0);
  });

  it('reads an OrderedDict with attributes, and integers above 32 bits', async () => {
    const items = Buffer.concat([
      Buffer.from('('),
      pickle.text('w'),
      pickle.tensor(half('0', 2), 0, [2], [1]),
      Buffer.from('u'),
    ]);
    const metadata = Buffer.concat([
      pickle.dict([pickle.text('_metadata'), pickle.orderedDict()]),
      Buffer.from('b'),
    ]);
    const tensors = await readStateDict(
      pickle.file(Buffer.concat([pickle.orderedDict(), items, metadata])),
      'x',
    );
    expect([...tensors.keys()]).toEqual(['w']);
    const long = Buffer.from('8a050000000001', 'hex');
    const huge = pickle
      .tensor(half('0', 2), 0, [2], [1])
      .toString('latin1')
      .replace(pickle.int(2).toString('latin1'), long.toString('latin1'));
    expect((await readStateDict(one(Buffer.from(huge, 'latin1')), 'x')).get('w')?.storage.elements).toBe(
      2 ** 32,
    );
  });

  it.each<[string, Buffer, RegExp]>([
    [
      'os.system',
      pickle.call(pickle.global('os', 'system'), pickle.text('touch /tmp/quest-was-here')),
      /the global "os\.system"/,
    ],
    ['posix.system', pickle.call(pickle.global('posix', 'system'), pickle.text('x')), /"posix\.system"/],
    ['builtins.eval', pickle.call(pickle.global('builtins', 'eval'), pickle.text('1')), /"builtins\.eval"/],
    [
      'a constructor',
      pickle.call(pickle.global('__proto__', 'constructor'), pickle.text('1')),
      /"__proto__\.constructor"/,
    ],
    ['an old-style instance', Buffer.from('(ios\nsystem\n'), /"os\.system"/],
    [
      'a global from the stack',
      Buffer.concat([pickle.text('subprocess'), pickle.text('run'), Buffer.from([0x93])]),
      /"subprocess\.run"/,
    ],
    [
      'a newer torch rebuild',
      pickle.call(pickle.global('torch._utils', '_rebuild_tensor_v3')),
      /"torch\._utils\._rebuild_tensor_v3"/,
    ],
    [
      'a quantised tensor',
      pickle.call(pickle.global('torch._utils', '_rebuild_qtensor')),
      /_rebuild_qtensor/,
    ],
  ])('refuses %s by name and runs nothing', async (_, value, message) => {
    const error = await errorOf(index(one(value), {}));
    expect(error.code).toBe('E_PICKLE');
    expect(error.message).toMatch(message);
    expect(error.hint).toMatch(/nothing in them is executed/);
    expect(existsSync('/tmp/quest-was-here')).toBe(false);
  });

  it.each<[string, Buffer, RegExp]>([
    ['an extension code', Buffer.from([0x82, 1]), /opcode 0x82/],
    ['an opcode that does not exist', Buffer.from([0xff]), /opcode 0xff/],
    [
      'a text longer than the file',
      Buffer.from('X\xff\xff\xff\x7fab', 'latin1'),
      /a text of 2147483647 bytes/,
    ],
    ['a cut text', Buffer.from('X\x09\x00\x00\x00ab', 'latin1'), /ends in the middle/],
    ['an integer beyond 2^53', Buffer.from('8a08ffffffffffffff7f', 'hex'), /too large/],
    ['a long integer', Buffer.concat([Buffer.from([0x8a, 200]), Buffer.alloc(200, 1)]), /too large/],
    ['an empty stack', Buffer.from('RRR'), /not a well-formed state dict/],
    ['marks without end', Buffer.from('ttt'), /not a well-formed state dict/],
    [
      'a call of a storage type',
      pickle.call(pickle.global('torch', 'HalfStorage')),
      /calls torch\.HalfStorage/,
    ],
    ['a call of data', pickle.call(pickle.text('eval'), pickle.text('1')), /not a well-formed state dict/],
    [
      'a new object',
      Buffer.concat([pickle.global('torch', 'HalfStorage'), Buffer.from(')\x81', 'latin1')]),
      /not a well-formed state dict/,
    ],
    [
      'a parameter of a text',
      pickle.call(pickle.global('torch._utils', '_rebuild_parameter'), pickle.text('x')),
      /no tensor/,
    ],
    ['a tensor of a text', pickle.tensor(pickle.text('x'), 0, [1], [1]), /without storage/],
    [
      'a tensor with a negative offset',
      pickle.tensor(half('0', 4), 0xffffffff, [1], [1]),
      /without storage, offset/,
    ],
    ['a tensor without its strides', pickle.tensor(half('0', 4), 0, [1], []), /without storage, offset/],
    [
      'a persistent id that is no storage',
      Buffer.concat([pickle.tuple(pickle.text('module')), Buffer.from('Q')]),
      /persistent id/,
    ],
    [
      'a storage of another type',
      Buffer.concat([
        pickle.tuple(
          pickle.text('storage'),
          pickle.text('T'),
          pickle.text('0'),
          pickle.text('cpu'),
          pickle.int(1),
        ),
        Buffer.from('Q'),
      ]),
      /without type/,
    ],
  ])('refuses %s', async (_, value, message) => {
    const error = await errorOf(index(one(value), { 0: 8 }));
    expect(error.code).toBe('E_PICKLE');
    expect(error.message).toMatch(message);
  });

  it('refuses pickles that are no dict, and ones that stop early', async () => {
    expect((await errorOf(index(pickle.file(pickle.text('hi')), {}))).message).toMatch(
      /holds "hi", not a dict/,
    );
    expect((await errorOf(index(Buffer.from('\x80\x02}', 'latin1'), {}))).code).toBe('E_PICKLE');
    expect((await errorOf(index(Buffer.from('\x80\x09}.', 'latin1'), {}))).code).toBe('E_PICKLE');
    expect((await errorOf(index(Buffer.alloc(0), {}))).code).toBe('E_PICKLE');
  });

  it('is not slowed down by a pickle that nests a value in itself thirty times', async () => {
    // Written out as text, the key would have 2^30 parts.
    const nested = Buffer.concat([
      Buffer.from(')'),
      ...Array.from({ length: 30 }, () => Buffer.from('q\x00h\x00\x86', 'latin1')),
    ]);
    const state = pickle.dict([nested, pickle.int(1)]);
    for (const value of [
      Buffer.concat([pickle.tuple(), state, Buffer.from('b')]),
      Buffer.concat([Buffer.from('('), nested, nested, Buffer.from('d')]),
      Buffer.concat([nested, nested, Buffer.from([0x93])]),
      Buffer.concat([nested, Buffer.from('Q')]),
    ])
      expect(
        (
          await errorOf(
            index(one(value), {}).then(() => Promise.reject(new QuestError('E_PICKLE', 'left out'))),
          )
        ).code,
      ).toBe('E_PICKLE');
  });

  it('a pickle cannot reach the prototypes of this process', async () => {
    const hostile = pickle.dict([
      pickle.text('__proto__'),
      pickle.dict([pickle.text('polluted'), pickle.int(1)]),
    ]);
    await index(pickle.file(hostile), {});
    const build = Buffer.concat([
      pickle.global('collections', 'OrderedDict'),
      hostile,
      Buffer.from('b0'),
      pickle.dict(),
    ]);
    await index(pickle.file(build), {}).catch(() => undefined);
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
    expect((() => 0) as unknown as Record<string, unknown>).not.toHaveProperty('polluted');
  });

  it.each<[string, Buffer, Record<string, number>, RegExp]>([
    [
      'a storage the archive lacks',
      pickle.tensor(half('7', 4), 0, [4], [1]),
      { 0: 8 },
      /storage "7", which the archive does not hold/,
    ],
    [
      'a storage key that climbs',
      pickle.tensor(half('../data.pkl', 4), 0, [4], [1]),
      { 0: 8 },
      /does not hold/,
    ],
    [
      'a storage larger than its entry',
      pickle.tensor(half('0', 40), 0, [40], [1]),
      { 0: 8 },
      /states 40 and has 8 bytes/,
    ],
    [
      'a tensor beyond its storage',
      pickle.tensor(half('0', 4), 2, [3], [1]),
      { 0: 8 },
      /ends at element 5 of storage "0", which states 4/,
    ],
    [
      'a transposed view',
      pickle.tensor(half('0', 6), 0, [2, 3], [1, 2]),
      { 0: 12 },
      /strides \[1, 2\] for shape \[2, 3\]; supported: contiguous/,
    ],
    ['a broadcast view', pickle.tensor(half('0', 6), 0, [2, 3], [0, 1]), { 0: 12 }, /strides \[0, 1\]/],
    [
      'a shape that overflows',
      pickle.tensor(half('0', 4), 0, [0x7fffffff, 0x7fffffff, 4], [1, 1, 1]),
      { 0: 8 },
      /product is too large/,
    ],
  ])('refuses %s', async (_, tensor, storages, message) => {
    const error = await errorOf(index(one(tensor), storages));
    expect(error.code).toBe('E_TORCH_FILE');
    expect(error.message).toMatch(message);
  });

  const tensor = one(pickle.tensor(half('0', 4), 0, [4], [1]));
  it.each<[string, Buffer, RegExp]>([
    [
      'a compressed storage',
      zip([
        { name: 'a/data.pkl', data: tensor },
        { name: 'a/data/0', data: Buffer.alloc(8), deflate: true },
      ]),
      /"a\/data\/0" is compressed \(method 8\); supported: stored/,
    ],
    [
      'a compressed pickle',
      zip([{ name: 'a/data.pkl', data: tensor, deflate: true }]),
      /"a\/data\.pkl" is compressed/,
    ],
    [
      'an entry larger than the file',
      zip([
        { name: 'a/data.pkl', data: tensor },
        { name: 'a/data/0', data: Buffer.alloc(8), statedBytes: 1 << 20 },
      ]),
      /overflows file bounds/,
    ],
    [
      'a local header that lies about where its data starts',
      (() => {
        const bytes = zip([
          { name: 'a/data.pkl', data: tensor },
          { name: 'a/data/0', data: Buffer.alloc(8) },
          { name: 'a/data/1', data: Buffer.alloc(64) },
        ]);
        const header = bytes.indexOf('a/data/0') - 30;
        bytes.writeUInt16LE(bytes.readUInt16LE(header + 28) + 16, header + 28);
        return bytes;
      })(),
      /"a\/data\/0" reaches into the next entry/,
    ],
    [
      'a pickle larger than its limit',
      zip([{ name: 'a/data.pkl', data: tensor, statedBytes: 1 << 30 }]),
      /has 1073741824 bytes; at most 16777216/,
    ],
    [
      'an entry twice',
      zip([
        { name: 'a/data.pkl', data: tensor },
        { name: 'a/data.pkl', data: tensor },
      ]),
      /"a\/data\.pkl" twice/,
    ],
    [
      'two pickles',
      zip([
        { name: 'a/data.pkl', data: tensor },
        { name: 'b/data.pkl', data: tensor },
      ]),
      /2 data\.pkl entries/,
    ],
    ['no pickle', zip([{ name: 'a/readme', data: tensor }]), /0 data\.pkl entries/],
    ['an entry that climbs out', zip([{ name: '../data.pkl', data: tensor }]), /broken zip directory/],
    [
      'big-endian bytes',
      zip([
        { name: 'a/data.pkl', data: tensor },
        { name: 'a/byteorder', data: Buffer.from('big') },
      ]),
      /byte order is "big"; supported: little/,
    ],
    [
      'TorchScript',
      zip([
        { name: 'a/data.pkl', data: tensor },
        { name: 'a/constants.pkl', data: tensor },
      ]),
      /TorchScript program/,
    ],
    [
      "torch's old format",
      Buffer.from('80028a0a6cfc9c46f9206aa85019', 'hex'),
      /old format; supported: the zip format/,
    ],
    ['a cut archive', torchStateDict({ w: [8, 8] }).subarray(0, -40), /not a readable zip archive/],
    ['an empty file', Buffer.alloc(0), /does not start like a zip/],
    ['a text file', Buffer.from('version https://git-lfs.github.com/spec/v1\n'), /not a torch checkpoint/],
  ])('refuses %s', async (_, bytes, message) => {
    const error = await errorOf(readTorchIndex(write(bytes)));
    expect(error.code).toBe('E_TORCH_FILE');
    expect(error.message).toMatch(message);
    expect(error.hint).toBeTruthy();
  });
});
