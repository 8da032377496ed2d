import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openLongBenchSample } from '../../datasets/longbench_sample.js';
import { MOBY_DICK } from '../../datasets/texts.js';
import { createLongBenchTask } from '../../eval/longbench.js';
import { createPasskeyTask } from '../../eval/passkey.js';
import { createPerplexityTask } from '../../eval/perplexity.js';
import type { Task } from '../../eval/task.js';
import { openTokenCache, type Tokenised, tokenCacheFolder } from '../../eval/token_cache.js';
import { openCheckpoint } from '../../src/model/index.js';

let folder: string;
beforeEach(() => {
  folder = join(mkdtempSync(join(tmpdir(), 'quest-tokens-')), 'tokens');
});
afterEach(() => rmSync(join(folder, '..'), { recursive: true, force: true }));

const entry = (n: number, id = 7): Tokenised => ({
  ids: [new Int32Array(n).fill(id), Int32Array.of(-1, 2 ** 31 - 1)],
  facts: { words: [1, 2], hash: 'ü\n', truncated: true },
});
const open = (tokenizer = 't', maxBytes?: number) => {
  const said: string[] = [];
  const cache = openTokenCache({ folder, tokenizer, maxBytes, detail: (text) => said.push(text) });
  let made = 0;
  const through = (key: unknown[], value = entry(5)) =>
    cache.through(key, () => {
      made++;
      return value;
    });
  return { through, made: () => made, said };
};
const files = () => readdirSync(folder).map((name) => join(folder, name));

describe('the cache', () => {
  test('gives back what was kept, in another process too', () => {
    const { through, made } = open();
    expect(through(['a', 1])).toEqual(entry(5));
    expect(through(['a', 1])).toEqual(entry(5));
    expect(made()).toBe(1);
    const other = open();
    expect(other.through(['a', 1], entry(1))).toEqual(entry(5));
    expect(other.made()).toBe(0);
  });

  test('tells keys and tokenizers apart', () => {
    const { through, made } = open();
    for (const key of [['a', 1], ['a', 2], ['b', 1], ['a', '1'], ['a']]) through(key);
    expect(made()).toBe(5);
    const other = open('another');
    other.through(['a', 1]);
    expect(other.made()).toBe(1);
    expect(files()).toHaveLength(6);
  });

  const damages: [string, (bytes: Buffer) => Buffer][] = [
    ['one byte', (b) => Buffer.from(b.map((byte, i) => (i === b.length - 3 ? byte ^ 1 : byte)))],
    ['the head', (b) => Buffer.from(b.map((byte, i) => (i === 40 ? byte ^ 1 : byte)))],
    ['cut short', (b) => b.subarray(0, b.length - 4)],
    ['cut to nothing', () => Buffer.alloc(0)],
    ['another file', () => Buffer.from('{"lengths": [1e12]}\n')],
    ['more behind', (b) => Buffer.concat([b, Buffer.from('x')])],
  ];
  test.each(damages)('a damaged entry is made again: %s', (_, damage) => {
    open().through(['a']);
    const [file] = files();
    writeFileSync(file!, damage(readFileSync(file!)));
    const { through, made, said } = open();
    expect(through(['a'])).toEqual(entry(5));
    expect(made()).toBe(1);
    expect(said).toEqual([expect.stringMatching(/was damaged and is made again/)]);
    const after = open();
    after.through(['a']);
    expect(after.made()).toBe(0);
  });

  test('stays within its size, and loses what was used longest ago', () => {
    const size = 40_000;
    const add = (key: string) => {
      const before = existsSync(folder) ? files() : [];
      open('t', 4.5 * size).through([key], entry(size / 4)); // every process looks at the size when it first writes
      return files().find((file) => !before.includes(file))!;
    };
    const [first, second, third, fourth] = ['a', 'b', 'c', 'd'].map((key, i) => {
      const file = add(key);
      utimesSync(file, 1000 + i, 1000 + i);
      return file;
    });
    open('t', 4.5 * size).through(['a']); // used again: the second is now the oldest
    const fifth = add('e');
    expect(files()).toEqual(expect.arrayContaining([first, fourth, fifth]));
    expect(files()).not.toContain(second);
    expect(files().length).toBeLessThan(5);
    expect([third, ...files()].every((file) => file!.endsWith('.tokens'))).toBe(true);
    expect(files().reduce((sum, file) => sum + statSync(file).size, 0)).toBeLessThanOrEqual(4.5 * size);
  });

  test('a place that cannot be written to costs nothing but the time', () => {
    mkdirSync(join(folder, '..'), { recursive: true });
    writeFileSync(folder, 'a file in the way');
    const { through, made, said } = open();
    for (let i = 0; i < 3; i++) expect(through(['a'])).toEqual(entry(5));
    expect(made()).toBe(3);
    expect(said).toEqual([expect.stringMatching(/are not kept/)]);
  });

  test('an error of making is no entry', () => {
    const cache = openTokenCache({ folder, tokenizer: 't' });
    const fail = () => {
      throw new Error('no tokens');
    };
    expect(() => cache.through(['a'], fail)).toThrow('no tokens');
    expect(cache.through(['a'], () => entry(2))).toEqual(entry(2));
  });
});

test('its place', () => {
  expect(tokenCacheFolder({ HOME: '/h' })).toBe('/h/.cache/quest/tokens');
  expect(tokenCacheFolder({ HOME: '/h', XDG_CACHE_HOME: '/x' })).toBe('/x/quest/tokens');
  expect(tokenCacheFolder({ QUEST_TOKEN_CACHE: '/y' })).toBe('/y');
  expect(tokenCacheFolder({ QUEST_TOKEN_CACHE: 'off' })).toBeUndefined();
});

describe('items from the cache equal those without', async () => {
  const checkpoint = await openCheckpoint('quest-tiny');
  const tokenizer = await checkpoint.tokenizer();
  const hash = await checkpoint.tokenizerHash();
  const items = async (task: Task, n: number) => {
    const all = [];
    for (let i = 0; i < n; i++) {
      const { score: _, ...item } = await task.item(i);
      all.push(item);
    }
    return all;
  };
  const cached = async (
    make: (cache?: ReturnType<typeof openTokenCache>) => Task | Promise<Task>,
    n: number,
  ) => {
    const plain = await items(await make(), n);
    const first = await items(await make(openTokenCache({ folder, tokenizer: hash })), n);
    const kept = files().length;
    const second = await items(await make(openTokenCache({ folder, tokenizer: hash })), n);
    expect(first).toEqual(plain);
    expect(second).toEqual(plain);
    expect(kept).toBe(n);
    expect(files()).toHaveLength(n);
  };

  test('passkey', () =>
    cached((cache) => createPasskeyTask({ contextTokens: 600, samples: 3, seed: 1 }, tokenizer, cache), 3));
  test('longbench', () =>
    cached(
      (cache) =>
        createLongBenchTask({
          ...{ data: 'sample', sets: [openLongBenchSample('qasper', 2)], tokenizer, chat: undefined, cache },
          ...{ maxLength: 700, maxContext: 4096, modelName: 'm' },
        }),
      2,
    ));
  test('ppl', () =>
    cached(
      (cache) =>
        createPerplexityTask(
          MOBY_DICK,
          { tokens: 500, window: 500, stride: undefined, lockstep: 1 },
          tokenizer,
          cache,
        ),
      1,
    ));
});
