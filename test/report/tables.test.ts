import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parse } from 'csv-parse/sync';
import { describe, expect, test } from 'vitest';
import { ensureFolder, writeFileAtomic } from '../../src/report/files.js';
import { paperPasskey } from '../../src/report/paper.js';
import {
  type PasskeyReport,
  passkeyLongTable,
  passkeyNotes,
  passkeyWideTable,
} from '../../src/report/passkey.js';
import { accuracyChart, depthChart } from '../../src/report/passkey-charts.js';
import { type CellResult, type SampleResult, wilson95 } from '../../src/report/rows.js';
import { renderSvg } from '../../src/report/svg.js';
import {
  columnsOf,
  fixed,
  renderCsv,
  renderJson,
  renderMarkdown,
  renderTable,
  renderText,
  type Table,
} from '../../src/report/table.js';

const table: Table = {
  columns: [{ key: 'name' }, { key: 'score', title: 'score %', align: 'right' }],
  rows: [
    ['plain', 1.5],
    ['with, comma and "quotes"', 100],
    ['a|b', undefined],
  ],
};

const cell = (
  method: string,
  label: string,
  budget: number | undefined,
  pct: number,
  neverSparse = 0,
): CellResult => ({
  method,
  label,
  budgetTokens: budget,
  samples: 20,
  scorePct: pct,
  ci95: wilson95((pct * 20) / 100, 20),
  kvReadPct: 12.345,
  neverSparse,
  skipLayers: budget === undefined ? undefined : 2,
  pageSize: method === 'quest' ? 16 : undefined,
  group: undefined,
  sinks: undefined,
  h2oPrefill: undefined,
});

const longchat = 'lmsys/longchat-7b-v1.5-32k';
const report: PasskeyReport = {
  modelName: longchat,
  contextTokens: 10_000,
  cells: [
    cell('full', 'Full', undefined, 100),
    cell('quest', 'Quest', 64, 95),
    cell('quest', 'Quest', 512, 100, 3),
    cell('tova', 'TOVA', 64, 0),
    cell('tova', 'TOVA', 512, 10),
  ],
  paper: paperPasskey(longchat, 10_000),
};

describe('tables', () => {
  test('as text', () => {
    expect(renderText(table)).toMatchInlineSnapshot(`
      "name                      score %
      ------------------------  -------
      plain                         1.5
      with, comma and "quotes"      100
      a|b
      "
    `);
  });
  test('as Markdown', () => {
    expect(renderMarkdown(table)).toMatchInlineSnapshot(`
      "|name                    |score %|
      |------------------------|------:|
      |plain                   |    1.5|
      |with, comma and "quotes"|    100|
      |a\\|b                    |       |
      "
    `);
  });
  test('as CSV that reads back', () => {
    expect(parse(renderCsv(table))).toEqual([
      ['name', 'score'],
      ['plain', '1.5'],
      ['with, comma and "quotes"', '100'],
      ['a|b', ''],
    ]);
  });
  test('as JSON, with empty cells left out', () => {
    expect(JSON.parse(renderJson(table))[2]).toEqual({ name: 'a|b' });
  });
  test('measured numbers are text in tables, and numbers in JSON', () => {
    const measured: Table = { columns: columnsOf(['pct', 'n'], { pct: fixed(2) }), rows: [[12.3456, 3]] };
    expect(renderCsv(measured)).toBe('pct,n\n12.35,3\n');
    expect(JSON.parse(renderJson(measured))).toEqual([{ pct: 12.35, n: 3 }]);
  });
  test('through --format', () => {
    expect(renderTable(table, 'csv')).toBe(renderCsv(table));
  });
});

describe('the passkey tables', () => {
  test('the shape of Table 1, with the paper beside', () => {
    expect(renderText(passkeyWideTable(report))).toMatchInlineSnapshot(`
      "accuracy %, budget:   64   512  all
      -------------------  ---  ----  ---
      Full                            100
      Quest                 95  100*
        paper               99   100
      TOVA                   0    10
        paper                1     8

      * quest with budget 512 never attended fewer tokens than the cache held in 3 of 20 samples: it was the same as full there

      paper: Table 1, LongChat-7b-v1.5-32k, 10K tokens
      "
    `);
    expect(passkeyNotes(report)).toMatchInlineSnapshot(`
      [
        "* quest with budget 512 never attended fewer tokens than the cache held in 3 of 20 samples: it was the same as full there",
        "paper: Table 1, LongChat-7b-v1.5-32k, 10K tokens",
      ]
    `);
  });

  test('the long form', () => {
    expect(renderCsv(passkeyLongTable(report))).toMatchInlineSnapshot(`
      "method,budget_tokens,context_tokens,samples,accuracy_pct,ci95,kv_read_pct,never_sparse_samples,skip_layers,page_size,group,sinks,h2o_prefill,model,paper_accuracy_pct
      full,,10000,20,100.0,83.9-100.0,12.35,0,,,,,,lmsys/longchat-7b-v1.5-32k,
      quest,64,10000,20,95.0,76.4-99.1,12.35,0,2,16,,,,lmsys/longchat-7b-v1.5-32k,99
      quest,512,10000,20,100.0,83.9-100.0,12.35,3,2,16,,,,lmsys/longchat-7b-v1.5-32k,100
      tova,64,10000,20,0.0,0.0-16.1,12.35,0,2,,,,,lmsys/longchat-7b-v1.5-32k,1
      tova,512,10000,20,10.0,2.8-30.1,12.35,0,2,,,,,lmsys/longchat-7b-v1.5-32k,8
      "
    `);
  });

  test("the paper's numbers appear where the context is the paper's, with its model where ours is another", () => {
    expect(paperPasskey(longchat, 10_000)?.accuracyPct('quest', 32)).toBe(65);
    expect(paperPasskey('NousResearch/Yarn-Llama-2-7b-128k', 100_000)?.accuracyPct('tova', 4096)).toBe(10);
    expect(paperPasskey(longchat, 10_000)?.accuracyPct('quest', 48)).toBeUndefined();
    expect(paperPasskey(longchat, 10_000)?.accuracyPct('full', undefined)).toBeUndefined();
    expect(paperPasskey(longchat, 8_000)).toBeUndefined();
    expect(paperPasskey(longchat, 10_000)?.otherModel).toBeUndefined();
    expect(paperPasskey('quest-tiny', 9_000)).toBeUndefined();
    const paper = paperPasskey('quest-tiny', 10_000);
    expect(paper?.accuracyPct('quest', 32)).toBe(65);
    const tiny = { ...report, modelName: 'quest-tiny', paper };
    expect(passkeyWideTable(tiny).rows[2]).toEqual(['  paper (LongChat-7B)', 99, 100, undefined]);
    expect(passkeyNotes(tiny).at(-1)).toBe(
      'paper: Table 1, LongChat-7b-v1.5-32k, 10K tokens: the same protocol, another model than quest-tiny',
    );
    expect(passkeyLongTable(tiny).rows[1]?.at(-1)).toBe(99);
  });
});

describe('the figures', () => {
  const samples: SampleResult[] = report.cells.flatMap((c) =>
    Array.from({ length: 20 }, (_, i) => ({
      label: c.label,
      budgetTokens: c.budgetTokens,
      depthPct: 5 * (i + 1),
      score: (i * 100) / 20 < c.scorePct ? 1 : 0,
    })),
  );
  const texts = (svg: string) => [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map((m) => m[1]!);

  test('accuracy over budget: axes, units, every method, the paper', async () => {
    const svg = await renderSvg(accuracyChart(report));
    expect(svg).toMatch(/^<svg /);
    expect(svg).not.toMatch(/NaN|undefined|null/);
    expect(texts(svg)).toEqual(
      expect.arrayContaining([
        'accuracy (%)',
        'token budget (log scale)',
        '64',
        '512',
        '0',
        '100',
        'Full',
        'Quest',
        'TOVA',
        'paper, Table 1',
      ]),
    );
  });

  test('depth and budget: one panel per method, ten bands of depth', async () => {
    const svg = await renderSvg(depthChart(report, samples));
    expect(svg).not.toMatch(/NaN|undefined|null/);
    expect(texts(svg)).toEqual(
      expect.arrayContaining(['Full', 'Quest', 'TOVA', '0-10', '90-100', '64', '512', 'accuracy (%)']),
    );
  });

  test('are the same bytes each time', async () => {
    const [a, b] = [
      await renderSvg(depthChart(report, samples)),
      await renderSvg(depthChart(report, samples)),
    ];
    expect(a === b).toBe(true);
  });

  test('draw a single budget and few depths too', async () => {
    const one = { ...report, paper: undefined, cells: report.cells.filter((c) => c.budgetTokens !== 512) };
    expect(await renderSvg(accuracyChart(one))).not.toMatch(/NaN/);
    const few = samples.filter((s) => s.budgetTokens !== 512 && s.depthPct % 50 === 0);
    expect(texts(await renderSvg(depthChart(one, few)))).toEqual(expect.arrayContaining(['50', '100']));
  });
});

describe('files', () => {
  test('are replaced in one step and leave nothing behind', () => {
    const folder = mkdtempSync(join(tmpdir(), 'quest-files-'));
    try {
      const path = join(folder, 'table.csv');
      writeFileAtomic(path, 'old');
      writeFileAtomic(path, 'new');
      expect(readFileSync(path, 'utf8')).toBe('new');
      expect(readdirSync(folder)).toEqual(['table.csv']);
      // The name of the temporary file leads to a full device.
      symlinkSync('/dev/full', join(folder, `.table.csv.${process.pid}.tmp`));
      expect(() => writeFileAtomic(path, 'newer')).toThrow(/the disk is full/);
      expect(readFileSync(path, 'utf8')).toBe('new');
      writeFileSync(join(folder, 'file'), '');
      expect(() => ensureFolder(join(folder, 'file', 'out'))).toThrow(/part of the path is a file/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
