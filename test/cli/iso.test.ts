import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'csv-parse/sync';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type IsoScore, isoLongTable, isoRows, isoWideTable } from '../../eval/iso.js';
import { attentionTimes, denseTime, fileTimes, sparseTime } from '../../eval/iso_attention.js';
import { paperIso } from '../../eval/iso_paper.js';
import { parseCsv } from '../../src/report/html-csv.js';
import { paperLongBench } from '../../src/report/longbench-paper.js';
import { hasAddon, quest, temporaryFolder } from './spawn.js';

const TASKS = ['qasper', 'hotpotqa', 'gov_report', 'triviaqa', 'narrativeqa', 'multifieldqa_en'];
const MODEL = 'lmsys/longchat-7b-v1.5-32k';

const score = (task: string, method: string, budgetTokens: number | undefined, value: number): IsoScore => ({
  task,
  method,
  budgetTokens,
  score: value,
  kvReadPct: 50,
  samples: 2,
  neverSparse: 0,
  pageSize: method === 'quest' ? 16 : undefined,
});

/** The scores of the paper's Figure 7. */
const FIGURE_7 = TASKS.flatMap((task) => {
  const of = (method: string, budget: number | undefined) =>
    score(task, method, budget, paperLongBench(MODEL, 'longbench')!.score(task, method, budget)!);
  const budgets = [256, 512, 1024, 2048, 4096];
  return [of('full', undefined), ...['quest', 'tova'].flatMap((m) => budgets.map((b) => of(m, b)))];
});

const budgets = (scores: IsoScore[], method: string, tolerance: number) =>
  isoRows(scores, new Map(), tolerance, undefined)
    .filter((row) => row.method === method)
    .map((row) => row.lossless?.budgetTokens);

describe('lossless', () => {
  test("with the paper's scores: a tolerance of 1 gives its budgets but for TriviaQA's", () => {
    expect(budgets(FIGURE_7, 'quest', 1)).toEqual([512, 1024, 1024, 1024, undefined, 1024]);
    expect(TASKS.map((task) => paperIso(task)!.budgets.quest)).toEqual([512, 1024, 1024, 512, 5120, 1024]);
    expect(budgets(FIGURE_7, 'quest', 2.6)[3]).toBe(512);
    expect(budgets(FIGURE_7, 'tova', 1)).toEqual(TASKS.map(() => undefined));
  });

  test('is the smallest budget, in whatever order they were run; the tolerance itself is allowed', () => {
    const scores = [
      score('qasper', 'quest', 1024, 30),
      score('qasper', 'quest', 256, 28.9),
      score('qasper', 'quest', 512, 29.1),
      score('qasper', 'full', undefined, 30.1),
    ];
    expect(budgets(scores, 'quest', 1)).toEqual([512]);
    expect(budgets(scores, 'quest', 0)).toEqual([undefined]);
    expect(budgets(scores, 'quest', 2)).toEqual([256]);
    expect(budgets(scores.slice(0, 3), 'quest', 1)).toEqual([]);
  });
});

describe('a task on which full scores nothing', () => {
  const scores = [
    score('qasper', 'full', undefined, 1),
    score('qasper', 'quest', 64, 0),
    score('hotpotqa', 'full', undefined, 1.01),
    score('hotpotqa', 'quest', 64, 0.5),
  ];
  const rows = isoRows(scores, new Map(), 1, () => 7);

  test('says nothing about the methods, which are left out', () => {
    expect(rows.map(({ task, method, saysNothing }) => [task, method, saysNothing])).toEqual([
      ['qasper', 'full', true],
      ['hotpotqa', 'full', false],
      ['hotpotqa', 'quest', false],
    ]);
    expect(rows[0]).toMatchObject({ lossless: undefined, attentionUs: undefined });
  });

  test('is marked in both tables', () => {
    const run = { model: 'm', data: 'sample', tolerance: 1 };
    expect(isoWideTable(rows, run).rows[0]?.slice(0, 5)).toEqual([
      'qasper',
      'Full',
      undefined,
      'says nothing',
      '1.00',
    ]);
    const long = isoLongTable(rows, run);
    const at = long.columns.findIndex(({ key }) => key === 'says_nothing');
    expect(long.rows.map((row) => row[at])).toEqual([true, false, false]);
  });
});

const ATTENTION = `heads,context_tokens,budget_tokens,page_size,dense_us,estimate_us,topk_us,attention_us,sparse_us,speedup,dense_read_pct,sparse_read_pct
32/32,8192,512,16,50,5,4,5,10,5,90,80
32/32,16384,512,16,100,9,4,5,14,7,90,80
32/32,8192,1024,16,50,5,4,8,13,4,90,80
32/8,8192,512,16,20,5,4,5,9,2,90,80
`;

describe('attention times', () => {
  const times = attentionTimes(parseCsv(ATTENTION)!, 'a.csv', '32/32');

  test('lie between measured contexts, and nowhere else', () => {
    expect(denseTime(times, 12288)).toBe(75);
    expect(denseTime(times, 8192)).toBe(50);
    expect(denseTime(times, 4096)).toBeUndefined();
    expect(sparseTime(times, 12288, 512, 16)).toBe(12);
    expect(sparseTime(times, 12288, 1024, 16)).toBeUndefined();
    expect(sparseTime(times, 8192, 1024, undefined)).toBe(13);
    expect(sparseTime(times, 8192, 512, 32)).toBeUndefined();
  });

  test('of a method: selectors run sparse, evictors attend what they kept', () => {
    const scores = [score('qasper', 'full', undefined, 30), score('qasper', 'quest', 512, 30)];
    scores.push(score('qasper', 'tova', 8192, 30));
    const rows = isoRows(scores, new Map([['qasper', 16384]]), 1, fileTimes(times));
    expect(rows.map((row) => row.attentionUs)).toEqual([100, 14, 50]);
    // A budget that covers the context is a dense step; the oracle has no kernel.
    const whole = [score('qasper', 'full', undefined, 30), score('qasper', 'quest', 8192, 30)];
    whole.push(score('qasper', 'oracle', 512, 30));
    const short = isoRows(whole, new Map([['qasper', 8192]]), 1, fileTimes(times));
    expect(short.map((row) => row.attentionUs)).toEqual([50, 50, undefined]);
  });

  test('are refused with what is wrong', () => {
    expect(() => attentionTimes(parseCsv('heads\n1\n')!, 'a.csv', '1')).toThrow(
      /a.csv has no column context/,
    );
    expect(() => attentionTimes(parseCsv(ATTENTION)!, 'a.csv', '8/8')).toThrow(/no times for 8\/8 heads/);
    const torn = parseCsv(ATTENTION.replace(',100,9', ',fast,9'))!;
    expect(() => attentionTimes(torn, 'a.csv', '32/32')).toThrow(/dense_us in line 3 of a.csv is "fast"/);
  });
});

let folder: string;
beforeAll(() => {
  folder = temporaryFolder();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A LongBench run's folder as `quest longbench` leaves it, with the scores of Figure 7. */
function makeRun(name: string, changes: { model?: string; task?: string; scores?: IsoScore[] } = {}): string {
  const { model = MODEL, task = 'longbench', scores = FIGURE_7 } = changes;
  const path = join(folder, name);
  mkdirSync(path);
  const write = (file: string, text: string) => writeFileSync(join(path, file), text);
  write('plan.json', JSON.stringify({ task, params: { data: 'longbench' } }));
  const runs = [{ started: 'x', seconds: 1, rows: { computed: 1, reused: 0 }, environment: {} }];
  write('manifest.json', JSON.stringify({ command: 'quest', options: {}, model: { name: model }, runs }));
  const lines = scores.map((s) =>
    [s.task, s.method, s.budgetTokens ?? '', 'all', 200, s.score, 50, 0, s.pageSize ?? ''].join(),
  );
  const header = 'task,method,budget_tokens,bucket,samples,score,kv_read_pct,never_sparse_samples,page_size';
  write('table.csv', `${[header, ...lines].join('\n')}\n`);
  write('table.md', '|a|\n|---|\n|b|\n');
  const predictions = TASKS.flatMap((one) =>
    [9000, 11000].map((prompt_tokens, row) =>
      JSON.stringify({
        ...{
          task: one,
          row,
          prompt_tokens,
          cell: { method: 'full' },
          length: 1,
          prediction: '',
          answers: [],
        },
        ...{ all_classes: null, kv_read_bytes: 1, kv_dense_bytes: 1, truncated: false, never_sparse: false },
      }),
    ),
  );
  write('predictions.jsonl', `${predictions.join('\n')}\n`);
  return path;
}

describe('quest iso', () => {
  test("the table stands beside the paper's", async () => {
    const attention = join(folder, 'attention.csv');
    writeFileSync(attention, ATTENTION);
    const run = makeRun('figure7');
    const { code, stdout, stderr } = await quest(['iso', run, '--format', 'csv', '--attention', attention]);
    expect(code).toBe(0);
    const rows: Record<string, string>[] = parse(stdout, { columns: true });
    expect(rows).toHaveLength(18);
    expect(rows[1]).toMatchObject({
      ...{ task: 'qasper', context_tokens: '10000', method: 'quest', budget_tokens: '512', score: '30.71' },
      ...{ attention_us: '10.9', paper_budget_tokens: '512', paper_attention_us: '43.2', tolerance: '1' },
    });
    expect(rows[2]).toMatchObject({ method: 'tova', budget_tokens: '', paper_budget_tokens: '5120' });
    expect(stderr).toMatch(/paper: Figure 11/);
    const shown = await quest(['iso', run]);
    expect(shown.stdout).toMatch(/^qasper +Full +10000 +all +29\.15 +50\.0 +161\.8$/m);
    expect(shown.stdout).toMatch(/TOVA +> 4096 +5120 +141\.9$/m);
    expect(shown.stderr).toMatch(/attention times are empty: --measure/);
  });

  test.runIf(hasAddon)('--measure times each lossless step on this device', async () => {
    const run = makeRun('measured');
    const measure = ['iso', run, '--measure', '--device', 'cpu', '--heads', '8/8'];
    const { code, stdout, stderr } = await quest([...measure, '--format', 'csv']);
    expect(code, stderr).toBe(0);
    expect(stderr).toMatch(/at the mean context with 8\/8 heads of 128, measured now on \S+, \d+ threads?/);
    const rows: Record<string, string>[] = parse(stdout, { columns: true });
    const us = (row: Record<string, string>) => Number(row.attention_us);
    for (const row of rows)
      expect(us(row) > 0, row.task).toBe(row.method === 'full' || row.budget_tokens !== '');
    const [full, sparse] = [rows[0]!, rows[1]!];
    expect([sparse.method, sparse.budget_tokens]).toEqual(['quest', '512']);
    expect(us(sparse)).toBeLessThan(us(full) / 2); // a twentieth of 10000 tokens
    const both = await quest([...measure, '--attention', 'a.csv']);
    expect([both.code, both.stderr]).toEqual([
      2,
      expect.stringMatching(/--attention and --measure name two/),
    ]);
    const odd = await quest(['iso', run, '--measure', '--device', 'cpu', '--heads', '8/3']);
    expect(odd.code).toBe(2);
  });

  test('several folders make one table', async () => {
    const parts = [FIGURE_7.slice(0, 11), FIGURE_7.slice(11)];
    const runs = parts.map((scores, i) => makeRun(`part${i}`, { scores }));
    const whole = await quest(['iso', makeRun('whole')]);
    expect((await quest(['iso', ...runs])).stdout).toBe(whole.stdout);
  });

  test('refuses what does not belong together', async () => {
    const run = makeRun('one');
    const refused = async (...args: string[]) => {
      const { code, stderr } = await quest(['iso', ...args]);
      return `${code} ${stderr.split('\n')[0]}`;
    };
    expect(await refused(run, makeRun('other', { model: 'quest-tiny' }))).toMatch(/^2 .*not one experiment/);
    expect(await refused(makeRun('ppl', { task: 'ppl' }))).toMatch(/^2 .*a run of ppl, not of longbench/);
    const changed = FIGURE_7.map((s) => ({ ...s, score: s.score + 1 }));
    expect(await refused(run, makeRun('again', { scores: changed }))).toMatch(/^2 .*disagree about full/);
    const sparse = FIGURE_7.filter((s) => s.method !== 'full');
    expect(await refused(makeRun('no-full', { scores: sparse }))).toMatch(/^2 .*no task has scores of full/);
    const torn = makeRun('torn', { scores: [{ ...FIGURE_7[0]!, score: 'high' as unknown as number }] });
    expect(await refused(torn)).toMatch(/^2 .*score is "high" in the table.csv of .*torn/);
    expect(await refused(run, '--heads', '32/8')).toMatch(/^2 .*--heads was given/);
    expect(await refused(run, '--device', 'cpu')).toMatch(/^2 .*--device was given/);
    expect(await refused(run, '--attention', join(folder, 'none.csv'))).toMatch(
      /^2 .*none.csv: there is no such file/,
    );
    expect(readFileSync(join(run, 'table.csv'), 'utf8')).toContain('qasper');
  });
});
