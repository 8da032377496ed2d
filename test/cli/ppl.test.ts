/** quest ppl as a user runs it: Moby-Dick on a fresh machine, files, PG-19 books, interruptions, refusals. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'csv-parse/sync';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hasShared, sharedDir } from '../support/shared.js';
import { type Finished, hasAddon, quest, temporaryFolder } from './spawn.js';

const folder = temporaryFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Nothing downloaded, and nothing to be downloaded. */
const env = { QUEST_DATA: join(folder, 'no-data'), QUEST_OFFLINE: '1' };
const SMALL = [
  'ppl',
  '--tokens',
  '400',
  '--budget',
  '64,512',
  '--method',
  'full,quest,streaming,h2o',
  '--skip-layers',
  '0',
];
/** Notes stand beneath a table for readers, and beside one for programs. */
const said = ({ stdout, stderr }: Finished) => `${stdout}${stderr}`;
const read = (out: string, file: string) => readFileSync(join(out, file), 'utf8');
const table = (out: string) => parse(read(out, 'table.csv'), { columns: true }) as Record<string, string>[];
const last = (out: string, method: string, budget = '', book?: string) =>
  table(out)
    .filter(
      (r) => r.method === method && r.budget_tokens === budget && (book === undefined || r.book === book),
    )
    .at(-1)!;

describe.skipIf(!hasAddon)('quest ppl', { timeout: 120_000 }, () => {
  const reference = join(folder, 'reference');
  let first: Finished;
  beforeAll(async () => {
    first = await quest([...SMALL, '--out', reference], { env });
  }, 120_000);

  test('reads Moby-Dick where nothing was downloaded, and says so in every output', () => {
    expect(first.code, first.stderr).toBe(0);
    expect(first.stdout).toMatch(/^moby-dick \(pg19-train\): perplexity, tokens: /);
    expect(said(first)).toMatch(
      /text: Moby-Dick \(a book of PG-19's training split, not of its test split\)/,
    );
    expect(readdirSync(reference).sort()).toEqual([
      'figure.svg',
      'journal.jsonl',
      'manifest.json',
      'plan.json',
      'table.csv',
      'table.md',
    ]);
    expect(read(reference, 'table.md')).toMatch(/moby-dick \(pg19-train\)/);
    expect(table(reference).every((r) => r.dataset === 'moby-dick (pg19-train)')).toBe(true);
    expect(read(reference, 'figure.svg')).toMatch(/Moby-Dick \(a book of PG-19/);
    expect(JSON.parse(read(reference, 'manifest.json')).text.title).toMatch(/not of its test split/);
  });

  test('table.csv holds the running perplexity of every cell', () => {
    const rows = table(reference);
    expect(rows.length).toBe(7 * 20); // full and three methods at two budgets, a point every 20 tokens
    for (const r of rows) {
      expect(Number(r.ppl_token)).toBeCloseTo(Math.exp(Number(r.nll) / Number(r.tokens)), 1);
      expect(Number(r.words)).toBeLessThan(Number(r.tokens));
      expect(Number(r.ppl_word)).toBeGreaterThan(Number(r.ppl_token));
    }
    const full = last(reference, 'full');
    expect([full.position, full.tokens, full.kv_read_pct, full.never_sparse]).toEqual([
      '400',
      '400',
      '100.00',
      'false',
    ]);
    expect(Number(last(reference, 'streaming', '64').kv_read_pct)).toBeLessThan(40);
    expect(last(reference, 'quest', '64').ppl_token).not.toBe(full.ppl_token);
    expect(full.paper_ppl).toBe('');
  });

  test('a budget that held everything gives the numbers of full, and is marked', () => {
    for (const method of ['quest', 'streaming', 'h2o']) {
      expect(last(reference, method, '512').nll).toBe(last(reference, 'full').nll);
      expect(last(reference, method, '512').never_sparse).toBe('true');
    }
    expect(first.stdout).toMatch(/^Quest 512 .*100\.0\*$/m);
    expect(said(first)).toMatch(/\* Quest 512 never attended fewer tokens than the cache held/);
  });

  test('a file longer than the context is refused, or scored in windows', async () => {
    const file = join(folder, 'notes.txt');
    writeFileSync(file, 'The sun rose over the quiet town and the men went down to the boats. '.repeat(40));
    const refused = await quest([
      'ppl',
      '--text',
      file,
      '--tokens',
      '600',
      '--window',
      '256',
      '--out',
      join(folder, 'w'),
    ]);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toMatch(/600 tokens do not fit into one pass of 256[\s\S]*--stride 128/);
    const out = join(folder, 'windows');
    const args = [
      '--text',
      file,
      '--tokens',
      '600',
      '--window',
      '256',
      '--stride',
      '128',
      '--budget',
      '64',
      '--method',
      'full,quest',
    ];
    const done = await quest(['ppl', ...args, '--format', 'csv', '--out', out]);
    expect(done.code, done.stderr).toBe(0);
    expect(done.stderr).toMatch(/windows of 256 tokens that advance by 128.* at least 128 before it/);
    const rows = parse(done.stdout, { columns: true }) as Record<string, string>[];
    expect(rows[0]).toMatchObject({ dataset: 'notes.txt', window: '256', stride: '128' });
    expect(rows.filter((r) => r.method === 'full').at(-1)!.tokens).toBe('600');
  });

  test('--dry-run says what it would do and writes nothing', async () => {
    const out = join(folder, 'dry');
    const dry = await quest([...SMALL, '--dry-run', '--out', out], { env });
    expect(dry.code, dry.stderr).toBe(0);
    expect(dry.stdout).toMatch(/^plan +ppl on quest-tiny, 1 book x 7 cells$/m);
    expect(existsSync(out)).toBe(false);
  });

  test('what makes no sense is refused before anything is computed', async () => {
    const refusals: [string[], RegExp][] = [
      [['--books', '860'], /PG-19.*860.*is not in/],
      [['--dataset', 'pg19'], /is not in .*no-data/],
      [['--dataset', 'moby-dick', '--books', '1'], /books of pg19/],
      [['--h2o-prefill'], /no prefill/],
      [['--tokens', '40000'], /40000 tokens do not fit into one pass of 32768/],
      [['--tokens', '100', '--method', 'quest', '--budget', '8'], /too small for quest/],
      [['--text', join(folder, 'gone.txt')], /gone\.txt: there is no such file/],
      [['--text', folder], /it is a folder/],
    ];
    const place = join(folder, 'refused');
    mkdirSync(place);
    for (const [args, message] of refusals) {
      const { code, stderr } = await quest(['ppl', ...args], { env, cwd: place });
      expect(stderr, args.join(' ')).toMatch(message);
      expect(stderr).toMatch(/^hint: /m);
      expect([2, 3]).toContain(code);
      expect(readdirSync(place), args.join(' ')).toEqual([]);
    }
  });

  test.skipIf(!hasShared)('PG-19 books one by one and together', async () => {
    const out = join(folder, 'pg19');
    const args = ['--data', `${sharedDir}/data`, '--books', '860,10146,10356', '--tokens', '300'];
    const done = await quest(['ppl', ...args, '--budget', '64', '--method', 'full,quest', '--out', out], {
      env,
    });
    expect(done.code, done.stderr).toBe(0);
    expect(done.stdout).toMatch(/^pg19-test: perplexity/);
    expect(said(done)).toMatch(/text: PG-19 test split, books 860, 10146, 10356/);
    const books = ['860', '10146', '10356'].map((book) => last(out, 'quest', '64', book));
    const all = last(out, 'quest', '64', 'all');
    expect(all.tokens).toBe('900');
    expect(Number(all.nll)).toBeCloseTo(
      books.reduce((sum, r) => sum + Number(r.nll), 0),
      2,
    );
    expect(Number(all.words)).toBe(books.reduce((sum, r) => sum + Number(r.words), 0));
  });
});
