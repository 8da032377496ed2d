import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ownIdentity } from '../../src/processes.js';
import { hasAddon, quest, type SpawnOptions, temporaryFolder } from './spawn.js';
import { journalRows, readRows, SMALL_SWEEP, timeless, unitProcesses, until } from './sweep_run.js';

describe.runIf(hasAddon)('quest sweep on this machine', { timeout: 180_000 }, () => {
  let place: string;
  let file: string;
  let reference: string;
  const sweep = (out: string, yaml = file, options?: SpawnOptions) =>
    quest(['sweep', yaml, '--devices', 'cpu*2', '--out', out], options);

  beforeAll(async () => {
    place = temporaryFolder();
    file = join(place, 'sweep.yaml');
    writeFileSync(file, SMALL_SWEEP);
    reference = join(place, 'reference');
    const result = await sweep(reference);
    expect(result.stderr).toMatch(/2 of 2 units/);
    expect(result.code).toBe(0);
    expect(result.stdout).toMatch(/passkey +quest-tiny +600 +accuracy \(%\) +Quest/);
  }, 180_000);
  afterAll(() => rmSync(place, { recursive: true, force: true }));

  test('merges all cells into one table, with a figure and a manifest', () => {
    const rows = readRows(reference);
    expect(rows.map((row) => [row.seed, row.method, row.budget_tokens])).toEqual(
      ['0', '1'].flatMap((seed) => [
        [seed, 'full', ''],
        [seed, 'quest', '32'],
        [seed, 'quest', '64'],
      ]),
    );
    for (const row of rows) {
      expect(row).toMatchObject({ task: 'passkey', context_tokens: '600', samples: '4', error: '' });
      expect(Number(row.score)).toBeGreaterThanOrEqual(0);
      expect(Number(row.seconds)).toBeGreaterThan(0);
      if (row.method === 'quest') expect(Number(row.kv_read_pct)).toBeLessThan(60);
    }
    expect(readFileSync(join(reference, 'figure.svg'), 'utf8')).toMatch(/quest-tiny: passkey, 600 tokens/);
    const manifest = JSON.parse(readFileSync(join(reference, 'manifest.json'), 'utf8'));
    expect(manifest).toMatchObject({ units: 2, cells: 6, failed: [] });
    // Each unit is a run as if it had been typed.
    expect(existsSync(join(reference, 'units', rows[0]!.unit!, 'journal.jsonl'))).toBe(true);
  });

  test('a finished sweep computes nothing, and grows by budgets', async () => {
    const before = journalRows(reference);
    const again = await sweep(reference);
    expect(again.stderr).toMatch(/2 units, 2 of which are there/);
    expect(journalRows(reference)).toBe(before);
    const grown = join(place, 'grown.yaml');
    writeFileSync(grown, SMALL_SWEEP.replace('[32, 64]', '[32, 64, 128]'));
    expect((await sweep(reference, grown)).code).toBe(0);
    expect(journalRows(reference)).toBe(before + 8);
    const less = await sweep(reference);
    expect(less.stderr).toMatch(/holds another sweep: quest 128 is no longer part of/);
    expect(less.code).toBe(2);
    writeFileSync(file, readFileSync(grown)); // the other tests compare with what is there now
  });

  test('a killed process of a unit is started again and goes on', async () => {
    const out = join(place, 'worker-killed');
    let killed = 0;
    const running = sweep(out);
    await until('a row', () => journalRows(out) >= 4);
    for (const pid of unitProcesses(out)) {
      process.kill(pid, 'SIGKILL');
      killed++;
    }
    const result = await running;
    expect(killed).toBeGreaterThan(0);
    expect(result.stderr).toMatch(/was ended by SIGKILL; it goes on from its journal/);
    expect(result.code).toBe(0);
    expect(timeless(out)).toEqual(timeless(reference));
  });

  test('a killed sweep stops its processes, and the same command ends with the same table', async () => {
    const out = join(place, 'sweep-killed');
    let parent = 0;
    const running = sweep(out, file, {
      started: (child) => {
        parent = child.pid!;
      },
    });
    await until('a row', () => journalRows(out) >= 4);
    const children = unitProcesses(out);
    process.kill(parent, 'SIGKILL');
    expect((await running).signal).toBe('SIGKILL');
    const isAlive = (pid: number) =>
      existsSync(`/proc/${pid}/cmdline`) && readFileSync(`/proc/${pid}/cmdline`, 'utf8') !== '';
    await until('the end of its processes', () => !children.some(isAlive), 20);
    expect(existsSync(join(out, 'table.csv'))).toBe(false);
    const before = journalRows(out);
    expect((await sweep(out)).code).toBe(0);
    expect(timeless(out)).toEqual(timeless(reference));
    expect(journalRows(out)).toBeGreaterThan(before);
    expect(journalRows(out)).toBe(journalRows(reference)); // nothing was computed twice
  });

  test('a unit that fails leaves its error in the table, and the others go on', async () => {
    const out = join(place, 'failing');
    const failing = join(place, 'failing.yaml');
    writeFileSync(
      failing,
      SMALL_SWEEP.replace('seed: [0, 1]', 'seed: 0').replace('context: 600', 'context: [40, 600]'),
    );
    const result = await sweep(out, failing);
    expect(result.code).toBe(1);
    expect(result.stderr).toMatch(/passkey-quest-tiny-40-s0-\w+ failed: a context of 40 tokens is too short/);
    const rows = readRows(out);
    expect(rows.filter((row) => row.context_tokens === '40')).toHaveLength(3);
    for (const row of rows) {
      if (row.context_tokens === '40')
        expect([row.score, row.error]).toEqual(['', expect.stringMatching(/too short/)]);
      else expect([Number(row.score) >= 0, row.error]).toEqual([true, '']);
    }
    const report = await quest(['report', out, '--out', join(place, 'report.html')]);
    expect(report.code).toBe(0);
    expect(report.stderr).toMatch(/^1 run on one page/);
    const html = readFileSync(join(place, 'report.html'), 'utf8');
    expect(html).toContain('<h2>Sweep failing</h2>');
    expect(html).toMatch(/Failed: passkey-quest-tiny-40-s0-\w+: a context of 40 tokens is too short/);
  });

  test('a folder in use by a living sweep is refused', async () => {
    const out = join(place, 'locked');
    mkdirSync(out);
    writeFileSync(join(out, 'run.lock'), JSON.stringify(ownIdentity()));
    const result = await sweep(out);
    expect(result.stderr).toMatch(new RegExp(`in use by another run \\(process ${process.pid}\\)`));
    expect(result.code).toBe(3);
    expect(readdirSync(out)).toEqual(['run.lock']);
  });

  test('runs and sweeps are kept out of each other', async () => {
    const before = readFileSync(join(reference, 'manifest.json'), 'utf8');
    const run = await quest(['passkey', '--context', '600', '--samples', '1', '--out', reference]);
    expect([run.code, run.stderr]).toEqual([2, expect.stringMatching(/reference holds a sweep/)]);
    const bench = await quest(['bench', 'kernels', '--device', 'cpu', '--out', reference]);
    expect([bench.code, bench.stderr]).toEqual([2, expect.stringMatching(/reference holds a sweep/)]);
    expect(readFileSync(join(reference, 'manifest.json'), 'utf8')).toBe(before);
    const unit = join(reference, 'units', readRows(reference)[0]!.unit!);
    const table = readFileSync(join(unit, 'table.csv'), 'utf8');
    const other = await sweep(unit);
    expect([other.code, other.stderr]).toEqual([
      2,
      expect.stringMatching(/holds a run of its own \(plan.json\)/),
    ]);
    expect(readFileSync(join(unit, 'table.csv'), 'utf8')).toBe(table);
  });

  test('Ctrl-C keeps what is finished', async () => {
    const out = join(place, 'interrupted');
    const running = sweep(out, file, {
      started: (child) => void until('a row', () => journalRows(out) >= 3).then(() => child.kill('SIGINT')),
    });
    const result = await running;
    expect(result.code).toBe(130);
    expect(result.stderr).toMatch(/interrupted; what is finished is kept/);
    expect(unitProcesses(out)).toEqual([]);
  });
});

test('a dry run writes nothing', async () => {
  const place = temporaryFolder();
  const file = join(place, 'sweep.yaml');
  writeFileSync(file, SMALL_SWEEP);
  const out = join(place, 'out');
  const result = await quest([
    'sweep',
    file,
    '--dry-run',
    '--out',
    out,
    '--executor',
    'slurm',
    '--max-parallel',
    '4',
  ]);
  expect(result.code).toBe(0);
  expect(result.stdout).toMatch(/^sweep +2 units, 6 cells -> /);
  expect(result.stdout).toMatch(/quest passkey --budget 32,64 --context 600/);
  expect(result.stdout).toMatch(/#SBATCH --array=0-0%4/);
  expect(existsSync(out)).toBe(false);
  const wrong = await quest(['sweep', file, '--dry-run', '--out', out, '--gres', 'gpu:1']);
  expect(wrong.stderr).toMatch(/--gres is for --executor slurm/);
  rmSync(place, { recursive: true, force: true });
});
