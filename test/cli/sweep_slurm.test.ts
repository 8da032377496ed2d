/** quest sweep --executor slurm against a real Slurm, started for the test. */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Slurm, slurmMissing, startSlurm } from '../support/slurm.js';
import { hasAddon, quest, type SpawnOptions, temporaryFolder } from './spawn.js';
import { journalRows, readRows, SMALL_SWEEP, timeless, until } from './sweep_run.js';

const missing = slurmMissing();
if (missing !== undefined) process.stderr.write(`tests of quest sweep on Slurm are skipped: ${missing}\n`);

describe.runIf(hasAddon && missing === undefined)('quest sweep on Slurm', { timeout: 240_000 }, () => {
  let slurm: Slurm;
  let place: string;
  let file: string;
  let reference: string;

  beforeAll(async () => {
    place = temporaryFolder();
    file = join(place, 'sweep.yaml');
    writeFileSync(file, SMALL_SWEEP);
    slurm = await startSlurm();
    reference = join(place, 'reference');
    expect((await quest(['sweep', file, '--out', reference])).code).toBe(0);
  }, 180_000);
  afterAll(() => {
    slurm?.stop();
    rmSync(place, { recursive: true, force: true });
  });

  const sweep = (out: string, more: string[] = [], options: SpawnOptions = {}) =>
    quest(
      [
        'sweep',
        file,
        '--out',
        out,
        '--executor',
        'slurm',
        '--poll-seconds',
        '0.5',
        '--sbatch',
        'cpus-per-task=1',
        ...more,
      ],
      { ...options, env: slurm.env },
    );
  const jobOf = (out: string) =>
    readdirSync(join(out, 'slurm'))
      .map((name) => /^(\d+)_/.exec(name)?.[1])
      .find((job) => job !== undefined);

  test('an array of packs gives the table of a local run', async () => {
    const out = join(place, "array it's");
    const result = await sweep(out, ['--pack-tokens', '1', '--max-parallel', '1']);
    expect(result.stderr).toMatch(/submitted 2 units as job \d+ with 2 elements/);
    expect(result.code).toBe(0);
    expect(timeless(out)).toEqual(timeless(reference));
    expect(readFileSync(join(out, 'slurm', 'job.sh'), 'utf8')).toMatch(/--array=0-1%1\n/);
    expect(readdirSync(join(out, 'slurm')).filter((name) => name.endsWith('.log'))).toHaveLength(2);
  });

  test('an element that is preempted goes on from its journal; a killed sweep finds its job again', async () => {
    const out = join(place, 'preempted');
    let parent = 0;
    const first = sweep(out, [], {
      started: (child) => {
        parent = child.pid!;
      },
    });
    await until('a row', () => journalRows(out) >= 3);
    process.kill(parent, 'SIGKILL');
    await first;
    slurm.call('sbatch', '--partition=urgent', '--exclusive', '--output=/dev/null', '--wrap=true');
    const before = journalRows(out);
    const local = await quest(['sweep', file, '--out', out], { env: slurm.env });
    expect(local.stderr).toMatch(/is being computed by job \d+ of Slurm/);
    expect(local.code).toBe(3);
    const second = await sweep(out);
    expect(second.stderr).toMatch(/job \d+ of this sweep is in the queue: waiting for it/);
    expect(second.stderr).not.toMatch(/submitted/);
    expect(second.code).toBe(0);
    expect(readFileSync(join(out, 'slurm', `${jobOf(out)}_0.log`), 'utf8')).toMatch(/DUE TO PREEMPTION/);
    expect(before).toBeLessThan(journalRows(reference));
    expect(journalRows(out)).toBe(journalRows(reference));
    expect(timeless(out)).toEqual(timeless(reference));
  });

  test('a cancelled job is not submitted again by itself, but by the same command', async () => {
    const out = join(place, 'cancelled');
    const running = sweep(out);
    await until('a row', () => journalRows(out) >= 3);
    slurm.call('scancel', jobOf(out)!);
    const result = await running;
    expect(result.stderr).toMatch(/was cancelled; \d units? (is|are) missing/);
    expect(result.code).toBe(3);
    expect((await sweep(out)).code).toBe(0);
    expect(timeless(out)).toEqual(timeless(reference));
  });

  test('what Slurm refuses is said, and units that fail keep nobody from the others', async () => {
    const refused = await sweep(join(place, 'refused'), ['--partition', 'nowhere']);
    expect(refused.stderr).toMatch(/sbatch refused the job: .*partition/i);
    expect(refused.code).toBe(3);
    const out = join(place, 'failing');
    writeFileSync(file, SMALL_SWEEP.replace('context: 600', 'context: [40, 600]').replace('[0, 1]', '0'));
    const result = await sweep(out);
    expect(result.code).toBe(1);
    expect(readRows(out).map((row) => row.error !== '')).toEqual([true, true, true, false, false, false]);
  });
});
