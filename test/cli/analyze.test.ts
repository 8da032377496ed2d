/** quest analyze as a user runs it. */
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'csv-parse/sync';
import { afterAll, describe, expect, test } from 'vitest';
import { hasAddon, quest, temporaryFolder } from './spawn.js';

const folder = temporaryFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const env = { QUEST_DATA: join(folder, 'no-data'), QUEST_OFFLINE: '1' };
const FILES = ['figure.svg', 'journal.jsonl', 'manifest.json', 'plan.json', 'table.csv', 'table.md'];
const table = (out: string) =>
  parse(readFileSync(join(out, 'table.csv'), 'utf8'), { columns: true }) as Record<string, string>[];

describe.skipIf(!hasAddon)('quest analyze', { timeout: 180_000 }, () => {
  test('sparsity: a budget and the share dropped for every layer, beside the paper', async () => {
    const out = join(folder, 'sparsity');
    const args = [
      'analyze',
      'sparsity',
      '--tokens',
      '320',
      '--scored',
      '32',
      '--tolerance',
      '0.5',
      '--out',
      out,
    ];
    const done = await quest(args, { env });
    expect(done.code, done.stderr).toBe(0);
    expect(done.stdout).toMatch(/^KV dropped, layer: +Oracle +budget +Quest +budget$/m);
    expect(done.stdout).toMatch(/^ {2}paper \(7B\) +0\.972 +0\.921$/m);
    expect(`${done.stdout}${done.stderr}`).toMatch(
      /Moby-Dick \(a book of PG-19's training split.*the last 32 of 320 tokens/,
    );
    expect(done.stdout).toMatch(/^oracle: an upper bound.*highest true logits/m);
    expect(done.stdout).toMatch(/^WARNING: 32 scored tokens of 320 are too few/m);
    expect(readdirSync(out).sort()).toEqual(FILES);
    const rows = table(out);
    expect(rows.length).toBe(16);
    for (const r of rows) {
      expect(Number(r.ppl_rise)).toBeLessThan(0.5);
      expect(Number(r.dropped_share)).toBeGreaterThanOrEqual(0);
      expect(Number(r.dropped_share)).toBeLessThan(1);
      expect(r.text).toMatch(/Moby-Dick/);
    }
    const again = await quest(args, { env });
    expect(again.stderr).toMatch(/all rows were there/);
    expect(again.stdout).toBe(done.stdout);
  });

  test('recall: methods over budgets, beside the paper', async () => {
    const out = join(folder, 'recall');
    const args = [
      'analyze',
      'recall',
      '--context',
      '600',
      '--samples',
      '1',
      '--budget',
      '64,1024',
      '--out',
      out,
    ];
    const done = await quest([...args, '--format', 'md'], { env });
    expect(done.code, done.stderr).toBe(0);
    expect(done.stdout).toMatch(/recall of top 10, budget:/);
    expect(done.stdout).toMatch(/\|Full +\| *1\.000\| *1\.000\|/);
    expect(`${done.stdout}${done.stderr}`).toMatch(/\* Quest with budget 1024 never attended fewer tokens/);
    expect(readdirSync(out).sort()).toEqual(FILES);
    const all = table(out).filter((r) => r.layer === 'all');
    expect(all.map((r) => [r.method, r.budget_tokens])).toEqual([
      ['full', ''],
      ...['quest', 'streaming', 'h2o', 'tova'].flatMap((m) => [
        [m, '64'],
        [m, '1024'],
      ]),
    ]);
    for (const r of all.filter((row) => row.budget_tokens === '1024')) expect(r.recall).toBe('1.0000');
    for (const r of all.filter((row) => row.budget_tokens === '64')) expect(Number(r.recall)).toBeLessThan(1);
    expect(all.map((r) => r.paper_recall)).toEqual(all.map(() => '')); // the paper's context is 10K
  });

  test('what belongs to the other analysis, or to none, is refused', async () => {
    const refusals: [string[], RegExp][] = [
      [[], /there is no analysis\n[\s\S]*quest analyze sparsity/],
      [['speed'], /there is no analysis "speed"/],
      [['sparsity', '--budget', '64'], /--budget belongs to quest analyze recall/],
      [['recall', '--tolerance', '1'], /--tolerance belongs to quest analyze sparsity/],
      [['sparsity', '--method', 'h2o'], /h2o selects nothing/],
      [['sparsity', '--scored', '9000'], /leaves nothing/],
    ];
    for (const [args, message] of refusals) {
      const { code, stderr } = await quest(['analyze', ...args], { env, cwd: folder });
      expect(stderr, args.join(' ')).toMatch(message);
      expect(code).toBe(2);
    }
  });
});
