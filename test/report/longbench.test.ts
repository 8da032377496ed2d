import { describe, expect, test } from 'vitest';
import { type Prediction, percent } from '../../eval/longbench_predictions.js';
import { longBenchReport } from '../../eval/longbench_results.js';
import {
  type LongBenchReport,
  longBenchLongTable,
  longBenchNotes,
  longBenchWideTable,
} from '../../src/report/longbench.js';
import { allTasksChart, taskChart } from '../../src/report/longbench-charts.js';
import { paperLongBench } from '../../src/report/longbench-paper.js';
import { renderSvg } from '../../src/report/svg.js';
import { renderCsv, renderMarkdown } from '../../src/report/table.js';

const FULL = { method: 'full' };
const quest = (budget: number) => ({
  method: 'quest',
  budget_tokens: budget,
  skip_layers: 2,
  page_size: 16,
  group: 'max',
});

const record = (
  task: string,
  row: number,
  cell: Prediction['cell'],
  more: Partial<Prediction> = {},
): Prediction => ({
  task,
  row,
  row_id: `id${row}`,
  cell,
  prompt_sha256: '0123456789abcdef',
  prompt_tokens: 100,
  step_tokens: 20,
  output_tokens: 3,
  truncated: false,
  length: 100,
  prediction: 'x',
  answers: ['x'],
  all_classes: null,
  score: 0,
  kv_read_bytes: cell === FULL ? 1000 : 250,
  kv_dense_bytes: 1000,
  kv_read_pct: cell === FULL ? 100 : 25,
  never_sparse: false,
  ...more,
});

/** Two tasks; Qasper with rows of three lengths, one of them truncated. */
const records = [
  ...[FULL, quest(256), quest(1024)].flatMap((cell, c) => [
    record('qasper', 0, cell, { length: 3999, score: 1 }),
    record('qasper', 1, cell, { length: 4000, score: 0, truncated: true, never_sparse: c === 2 }),
    record('qasper', 2, cell, { length: 9000, score: c === 1 ? 0.25 : 0.5 }),
  ]),
  ...[FULL, quest(256), quest(1024)].map((cell) => record('gov_report', 0, cell, { score: 0.3046 })),
];
const longchat = 'lmsys/longchat-7b-v1.5-32k';
const report = longBenchReport(records, { modelName: longchat, data: 'longbench' });
const lines = (text: string) => text.trimEnd().split('\n');

describe('from predictions to the report', () => {
  test('tasks and cells in their order, samples and truncated prompts counted once', () => {
    expect(
      report.tasks.map(({ task, samples, truncated, metric }) => [task, samples, truncated, metric]),
    ).toEqual([
      ['qasper', 3, 1, 'F1'],
      ['gov_report', 1, 0, 'ROUGE-L'],
    ]);
    const cells = report.tasks[0]!.cells.map(({ cell, all, neverSparse }) => [
      cell.label,
      cell.budgetTokens,
      all.score,
      all.kvReadPct,
      neverSparse,
    ]);
    expect(cells).toEqual([
      ['Full', undefined, 50, 100, 0],
      ['Quest', 256, 41.67, 25, 0],
      ['Quest', 1024, 50, 25, 1],
    ]);
  });

  test('standard error of the mean; none from one sample', () => {
    // 1, 0, 0.5: variance 1/4, over three samples
    expect(report.tasks[0]!.cells[0]!.all.stderr).toBeCloseTo(100 * Math.sqrt(0.25 / 3), 10);
    expect(report.tasks[1]!.cells[0]!.all.stderr).toBe(0);
  });

  test('length buckets', () => {
    const buckets = report.tasks[0]!.cells[1]!.buckets.map(({ bucket, samples, score }) => [
      bucket,
      samples,
      score,
    ]);
    expect(buckets).toEqual([
      ['0-4k', 1, 100],
      ['4-8k', 1, 0],
      ['8k+', 1, 25],
    ]);
    expect(report.tasks[1]!.cells[0]!.buckets.map(({ bucket }) => bucket)).toEqual(['0-4k']);
  });

  test('shares', () => {
    expect([percent(1, 3), percent(0, 0)]).toEqual([33.3333, 100]);
  });
});

describe('tables', () => {
  test('long form: all samples, then each bucket', () => {
    expect(lines(renderCsv(longBenchLongTable(report))).slice(0, 6)).toEqual([
      'task,method,budget_tokens,bucket,samples,score,stderr,metric,kv_read_pct,never_sparse_samples,truncated,skip_layers,page_size,group,sinks,h2o_prefill,model,data,paper_score',
      `qasper,full,,all,3,50.00,28.87,F1,100.00,0,1,,,,,,${longchat},longbench,29.15`,
      `qasper,full,,0-4k,1,100.00,0.00,F1,100.00,,,,,,,,${longchat},longbench,`,
      `qasper,full,,4-8k,1,0.00,0.00,F1,100.00,,,,,,,,${longchat},longbench,`,
      `qasper,full,,8k+,1,50.00,0.00,F1,100.00,,,,,,,,${longchat},longbench,`,
      `qasper,quest,256,all,3,41.67,30.05,F1,25.00,0,1,2,16,max,,,${longchat},longbench,26.12`,
    ]);
  });

  test('in the shape of Figure 7, with the paper beneath', () => {
    expect(lines(renderMarkdown(longBenchWideTable(report)))).toMatchInlineSnapshot(`
      [
        "|task               |score, budget:|  256|  1024|  all|",
        "|-------------------|--------------|----:|-----:|----:|",
        "|Qasper (F1)        |Full          |     |      |50.00|",
        "|                   |  paper       |     |      |29.15|",
        "|                   |Quest         |41.67|50.00*|     |",
        "|                   |  paper       |26.12| 29.78|     |",
        "|GovReport (ROUGE-L)|Full          |     |      |30.46|",
        "|                   |  paper       |     |      |30.46|",
        "|                   |Quest         |30.46| 30.46|     |",
        "|                   |  paper       |21.78| 30.14|     |",
        "|average            |Full          |     |      |40.23|",
        "|                   |Quest         |36.06|40.23*|     |",
        "",
        "qasper: the middle of 1 of 3 prompts was left out (longer than the limit)",
        "",
        "* never attended fewer tokens than the cache held, so it was the same as full there: quest 1024 in 1 of 4 samples",
        "",
        "paper: Figure 7, LongChat-7b-v1.5-32k, read off the figure; its Quest is the simulator called quest-paper here",
      ]
    `);
  });

  test('LongBench-E shows its buckets', () => {
    const even = longBenchReport(records, { modelName: longchat, data: 'longbench-e' });
    const first = longBenchWideTable(even).rows.map(([task]) => task);
    expect(first.filter(Boolean)).toEqual([
      'Qasper (F1)',
      'Qasper 0-4k',
      'Qasper 4-8k',
      'Qasper 8k+',
      'GovReport (ROUGE-L)',
      'GovReport 0-4k',
      'average',
    ]);
    expect(even.paper).toBeUndefined();
  });

  test('notes: truncated prompts, methods without effect, the paper, and loudly the sample', () => {
    expect(longBenchNotes(report)).toEqual([
      'qasper: the middle of 1 of 3 prompts was left out (longer than the limit)',
      '* never attended fewer tokens than the cache held, so it was the same as full there: quest 1024 in 1 of 4 samples',
      expect.stringMatching(/^paper: Figure 7, LongChat/),
    ]);
    const sample = longBenchReport(records, { modelName: 'quest-tiny', data: 'sample' });
    expect(longBenchNotes(sample)[0]).toMatch(/^SAMPLE: .*not LongBench/);
  });
});

describe('the paper', () => {
  test('only for its model, on LongBench itself', () => {
    const paper = paperLongBench(longchat, 'longbench')!;
    expect(paper.score('narrativeqa', 'quest', 4096)).toBe(19.67);
    expect(paper.score('narrativeqa', 'quest-paper', 256)).toBe(14.69);
    expect(paper.score('multifieldqa_en', 'streaming', 1024)).toBe(21.47);
    expect(paper.score('triviaqa', 'full', undefined)).toBe(83.82);
    expect(paper.score('triviaqa', 'tova', 300)).toBeUndefined();
    expect(paper.score('trec', 'full', undefined)).toBeUndefined();
    expect(paper.score('qasper', 'oracle', 256)).toBeUndefined();
    expect(paperLongBench('quest-tiny', 'longbench')).toBeUndefined();
    expect(paperLongBench(longchat, 'sample')).toBeUndefined();
    expect(paperLongBench(longchat, 'longbench-e')).toBeUndefined();
  });
});

describe('charts', () => {
  const texts = (svg: string) => [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map(([, text]) => text);

  test('one task: axis, methods, the paper dashed', async () => {
    const svg = await renderSvg(taskChart(report, report.tasks[0]!));
    expect(texts(svg)).toEqual(
      expect.arrayContaining([
        'Qasper: F1 over KV budget',
        `${longchat}, LongBench, 3 samples; bars are 95% intervals`,
        'paper, Figure 7',
        'Quest',
        '256',
        'F1 x 100',
      ]),
    );
    expect(svg).toContain('stroke-dasharray="5,4"');
  });

  test('all tasks side by side; a sample is called one', async () => {
    const sample: LongBenchReport = longBenchReport(records, { modelName: 'quest-tiny', data: 'sample' });
    const svg = await renderSvg(allTasksChart(sample));
    expect(texts(svg)).toEqual(
      expect.arrayContaining([
        'Qasper',
        'GovReport',
        expect.stringContaining('built-in SAMPLE, not LongBench'),
      ]),
    );
    expect(svg).not.toContain('stroke-dasharray="5,4"');
    expect(await renderSvg(allTasksChart(sample))).toBe(svg);
  });

  test('the axis goes from 0 to 100, whatever the scores are', async () => {
    const svg = await renderSvg(taskChart(report, report.tasks[1]!));
    expect(texts(svg)).toEqual(expect.arrayContaining(['0', '20', '40', '60', '80', '100']));
  });
});
