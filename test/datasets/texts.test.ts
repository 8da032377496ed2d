/** Texts: Moby-Dick from its package, PG-19 books from a data folder, files; and the pieces that count and cut them. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { countWords, encodePrefix, openTexts } from '../../datasets/texts.js';
import { openCheckpoint } from '../../src/model/index.js';
import { hasShared, sharedDir } from '../support/shared.js';

const dir = mkdtempSync(join(tmpdir(), 'quest-texts-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
/** An environment with an empty data folder and no network. */
const env = { ...process.env, QUEST_DATA: join(dir, 'empty'), QUEST_OFFLINE: '1' };

describe('Moby-Dick', () => {
  it('is what is read where nothing was downloaded, and is called a training book', async () => {
    const source = await openTexts({ env });
    expect(source.dataset).toBe('moby-dick');
    expect(source.title).toMatch(/Moby-Dick.*training split, not of its test split/);
    const text = source.books[0]!.read();
    expect(text.startsWith('CHAPTER 1. Loomings.')).toBe(true);
    expect(text.match(/^CHAPTER \d+\./gm)!.map((m) => Number(m.slice(8, -1)))).toEqual(
      Array.from({ length: 135 }, (_, i) => i + 1),
    );
    expect(text.endsWith('five thousand years ago.\n')).toBe(true);
  });

  it('has no books to choose from', async () => {
    await expect(openTexts({ dataset: 'moby-dick', books: ['860'], env })).rejects.toThrow(/books of pg19/);
  });
});

describe('PG-19', () => {
  const data = join(dir, 'data');
  mkdirSync(join(data, 'pg19', 'test'), { recursive: true });
  for (const id of ['860', '10146', '10356'])
    writeFileSync(join(data, 'pg19', 'test', `${id}.txt`), `book ${id}\n`);

  it('is found in the data folder; its first book is the first by name', async () => {
    const found = await openTexts({ env: { ...env, QUEST_DATA: data } });
    expect(found.dataset).toBe('pg19');
    expect(found.books.map((b) => b.id)).toEqual(['10146']);
    expect(found.books[0]!.read()).toBe('book 10146\n');
    const named = await openTexts({ data, books: ['860', '10356'], env });
    expect(named.books.map((b) => b.id)).toEqual(['860', '10356']);
  });

  it('is not replaced by another text when it was asked for', async () => {
    await expect(openTexts({ dataset: 'pg19', env })).rejects.toThrow(/10146.*is not in/);
    await expect(openTexts({ data: join(dir, 'empty'), env })).rejects.toThrow(/is not in/);
    await expect(openTexts({ data, books: ['860', '2544'], env })).rejects.toThrow(/2544/);
    await expect(openTexts({ data, books: ['emma'], env })).rejects.toThrow(/"emma"/);
  });
});

describe('a file', () => {
  it('is read as it is, and must hold words', async () => {
    const file = join(dir, 'notes.txt');
    writeFileSync(file, ' two words\n');
    const source = await openTexts({ file, env });
    expect([source.dataset, source.title, source.books[0]!.read()]).toEqual([
      'text',
      'notes.txt',
      ' two words\n',
    ]);
    writeFileSync(file, ' \n');
    expect(() => source.books[0]!.read()).toThrow(/holds no text/);
    writeFileSync(file, Buffer.from('caf\xe9', 'latin1'));
    expect(() => source.books[0]!.read()).toThrow(/is not text in UTF-8/);
    await expect(openTexts({ file: join(dir, 'gone'), env })).rejects.toThrow(/there is no such file/);
    await expect(openTexts({ file, dataset: 'pg19', env })).rejects.toThrow(/exclude each other/);
  });
});

describe('words and prefixes', () => {
  it('words are what stands between white space', () => {
    expect(countWords('')).toBe(0);
    expect(countWords('  Call me\n\nIshmael.\tSome -- years\u00a0ago ')).toBe(7);
  });

  it('the ids of a prefix are the first ids of the whole text', async () => {
    const tokenizer = await (await openCheckpoint('quest-tiny')).tokenizer();
    const text = (await openTexts({ dataset: 'moby-dick', env })).books[0]!.read().slice(0, 60_000);
    const encode = (part: string) => tokenizer.encode(part);
    const all = encode(text);
    for (const n of [1, 100, 1777]) {
      let seen = 0;
      const ids = encodePrefix(text, n, (part) => {
        seen = part.length;
        return encode(part);
      });
      expect(ids).toEqual(all.slice(0, n));
      expect(seen).toBeLessThan(20_000);
    }
    expect(encodePrefix(text, 10 ** 7, encode)).toEqual(all);
    // No white space to cut at: the whole text is tokenised.
    expect(encodePrefix('x'.repeat(30_000), 5, encode)).toEqual(encode('x'.repeat(30_000)).slice(0, 5));
  });

  it.skipIf(!hasShared)('the real books are read', async () => {
    const books = ['860', '10146', '10356'];
    const source = await openTexts({ data: `${sharedDir}/data`, books, env });
    expect(source.books.map((book) => countWords(book.read()))).toEqual([47_289, 43_010, 51_998]);
  });
});
