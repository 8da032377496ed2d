/** Every evaluation, killed twice in the middle and started again, leaves the files of a run that nobody disturbed. */
import { appendFileSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, test } from 'vitest';
import { hasAddon, quest, temporaryFolder } from './spawn.js';

const folder = temporaryFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const env = { QUEST_DATA: join(folder, 'no-data'), QUEST_OFFLINE: '1' };

const TASKS = [
  ['passkey', 'passkey --context 700 --samples 4 --budget 32,64 --method full,quest,h2o --page-size 32'],
  [
    'longbench',
    'longbench --sample --limit 1 --task hotpotqa,samsum,lcc --max-length 500 --budget 64 --method full,quest,h2o',
  ],
  ['ppl', 'ppl --dataset moby-dick --tokens 700 --budget 64,128 --method full,quest,streaming'],
  ['sparsity', 'analyze sparsity --tokens 256 --scored 16 --tolerance 0.5'],
  ['recall', 'analyze recall --context 600 --samples 4 --budget 64 --method full,quest,h2o'],
] as const;

const journal = (out: string): string[] => {
  const path = join(out, 'journal.jsonl');
  return existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : [];
};

/** What a clock says, and how the command was spelled: fields of the journal and the manifest that differ between any two runs. */
const PASSING = ['timing', 'feed_s', 'runs', 'command', 'options'];
const lasting = (text: string): unknown =>
  JSON.parse(text, (key, value: unknown) => (PASSING.includes(key) ? null : value));
const timeless: Record<string, (text: string) => unknown> = {
  'journal.jsonl': (text) => text.trimEnd().split('\n').map(lasting),
  'manifest.json': lasting,
};

/** Runs the command and kills it as soon as its journal has so many rows. */
async function killed(args: string[], out: string, rows: number): Promise<void> {
  const { signal } = await quest([...args, '--out', out], {
    env,
    started: async (child) => {
      while (journal(out).length < rows && child.exitCode === null) await sleep(3);
      child.kill('SIGKILL');
    },
  });
  expect(signal).toBe('SIGKILL');
}

describe.skipIf(!hasAddon)('killed in the middle, then started again:', { timeout: 120_000 }, () => {
  test.each(TASKS)('%s', async (name, line) => {
    const args = line.split(' ');
    const [reference, out] = [join(folder, `${name}-whole`), join(folder, name)];
    const whole = await quest([...args, '--out', reference], { env });
    expect(whole.code, whole.stderr).toBe(0);
    const total = journal(reference).length;

    await killed(args, out, 1);
    const first = journal(out).length;
    expect(existsSync(join(out, 'table.csv'))).toBe(false);
    expect(existsSync(join(out, 'run.lock'))).toBe(true); // left by the dead process
    appendFileSync(join(out, 'journal.jsonl'), '{"v":1,"key":"half a ro'); // as a crash of the machine would
    await killed(args, out, first + 1);
    const second = journal(out).length;
    expect(second).toBeGreaterThan(first);
    expect(second).toBeLessThan(total);

    const resumed = await quest([...args, '--out', out], { env });
    expect(resumed.code, resumed.stderr).toBe(0);
    expect(resumed.stderr).toContain(`resuming: the journal has ${second} rows`);
    expect(resumed.stdout).toBe(whole.stdout);
    expect(readdirSync(out).sort()).toEqual([...readdirSync(reference), 'journal.jsonl.torn'].sort());
    for (const file of readdirSync(reference)) {
      const [ours, theirs] = [out, reference].map((place) => readFileSync(join(place, file), 'utf8'));
      const facts = timeless[file] ?? ((text: string) => text);
      expect(facts(ours!), file).toEqual(facts(theirs!));
    }
  });

  test('benchmarks, whose times stay as they were measured first', async () => {
    const args =
      'bench kernels --kernel dense,estimate,topk --context 4096 --budget 512 --heads 4/4 --seconds 0.1'.split(
        ' ',
      );
    const out = join(folder, 'bench');
    await killed(args, out, 2);
    const before = journal(out);
    const resumed = await quest([...args, '--out', out], { env });
    expect(resumed.code, resumed.stderr).toBe(0);
    expect(journal(out).slice(0, before.length)).toEqual(before);
    expect(new Set(journal(out).map((row) => JSON.parse(row).key)).size).toBe(4); // bandwidth and 3 cases
    expect(journal(out)).toHaveLength(4);
    const again = await quest([...args, '--out', out], { env });
    expect(again.stderr).toMatch(/all cases were there/);
    expect(again.stdout).toBe(resumed.stdout);
  });
});
