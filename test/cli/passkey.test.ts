import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse } from 'csv-parse/sync';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { JournalRow } from '../../eval/journal.js';
import { read, rows, SMALL, small } from './small_run.js';
import { type Finished, hasAddon, quest, temporaryFolder } from './spawn.js';

const FILES = [
  'accuracy.svg',
  'depth.svg',
  'journal.jsonl',
  'manifest.json',
  'plan.json',
  'table.csv',
  'table.md',
];

let folder: string;
let reference: string;
let first: Finished;

/** Starts the run and sends a signal as soon as the journal has `count` rows. */
function interrupted(
  out: string,
  signal: NodeJS.Signals,
  count: number,
  extra: string[] = [],
): Promise<Finished> {
  return quest([...SMALL, ...extra, '--out', out], {
    started: async (child) => {
      while (rows(out).length < count && child.exitCode === null) await sleep(5);
      child.kill(signal);
    },
  });
}

describe.skipIf(!hasAddon)('quest passkey', { timeout: 120_000 }, () => {
  beforeAll(async () => {
    folder = temporaryFolder();
    reference = join(folder, 'reference');
    first = await small(reference);
  }, 120_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test('prints the table and writes all files', () => {
    expect(first.stderr).toMatch(/28 rows in/);
    expect(first.code).toBe(0);
    expect(first.stdout).toMatch(/^accuracy %, budget: +32 +64 +all$/m);
    expect(first.stdout).toMatch(/^Full +\d+$/m);
    expect(first.stdout).toMatch(/^Quest +\d+ +\d+$/m);
    expect(readdirSync(reference).sort()).toEqual(FILES);
  });

  test('table.csv: one line per cell, KV read as the budget says', () => {
    const table = parse(read(reference, 'table.csv'), { columns: true }) as Record<string, string>[];
    expect(table.map((row) => `${row.method} ${row.budget_tokens}`.trim())).toEqual([
      'full',
      'quest 32',
      'quest 64',
      'streaming 32',
      'streaming 64',
      'h2o 32',
      'h2o 64',
    ]);
    const kv = table.map((row) => Number(row.kv_read_pct));
    expect(kv[0]).toBe(100);
    // Two of the eight layers are dense.
    for (const value of kv.slice(1)) expect(value).toBeLessThan(40);
    for (const row of table)
      expect(row).toMatchObject({
        context_tokens: '600',
        samples: '4',
        model: 'quest-tiny',
        never_sparse_samples: '0',
      });
    expect(table[1]).toMatchObject({ page_size: '16', group: 'max', sinks: '', paper_accuracy_pct: '' });
    expect(table[1]!.ci95).toMatch(/^\d+\.\d-\d+\.\d$/);
  });

  test('the journal and manifest describe the run', () => {
    const row = JSON.parse(rows(reference)[1]!) as JournalRow;
    expect(row).toMatchObject({
      item: 'passkey/600/0/0',
      sample: 0,
      cell: { method: 'quest', budget_tokens: 32 },
      fields: { depth_pct: 25 },
    });
    expect(row.prefill_tokens + row.step_tokens).toBeLessThanOrEqual(600);
    expect(row.counters.decodeSteps).toBeGreaterThanOrEqual(row.step_tokens);
    const manifest = JSON.parse(read(reference, 'manifest.json'));
    expect(manifest).toMatchObject({
      options: {
        context: { value: 600, source: 'command line' },
        page_size: { value: 16, source: 'default' },
      },
      model: { name: 'quest-tiny' },
      runs: [{ rows: { computed: 28, reused: 0 }, environment: { device: 'cpu', node: process.version } }],
    });
    expect(manifest.cells).toHaveLength(7);
    expect(manifest.timing.prefill_s).toBeGreaterThan(0);
  });

  test('the same command again computes nothing and changes nothing', async () => {
    const before = FILES.map((f) => read(reference, f));
    const again = await small(reference);
    expect(again.code).toBe(0);
    expect(again.stderr).toMatch(/all rows were there/);
    expect(again.stdout).toBe(first.stdout);
    expect(FILES.map((f) => read(reference, f))).toEqual(before);
  });

  test.runIf(process.platform === 'linux')(
    'a killed process that nobody has reaped holds nothing',
    async () => {
      const out = join(folder, 'zombie');
      const pidFile = join(folder, 'zombie.pid');
      let parent: ChildProcess | undefined;
      // The shell becomes a program that does not wait for its children.
      const first = small(out, {
        wrapper: ['bash', '-c', `"$@" & echo $! > ${pidFile}; exec sleep 60`, '-'],
        started: (child) => {
          parent = child;
        },
      });
      while (rows(out).length < 7) await sleep(5);
      const pid = Number(readFileSync(pidFile, 'utf8'));
      process.kill(pid, 'SIGKILL');
      try {
        const resumed = await small(out);
        expect(resumed.stderr).toMatch(/resuming: the journal has/);
        expect(resumed.code).toBe(0);
        expect(readFileSync(`/proc/${pid}/stat`, 'utf8')).toMatch(/\) Z /);
        expect(read(out, 'table.csv')).toBe(read(reference, 'table.csv'));
      } finally {
        parent?.kill();
      }
      await first;
    },
  );

  test.each([
    ['stderr', 'exec "$@" 2> >(exec true)'],
    ['stdout', 'set -o pipefail; "$@" | true'],
    ['both', 'set -o pipefail; "$@" 2>&1 | true'],
  ])('goes on to the end when nobody reads %s', async (name, command) => {
    const out = join(folder, `closed-${name}`);
    const result = await small(out, { wrapper: ['bash', '-c', command, '-'] });
    expect(result.code).toBe(0);
    expect(result.stderr).not.toMatch(/error|^\s+at /m);
    if (name === 'stderr') expect(result.stdout).toBe(first.stdout);
    expect(readdirSync(out).sort()).toEqual(FILES);
    expect(read(out, 'table.csv')).toBe(read(reference, 'table.csv'));
  });

  test('Ctrl-C flushes, exits 130, gives the folder back, and resumes', async () => {
    const out = join(folder, 'interrupted');
    const result = await interrupted(out, 'SIGINT', 7);
    expect(result.code).toBe(130);
    expect(result.stderr).toMatch(/error: interrupted; finished samples are kept/);
    expect(result.stderr).toMatch(/hint: the same command goes on/);
    expect(existsSync(join(out, 'run.lock'))).toBe(false);
    expect(rows(out).length % 7).toBe(0);
    expect((await small(out)).code).toBe(0);
    expect(read(out, 'table.csv')).toBe(read(reference, 'table.csv'));
  });

  test('rows do not depend on which cells ran together', async () => {
    const out = join(folder, 'alone');
    await quest([
      'passkey',
      '--context',
      '600',
      '--samples',
      '4',
      '--budget',
      '64',
      '--method',
      'quest',
      '--out',
      out,
    ]);
    const essence = (line: string) => {
      const { timing: _, ...row } = JSON.parse(line) as JournalRow;
      return row;
    };
    const together = rows(reference)
      .map(essence)
      .filter((r) => r.cell.method === 'quest' && r.cell.budget_tokens === 64);
    expect(rows(out).map(essence)).toEqual(together);
    // More methods and budgets may come later; the rows that are there stay.
    const more = await small(out);
    expect(more.code).toBe(0);
    expect(more.stderr).toMatch(/24 rows in/);
    expect(read(out, 'table.csv')).toBe(read(reference, 'table.csv'));
  });

  test('a method that never acts says so', async () => {
    const out = join(folder, 'never');
    const args = ['passkey', '--context', '600', '--samples', '1', '--budget', '1024'];
    const command = [...args, '--method', 'full,quest', '--out', out];
    const why = /^\* quest with budget 1024 never attended fewer tokens than the cache held/m;
    const result = await quest([...command, '--quiet']);
    expect(result.code).toBe(0);
    expect(result.stderr).toBe('');
    expect(result.stdout).toMatch(/^Quest +\d+\*$/m);
    expect(result.stdout).toMatch(why);
    expect(read(out, 'table.md')).toMatch(why);
    const csv = await quest([...command, '--format', 'csv']);
    expect(csv.stdout).toBe(read(out, 'table.csv'));
    expect(csv.stderr).toMatch(why);
    expect(read(out, 'table.csv')).toMatch(/^quest,1024,600,1,[^,]*,[^,]*,100.00,1,/m);
  });

  test('--format csv and json go to stdout', async () => {
    const csv = await small(reference, {});
    expect(csv.code).toBe(0);
    const formatted = await quest([...SMALL, '--out', reference, '--format', 'csv', '--quiet']);
    expect(formatted.stdout).toBe(read(reference, 'table.csv'));
    expect(formatted.stderr).toBe('');
    const json = JSON.parse(
      (await quest([...SMALL, '--out', reference, '--format', 'json', '--quiet'])).stdout,
    );
    expect(json).toHaveLength(7);
    const [, quest32] = parse(read(reference, 'table.csv'), { columns: true }) as Record<string, string>[];
    expect(json[1]).toMatchObject({
      method: 'quest',
      budget_tokens: 32,
      accuracy_pct: Number(quest32!.accuracy_pct),
      kv_read_pct: Number(quest32!.kv_read_pct),
    });
  });

  test('says why lists per query head read more than there is', async () => {
    const out = join(folder, 'per-head');
    const result = await quest([
      ...['passkey', '--context', '600', '--samples', '1', '--budget', '512'],
      ...['--method', 'quest', '--group', 'head', '--out', out],
    ]);
    expect(result.code).toBe(0);
    const [cell] = parse(read(out, 'table.csv'), { columns: true }) as Record<string, string>[];
    expect(Number(cell!.kv_read_pct)).toBeGreaterThan(100);
    expect(result.stdout).toMatch(/^quest 512: kv_read_pct is above 100, because .* every list counts/m);
    expect(first.stdout).not.toMatch(/above 100/);
  });

  test('a run that was refused before its first row binds nobody', async () => {
    const out = join(folder, 'corrected');
    const args = (budget: string, ...more: string[]) =>
      quest([...SMALL.with(SMALL.indexOf('--budget') + 1, budget), '--out', out, ...more]);
    expect((await args('32,64,128', '--max-memory', '10M')).stderr).toMatch(/--max-memory allows 10 MB/);
    expect(existsSync(out)).toBe(false);
    // As a run leaves it that ended while the model was loaded.
    mkdirSync(out);
    const plan = JSON.parse(read(reference, 'plan.json'));
    writeFileSync(join(out, 'plan.json'), JSON.stringify({ ...plan, params: { samples: 1 } }));
    writeFileSync(join(out, 'journal.jsonl'), '');
    expect((await args('32,64')).code).toBe(0);
    expect(JSON.parse(read(out, 'plan.json'))).toEqual(plan);
    // With rows, a refused extension leaves the plan as it was.
    expect((await args('32,64,128', '--max-memory', '10M')).code).toBe(3);
    expect(JSON.parse(read(out, 'plan.json'))).toEqual(plan);
    expect((await args('32,64')).code).toBe(0);
  });

  test.each([
    ['fields', (row: JournalRow) => ({ ...row, fields: undefined })],
    ['counters', (row: JournalRow) => ({ ...row, counters: null })],
    ['counters.kvBytes', (row: JournalRow) => ({ ...row, counters: { ...row.counters, kvBytes: 'many' } })],
    ['timing', (row: JournalRow) => ({ ...row, timing: 5 })],
  ])('a journal row without proper %s is refused, last line or not', async (key, change) => {
    for (const at of [2, 27]) {
      const out = join(folder, `incomplete-${key}-${at}`);
      mkdirSync(out);
      writeFileSync(join(out, 'plan.json'), read(reference, 'plan.json'));
      const lines = rows(reference);
      lines[at] = JSON.stringify(change(JSON.parse(lines[at]!)));
      const text = `${lines.join('\n')}\n`;
      writeFileSync(join(out, 'journal.jsonl'), text);
      const result = await small(out);
      expect(result.stderr).toMatch(
        new RegExp(`^error: line ${at + 1} of .* is not a row of this journal: ${key}: .*\nhint: .*\n$`),
      );
      expect(result.code).toBe(3);
      expect(read(out, 'journal.jsonl')).toBe(text);
      expect(readdirSync(out).sort()).toEqual(['journal.jsonl', 'plan.json']);
    }
  });
});
