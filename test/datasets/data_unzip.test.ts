import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { unpack } from '../../datasets/data_cache_unzip.js';
import type { QuestError } from '../../src/errors.js';
import { sha256, tempFolder } from '../net/server.js';
import { makeZip, type ZipItem } from './data_zip.js';

const text = `${'{"input": "a", "context": "b"}\n'.repeat(50)}`;

function prepare(items: readonly ZipItem[] | Buffer) {
  const root = tempFolder();
  const archive = join(root, 'data.zip');
  writeFileSync(archive, Buffer.isBuffer(items) ? items : makeZip(items as ZipItem[]));
  const folder = join(root, 'out');
  return {
    root,
    folder,
    run: () =>
      unpack({
        archive,
        folder,
        target: (name) => (/^data\/[a-z_]+\.jsonl$/.test(name) ? name.slice(5) : undefined),
      }),
  };
}

async function refused(items: readonly ZipItem[] | Buffer, message: string | RegExp): Promise<void> {
  const { run, folder, root } = prepare(items);
  const error = (await run().catch((e: unknown) => e)) as QuestError;
  expect(error.code).toBe('E_ARCHIVE');
  expect(error.message).toMatch(message);
  expect(error.hint).toBeTruthy();
  expect(existsSync(folder) ? readdirSync(folder).filter((n) => n !== 'good.jsonl') : []).toEqual([]);
  expect(readdirSync(root).sort().join()).toMatch(/^data\.zip(,out)?$/);
}

test('wanted entries are unpacked, others left alone', async () => {
  const { run, folder } = prepare([
    { name: 'data/', content: '', stored: true },
    { name: 'data/qasper.jsonl', content: text },
    { name: 'data/empty_e.jsonl', content: '', stored: true },
    { name: '__MACOSX/data/._qasper.jsonl', content: 'x' },
    { name: 'README.md', content: 'x' },
  ]);
  expect(await run()).toEqual([
    { name: 'qasper.jsonl', bytes: text.length, sha256: sha256(Buffer.from(text)) },
    { name: 'empty_e.jsonl', bytes: 0, sha256: sha256(Buffer.alloc(0)) },
  ]);
  expect(readFileSync(join(folder, 'qasper.jsonl'), 'utf8')).toBe(text);
  expect(readdirSync(folder).sort()).toEqual(['empty_e.jsonl', 'qasper.jsonl']);
});

test('names that lead out of the folder are refused, wanted or not', async () => {
  for (const name of ['../evil.jsonl', '/etc/evil', 'data/../../evil.jsonl', 'C:\\evil', 'a\\..\\b'])
    await refused(
      [
        { name: 'data/qasper.jsonl', content: text },
        { name, content: 'x' },
      ],
      /hostile directory/,
    );
});

test('links, doubles, encryption', async () => {
  await refused([{ name: 'data/qasper.jsonl', content: '/etc/passwd', mode: 0o120777 }], 'symbolic link');
  const one = { name: 'data/qasper.jsonl', content: text };
  await refused([one, one], 'twice');
  await refused([{ ...one, encrypted: true }], 'is encrypted');
});

test('bombs: too large, growing too much, too many entries', async () => {
  await refused([{ name: 'data/a.jsonl', content: text, claimedSize: 2 ** 31 }], /claims 2147483648 bytes/);
  await refused([{ name: 'data/a.jsonl', content: Buffer.alloc(5_000_000) }], /zip bomb/);
  const many = Array.from({ length: 10_001 }, (_, i) => ({ name: `x${i}`, content: '', stored: true }));
  await refused(many, 'has 10001 entries');
});

test('entries that are not what the directory says', async () => {
  const item = { name: 'data/qasper.jsonl', content: text };
  await refused([{ ...item, claimedSize: 10 }], 'cannot be unpacked');
  await refused([{ ...item, claimedSize: text.length + 5 }], 'cannot be unpacked');
  await refused([{ ...item, claimedCrc: 1 }], 'CRC-32 is wrong');
  const zip = makeZip([item]);
  zip.fill(0xff, 60, 80); // inside the compressed data
  await refused(zip, /cannot be unpacked|damaged/);
});

test('what is no archive, or half of one', async () => {
  await refused(Buffer.from('<html>please login</html>'), 'is not a readable zip archive');
  await refused(Buffer.alloc(0), 'is not a readable zip archive');
  const zip = makeZip([{ name: 'data/qasper.jsonl', content: text }]);
  await refused(zip.subarray(0, zip.length - 30), 'is not a readable zip archive');
});

test('every cut and every flipped byte gives an error of ours or the right content', async () => {
  const zip = makeZip([{ name: 'data/qasper.jsonl', content: text }]);
  for (let i = 0; i < zip.length; i++) {
    const bad = Buffer.from(zip);
    bad[i] = bad[i]! ^ 0x41;
    const { run, folder } = prepare(bad);
    const result = await run().catch((e: unknown) => e as QuestError);
    if (Array.isArray(result)) {
      for (const file of result) expect(readFileSync(join(folder, file.name), 'utf8')).toBe(text);
    } else {
      expect(result.name).toBe('QuestError');
    }
  }
});
