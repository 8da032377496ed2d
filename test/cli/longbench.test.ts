import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'csv-parse/sync';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { UNANSWERABLE } from '../../datasets/longbench_sample.js';
import { TASK_NAMES } from '../../datasets/longbench_tasks.js';
import type { Prediction } from '../../eval/longbench_predictions.js';
import { hasShared, sharedDir } from '../support/shared.js';
import { type Finished, hasAddon, quest, type SpawnOptions, temporaryFolder } from './spawn.js';

const SMALL = [
  ...['longbench', '--sample', '--limit', '1', '--task', 'hotpotqa,samsum,passage_retrieval_en'],
  ...['--method', 'full,quest,streaming', '--budget', '64,256', '--max-length', '700'],
];
const FILES = [
  'figure.svg',
  'hotpotqa.svg',
  'journal.jsonl',
  'manifest.json',
  'passage_retrieval_en.svg',
  'plan.json',
  'predictions.jsonl',
  'samsum.svg',
  'table.csv',
  'table.md',
];
/** Nothing of the user's own data, and no network. */
const OFFLINE = { QUEST_OFFLINE: '1', QUEST_DATA: '' };

const folder = temporaryFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const read = (out: string, file: string) => readFileSync(join(out, file), 'utf8');
const run = (args: string[], options: SpawnOptions = {}) =>
  quest(args, { ...options, env: { ...OFFLINE, XDG_CACHE_HOME: join(folder, 'cache'), ...options.env } });
const predictions = (out: string) =>
  read(out, 'predictions.jsonl')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Prediction);
const table = (out: string) => parse(read(out, 'table.csv'), { columns: true }) as Record<string, string>[];

/** A data folder with one task's rows. */
function dataFolder(name: string, task: string, rows: object[]): string {
  const data = join(folder, name);
  mkdirSync(join(data, 'longbench'), { recursive: true });
  const common = { dataset: task, language: 'en', all_classes: null, length: 10 };
  const text = rows.map((row, i) => `${JSON.stringify({ ...common, _id: `r${i}`, ...row })}\n`).join('');
  writeFileSync(join(data, 'longbench', `${task}.jsonl`), text);
  return data;
}

describe('quest longbench, before anything is computed', () => {
  test('without data and network: what to download, where to put it, and the sample', async () => {
    const { code, stderr, stdout } = await run(['longbench', '--task', 'qasper']);
    expect(code).toBe(3);
    expect(stdout).toBe('');
    expect(stderr).toMatch(/^error: .*qasper.* is not in .*cache\/quest\/data/m);
    expect(stderr).toMatch(/hint: .*THUDM\/LongBench.*data\.zip.*longbench.*--sample/);
  });

  test.each([
    [['--task', 'qaspr'], /did you mean qasper/],
    [['--task', 'narrativeqa', '--e'], /narrativeqa is not part of LongBench-E/],
    [['--sample', '--data', 'x'], /--sample and --data exclude each other/],
    [['--sample', '--max-length', '32768'], /use --max-length \d+ or less/],
    [['--sample', '--method', 'full', '--budget', '64'], /full has no budget/],
  ])('%j is refused with a hint', async (args, message) => {
    const { code, stderr } = await run(['longbench', ...args]);
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
  });

  test('a broken row is named by file, line and field', async () => {
    const data = dataFolder('broken', 'qasper', [
      { input: 'Who?', context: 'x', answers: ['a'] },
      { input: 'Who?', context: 'x', answers: 'a' },
    ]);
    const { code, stderr } = await run(['longbench', '--task', 'qasper', '--data', data]);
    expect(code).toBe(3);
    expect(stderr).toMatch(
      /broken\/longbench\/qasper\.jsonl, line 2: answers is "a"; wanted: a list of texts/,
    );
  });

  test('--dry-run says what it would cost and writes nothing', async () => {
    const out = join(folder, 'dry');
    const { code, stdout, stderr } = await run([...SMALL, '--dry-run', '--out', out]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^plan +longbench on quest-tiny, 3 samples x 5 cells$/m);
    expect(stdout).toMatch(/^prefill +[12],\d{3} tokens/m);
    expect(stderr).toMatch(/SAMPLE/);
    expect(existsSync(out)).toBe(false);
  });

  test('quest score needs a folder with predictions', async () => {
    const empty = join(folder, 'empty');
    mkdirSync(empty);
    expect((await run(['score', join(folder, 'nowhere')])).stderr).toMatch(/is no folder/);
    const { code, stderr } = await run(['score', empty]);
    expect([code, stderr]).toEqual([2, expect.stringMatching(/there is no predictions\.jsonl/)]);
    expect(readdirSync(empty)).toEqual([]);
  });
});

describe.skipIf(!hasAddon)('quest longbench --sample', { timeout: 120_000 }, () => {
  const reference = join(folder, 'reference');
  let first: Finished;
  beforeAll(async () => {
    first = await run([...SMALL, '--out', reference]);
  }, 120_000);

  test('prints the table, says that it is a sample, writes all files', () => {
    expect(first.stderr).toMatch(/15 rows in/);
    expect(first.code).toBe(0);
    expect(first.stderr).toMatch(/SAMPLE/);
    expect(first.stdout).toMatch(/^SAMPLE: /m);
    expect(first.stdout).toMatch(/^task +score, budget: +64 +256 +all$/m);
    expect(first.stdout).toMatch(/^HotpotQA \(F1\) +Full +\d+\.\d\d$/m);
    expect(first.stdout).toMatch(/^average +Full/m);
    expect(readdirSync(reference).sort()).toEqual(FILES);
    expect(read(reference, 'table.md')).toMatch(/SAMPLE/);
    expect(read(reference, 'figure.svg')).toMatch(/SAMPLE/);
  });

  test('table.csv: every cell of every task, truncated prompts counted', () => {
    const rows = table(reference);
    const whole = rows.filter(({ bucket }) => bucket === 'all');
    expect(
      whole.map(({ task, method, budget_tokens }) => `${task} ${method} ${budget_tokens}`.trim()),
    ).toEqual(
      ['hotpotqa', 'samsum', 'passage_retrieval_en'].flatMap((task) =>
        ['full', 'quest 64', 'quest 256', 'streaming 64', 'streaming 256'].map((cell) => `${task} ${cell}`),
      ),
    );
    expect(rows).toHaveLength(2 * whole.length); // each has one length bucket
    for (const row of whole)
      expect(row).toMatchObject({
        samples: '1',
        truncated: '1',
        model: 'quest-tiny',
        data: 'sample',
        paper_score: '',
      });
    expect(whole[1]).toMatchObject({ never_sparse_samples: '0', page_size: '16', group: 'max' });
    expect(Number(whole[1]!.kv_read_pct)).toBeLessThan(50);
    expect(first.stdout).toMatch(/samsum: the middle of 1 of 1 prompt was left out/);
  });

  test('predictions.jsonl holds what is needed to judge each answer', () => {
    const all = predictions(reference);
    expect(all).toHaveLength(15);
    expect(all[1]).toMatchObject({
      task: 'hotpotqa',
      row: 0,
      row_id: 'sample-hotpotqa-1',
      cell: { method: 'quest', budget_tokens: 64 },
      truncated: true,
      all_classes: null,
    });
    expect(all[1]!.prompt_sha256).toMatch(/^[0-9a-f]{16}$/);
    expect(all[1]!.prompt_sha256).toBe(all[0]!.prompt_sha256);
    expect(Math.abs(all[1]!.prompt_tokens - 700)).toBeLessThan(12);
    expect(all[1]!.kv_read_bytes).toBeLessThan(all[1]!.kv_dense_bytes);
    expect(all[0]!.kv_read_pct).toBe(100);
    for (const { output_tokens, score } of all) {
      expect(output_tokens).toBeGreaterThan(0);
      expect(score).toBeGreaterThanOrEqual(0);
    }
    // SAMSum ends at the first line feed, but not before a first token.
    for (const { prediction } of all.filter(({ task }) => task === 'samsum')) {
      expect(prediction).not.toContain('\n');
    }
  });

  test('the same command again computes nothing and changes nothing', async () => {
    const before = FILES.map((file) => read(reference, file));
    const again = await run([...SMALL, '--out', reference]);
    expect(again.stderr).toMatch(/all rows were there/);
    expect(again.stdout).toBe(first.stdout);
    expect(FILES.map((file) => read(reference, file))).toEqual(before);
  });

  test('--predict-only and quest score give what one run gives', async () => {
    const out = join(folder, 'predicted');
    const predicted = await run([...SMALL, '--predict-only', '--out', out]);
    expect(predicted.code).toBe(0);
    expect(predicted.stdout).toBe('');
    expect(predicted.stderr).toMatch(/quest score .*predicted/);
    expect(readdirSync(out).sort()).toEqual([
      'journal.jsonl',
      'manifest.json',
      'plan.json',
      'predictions.jsonl',
    ]);
    expect(predictions(out).every(({ score }) => score === null)).toBe(true);
    const scored = await run(['score', out]);
    expect(scored.code).toBe(0);
    expect(scored.stdout).toBe(first.stdout);
    expect(scored.stderr).toMatch(
      /^15 predictions scored, 15 of them for the first time; tables, figures are in/m,
    );
    expect((await run(['score', out])).stderr).toMatch(/^15 predictions scored, 0 differ from before;/m);
    for (const file of FILES) {
      if (file === 'manifest.json' || file === 'journal.jsonl') continue;
      expect(read(out, file), file).toBe(read(reference, file));
    }
  });

  test('quest score scores what the file says now, and refuses what is no prediction', async () => {
    const out = join(folder, 'changed');
    mkdirSync(out);
    for (const file of ['plan.json', 'predictions.jsonl'])
      writeFileSync(join(out, file), read(reference, file));
    const lines = predictions(out);
    lines[0]!.prediction = lines[0]!.answers[0]!;
    const text = lines.map((line) => JSON.stringify(line)).join('\n');
    writeFileSync(join(out, 'predictions.jsonl'), `${text}\n`);
    const { stdout, stderr } = await run(['score', out, '--format', 'csv']);
    expect(stderr).toMatch(/^15 predictions scored, 1 differs from before; tables, figures are in/m);
    expect(stdout).toMatch(/^hotpotqa,full,,all,1,100\.00,/m);
    writeFileSync(join(out, 'predictions.jsonl'), text.replace('"answers":', '"answer":'));
    const refused = await run(['score', out]);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toMatch(
      /predictions\.jsonl, line 1: answers is nothing.*\nhint: the file was changed; run quest longbench/,
    );
    writeFileSync(join(out, 'predictions.jsonl'), text.split('\n').toSpliced(6, 1).join('\n'));
    const torn = await run(['score', out]);
    expect(torn.stderr).toMatch(/predictions\.jsonl lacks a prediction of samsum, row 0/);
    expect(torn.code).toBe(2);
  });
});

describe.skipIf(!hasAddon)('the built-in model on the sample', { timeout: 120_000 }, () => {
  test('finds the answers with all of the cache and with Quest, but not with what StreamingLLM keeps', async () => {
    const { code, stdout } = await run([
      ...['longbench', '--sample', '--limit', '1', '--task', 'qasper,hotpotqa', '--budget', '256'],
      ...['--method', 'full,quest,streaming', '--out', join(folder, 'found'), '--format', 'json'],
    ]);
    expect(code).toBe(0);
    const rows = JSON.parse(stdout) as { bucket: string; method: string; score: number }[];
    const scores = rows.filter(({ bucket }) => bucket === 'all').map((row) => `${row.method} ${row.score}`);
    const one = ['full 100', 'quest 100', 'streaming 0'];
    expect(scores).toEqual([...one, ...one]);
  });
});

describe.skipIf(!hasAddon)('every task that the sample was made for', { timeout: 180_000 }, () => {
  test('is answered by the built-in model with all of the cache', async () => {
    const tasks = TASK_NAMES.filter((task) => !UNANSWERABLE.includes(task));
    const { code, stdout, stderr } = await run([
      ...['longbench', '--sample', '--limit', '1', '--task', `${tasks.join(',')},passage_count`],
      ...['--method', 'full', '--out', join(folder, 'floors'), '--format', 'json'],
    ]);
    expect(code).toBe(0);
    expect(stderr).toMatch(/SAMPLE: quest-tiny cannot answer passage_count$/m);
    const rows = JSON.parse(stdout) as { bucket: string; task: string; score: number }[];
    const scores = new Map(rows.filter(({ bucket }) => bucket === 'all').map((row) => [row.task, row.score]));
    for (const task of tasks) {
      // Its summaries repeat themselves; all other answers are copied whole, code with a full stop after it.
      const floor = ['gov_report', 'multi_news'].includes(task) ? 10 : 80;
      expect(scores.get(task), task).toBeGreaterThanOrEqual(floor);
    }
  });
});

describe.skipIf(!hasAddon)('quest longbench on files', { timeout: 120_000 }, () => {
  test('rows with the same prompt are scored by their own answers', async () => {
    const row = { input: 'Who?', context: 'A text about nobody.' };
    const data = dataFolder('twins', 'hotpotqa', [
      { ...row, answers: ['no such words'] },
      { ...row, answers: ['placeholder'] },
    ]);
    const out = join(folder, 'twins-out');
    const args = ['longbench', '--task', 'hotpotqa', '--data', data, '--method', 'full', '--out', out];
    expect((await run(args)).code).toBe(0);
    const [a, b] = predictions(out);
    expect(b!.prompt_sha256).toBe(a!.prompt_sha256);
    // Give the second row an answer that is right, in a folder of its own.
    const right = dataFolder('twins2', 'hotpotqa', [
      { ...row, answers: ['no such words'] },
      { ...row, answers: [a!.prediction || 'x'] },
    ]);
    const out2 = join(folder, 'twins2-out');
    expect((await run([...args.slice(0, 4), right, ...args.slice(5, -1), out2])).code).toBe(0);
    expect(predictions(out2).map(({ score }) => score)).toEqual([0, 1]);
    expect(read(out2, 'journal.jsonl').trimEnd().split('\n')).toHaveLength(1);
  });

  test.skipIf(!hasShared)(
    'real rows of three tasks, two of them Chinese, the longer ones truncated',
    async () => {
      const out = join(folder, 'real');
      const { code, stderr, stdout } = await run([
        ...['longbench', '--task', 'multi_news,multifieldqa_zh,passage_retrieval_zh', '--limit', '1'],
        ...[
          '--data',
          join(sharedDir, 'data'),
          '--max-length',
          '900',
          '--method',
          'full,quest',
          '--budget',
          '128',
        ],
        ...['--out', out, '--format', 'json'],
      ]);
      expect(stderr).not.toMatch(/SAMPLE/);
      expect(code).toBe(0);
      const rows = JSON.parse(stdout) as Record<string, unknown>[];
      expect(rows.filter(({ bucket }) => bucket === 'all')).toHaveLength(6);
      const all = predictions(out);
      expect(all.map(({ truncated }) => truncated)).toEqual([true, true, true, true, true, true]);
      expect(all[2]).toMatchObject({ task: 'multifieldqa_zh', answers: ['厦门大学。'], length: 9593 });
      expect(all[5]!.cell).toMatchObject({ method: 'quest', budget_tokens: 128 });
      expect(all[5]!.kv_read_pct).toBeLessThan(50);
    },
  );
});
