import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hasAddon, quest, temporaryFolder } from './spawn.js';

let folder: string;
beforeAll(() => {
  folder = temporaryFolder();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('quest report without runs', () => {
  test('wants folders', async () => {
    const none = await quest(['report']);
    expect([none.code, none.stderr]).toEqual([2, expect.stringMatching(/missing required argument 'dirs'/)]);
    const absent = await quest(['report', join(folder, 'absent')]);
    expect([absent.code, absent.stderr]).toEqual([2, expect.stringMatching(/absent is no folder\nhint: /)]);
    mkdirSync(join(folder, 'empty'));
    const empty = await quest(['report', join(folder, 'empty')]);
    expect([empty.code, empty.stderr]).toEqual([2, expect.stringMatching(/empty holds no finished run/)]);
  });

  test('wants an HTML file', async () => {
    const { code, stderr } = await quest(['report', folder, '--out', 'report.pdf']);
    expect([code, stderr]).toEqual([2, expect.stringMatching(/--out wants a file that ends in \.html/)]);
  });
});

describe.skipIf(!hasAddon)('quest report', { timeout: 120_000 }, () => {
  let run: string;
  beforeAll(async () => {
    run = join(folder, 'runs', 'passkey');
    const args = [
      'passkey',
      '--context',
      '600',
      '--samples',
      '1',
      '--budget',
      '32',
      '--method',
      'full,quest',
    ];
    expect((await quest([...args, '--out', run])).code).toBe(0);
  }, 120_000);

  test('writes the page, Markdown and the Pareto figure; the same again', async () => {
    const out = join(folder, 'pages', 'ours.html');
    const { code, stdout, stderr } = await quest(['report', run, run, '--out', out]);
    expect([code, stdout]).toEqual([0, `${out}\n`]);
    expect(stderr).toMatch(/^1 run on one page/);
    const names = ['ours-pareto.svg', 'ours.html', 'ours.md'];
    expect(readdirSync(join(folder, 'pages')).sort()).toEqual(names);
    const html = readFileSync(out, 'utf8');
    expect(html).toContain('Passkey retrieval (Table 1)');
    expect(html.match(/<figure>/g)).toHaveLength(3);
    expect(readFileSync(join(folder, 'pages', 'ours.md'), 'utf8')).toContain(
      '](../runs/passkey/accuracy.svg)',
    );
    await quest(['report', join(folder, 'runs'), '--out', out]);
    expect(readFileSync(out, 'utf8')).toBe(html);
  });

  test('leaves unfinished runs of a folder out, and refuses them by name', async () => {
    const half = join(folder, 'runs', 'half');
    mkdirSync(half);
    writeFileSync(join(half, 'plan.json'), '{"task": "passkey", "params": {}}');
    const out = join(folder, 'half.html');
    const all = await quest(['report', join(folder, 'runs'), '-o', out]);
    expect([all.code, all.stderr]).toEqual([0, expect.stringMatching(/half is left out/)]);
    rmSync(out);
    const one = await quest(['report', half, '-o', out]);
    expect(one.code).toBe(2);
    expect(one.stderr).toMatch(/^error: .*half\/manifest\.json is missing\nhint: the run has not finished/);
    expect(existsSync(out)).toBe(false);
  });

  test('a place that cannot be written gives one error', async () => {
    const { code, stderr } = await quest(['report', run, '--out', join(run, 'table.csv', 'x.html')]);
    expect([code, stderr]).toEqual([3, expect.stringMatching(/^error: cannot write/)]);
  });
});
