import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readConfig } from '../../src/cli/config.js';
import { optionsOf } from '../../src/cli/options.js';
import { createSettings } from '../../src/cli/settings.js';
import { hasAddon, quest, ROOT, temporaryFolder } from './spawn.js';

const TINY = ['--model', 'quest-tiny', '--limit', '1', '--context', '600', '--budget', '64'];

let folder: string;
beforeAll(() => {
  folder = temporaryFolder();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('presets', () => {
  test.each([
    ['table1-10k', 'passkey'],
    ['table1-100k', 'passkey'],
    ['fig3', 'analyze'],
    ['fig4', 'analyze'],
    ['fig6', 'ppl'],
    ['fig7', 'longbench'],
    ['fig8', 'bench'],
    ['fig9', 'bench'],
    ['fig10', 'bench'],
    ['fig11', 'longbench'],
  ] as const)('%s is a config file of quest %s', (name, command) => {
    const file = join(ROOT, 'configs', `${name}.yaml`);
    const settings = createSettings(command, {}, { file, values: readConfig(file, command) });
    expect(settings.source(command === 'bench' ? 'context' : 'model')).toBe('config file');
    expect(readFileSync(file, 'utf8')).toContain(`quest ${command}`);
  });

  test('no option is named twice', () => {
    for (const command of ['report', 'repro', 'iso'] as const) {
      const flags = optionsOf(command).flatMap((s) => [s.name, ...(s.short ? [s.short] : [])]);
      expect(flags).toEqual([...new Set(flags)]);
    }
  });
});

describe('quest repro refuses', () => {
  const refused = async (...args: string[]) => {
    const { code, stderr } = await quest(['repro', ...args]);
    return `${code} ${stderr}`;
  };

  test('a model for benchmarks, which have none', async () => {
    expect(await refused('fig8', '--model', 'quest-tiny')).toMatch(
      /^2 error: --model has no meaning for quest repro fig8\nhint: leave it out; it belongs to table1, fig3/,
    );
    expect(await refused('fig10', '--seed', '1')).toMatch(/--seed has no meaning for quest repro fig10/);
  });

  test('names that the paper does not have', async () => {
    expect(await refused('tabel1')).toMatch(/^2 .*\nhint: did you mean table1\?/);
    expect(await refused('7')).toMatch(/hint: choose from table1, fig3/);
  });

  test('overrides without meaning', async () => {
    expect(await refused('fig3', '--task', 'qasper')).toMatch(
      /^2 error: --task has no meaning for quest repro fig3\nhint: leave it out; it belongs to fig7, fig11/,
    );
  });
});

describe.skipIf(!hasAddon)('quest repro', { timeout: 120_000 }, () => {
  test('--dry-run shows the commands and writes nothing', async () => {
    const out = join(folder, 'dry');
    const { code, stdout, stderr } = await quest(['repro', 'table1', ...TINY, '--dry-run', '--out', out]);
    expect(code).toBe(0);
    expect(stderr).toMatch(
      /== table1-10k: quest passkey --config \S+table1-10k\.yaml --model quest-tiny --samples 1 --context 600 --budget 64 --out/,
    );
    expect(stdout).toMatch(/^plan +passkey on quest-tiny, 1 sample x 6 cells$/m);
    expect(existsSync(out)).toBe(false);
  });

  test('runs as the command would, and makes the report', async () => {
    const out = join(folder, 'table1');
    const args = ['repro', 'table1', ...TINY, '--method', 'full,quest', '--out', out];
    const { code, stdout, stderr } = await quest(args);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Quest +\d+$/m);
    expect(stderr).toMatch(/report: \S+table1\.html/);
    expect(readdirSync(out).sort()).toEqual(['table1-10k', 'table1-pareto.svg', 'table1.html', 'table1.md']);
    const html = readFileSync(join(out, 'table1.html'), 'utf8');
    expect(html).toContain('<title>Quest: Table 1 of the paper</title>');
    const table = readFileSync(join(out, 'table1-10k', 'table.csv'), 'utf8');
    // The command that the manifest names finds all rows there.
    const { command } = JSON.parse(readFileSync(join(out, 'table1-10k', 'manifest.json'), 'utf8'));
    const again = await quest(command.split(' ').slice(1));
    expect([again.code, again.stderr]).toEqual([0, expect.stringMatching(/all rows were there/)]);
    expect(readFileSync(join(out, 'table1-10k', 'table.csv'), 'utf8')).toBe(table);
  });

  test('a part that the model cannot hold is left out', async () => {
    const args = ['repro', 'table1', '--model', 'quest-tiny', '--limit', '1', '--dry-run'];
    const { code, stderr } = await quest(args, { cwd: folder });
    expect(stderr).toMatch(/table1-100k is left out: a context of 100000 tokens .* exceed/);
    expect(code).toBe(0);
  });

  test('a part that cannot run keeps nobody from the others, and is an error in the end', async () => {
    const args = ['repro', 'all', ...TINY, '--tokens', '600', '--scored', '64', '--dataset', 'moby-dick'];
    const env = { QUEST_OFFLINE: '1', QUEST_DATA: join(folder, 'no-data') };
    const { code, stdout, stderr } = await quest([...args, '--device', 'cpu', '--dry-run'], {
      env,
      cwd: folder,
    });
    expect(code).not.toBe(0);
    expect(stdout.match(/^plan /gm)).toHaveLength(4);
    expect(stderr).toMatch(
      /^fig8 is left out: it times a GPU; quest repro fig8 --device cpu times this machine$/m,
    );
    expect(stderr).toMatch(/^error: fig7, fig11 could not run: /m);
  });

  test('fig9 is a benchmark, and its report shows table and figures', async () => {
    const out = join(folder, 'fig9');
    const args = ['repro', 'fig9', '--device', 'cpu', '--context', '8192', '--budget', '4096', '--out', out];
    const { code, stdout, stderr } = await quest(args);
    expect(stderr).toMatch(/report: \S+fig9\.html/);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^32\/32 +8192 +4096 +16 /m);
    const html = readFileSync(join(out, 'fig9.html'), 'utf8');
    expect(html).toContain('<h2>Attention of one layer (Figures 8 and 9)</h2>');
    expect(html).toContain('attention layers of 32/32 heads');
    expect(html).toContain('>paper_speedup</th>');
    expect(html.match(/<figure>/g)).toHaveLength(3);
    expect(readFileSync(join(out, 'fig9.md'), 'utf8')).toMatch(/\| *1\.69\|$/m);
  });

  test('fig11 adds the budgets to the report', async () => {
    const out = join(folder, 'fig11');
    const small = [
      '--model',
      'quest-tiny',
      '--sample',
      '--limit',
      '1',
      '--task',
      'hotpotqa',
      '--max-length',
      '900',
    ];
    const args = ['repro', 'fig11', ...small, '--budget', '64,256', '--method', 'full,quest', '--out', out];
    const { code, stdout, stderr } = await quest([...args, '--device', 'cpu']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^task +lossless with: +context/m);
    expect(stdout).toMatch(/^hotpotqa +Full +\d+ +all +[\d.]+ +[\d.]+ +[\d.]+$/m); // the last is its time
    expect(stderr).toMatch(/attention: .* measured now on/);
    expect(readFileSync(join(out, 'fig11.html'), 'utf8')).toContain(
      '<h2>Budgets for lossless scores (Figure 11)</h2>',
    );
  });
});
