import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { aggregateCells } from '../../eval/aggregate.js';
import type { JournalRow } from '../../eval/journal.js';
import {
  budgetNotes,
  type Cell,
  cellName,
  cellOptions,
  checkSkipLayers,
  METHOD_NAMES,
  makeCell,
  makeCells,
} from '../../eval/methods.js';
import { checkFolderPlan, measurePlan, type Plan, planHash, rowKeys, writePlan } from '../../eval/plan.js';
import type { TaskItem } from '../../eval/task.js';
import { wilson95 } from '../../src/report/rows.js';

const settings = { pageSize: 16, skipLayers: 2, group: 'max' as const, sinks: 4, h2oPrefill: false };

const item = (index: number): TaskItem => ({
  id: `t/${index}`,
  index,
  prefillIds: Int32Array.from([1, 2, 3, index]),
  stepIds: Int32Array.from([5, 6]),
  maxNewTokens: 10,
  fields: {},
  score: () => 0,
});

const plan = (cells: Cell[], params: Plan['task']['params'] = { samples: 3 }): Plan => ({
  model: { name: 'm', fingerprint: 'f' },
  task: { name: 'passkey', params, count: 3, item },
  cells,
});

describe('cells', () => {
  test('full has one, the others one per budget', () => {
    const cells = makeCells(['full', 'quest', 'tova'], [32, 64], settings);
    expect(cells.map(cellName)).toEqual(['full', 'quest 32', 'quest 64', 'tova 32', 'tova 64']);
  });

  test('know only the options that matter to them', () => {
    expect(METHOD_NAMES.map((name) => Object.keys(cellOptions(makeCell(name, 64, settings))))).toEqual([
      ['method'],
      ['method', 'budget_tokens', 'skip_layers', 'page_size', 'group'],
      ['method', 'budget_tokens', 'skip_layers', 'page_size'],
      ['method', 'budget_tokens', 'skip_layers', 'sinks'],
      ['method', 'budget_tokens', 'skip_layers', 'h2o_prefill'],
      ['method', 'budget_tokens', 'skip_layers'],
      ['method', 'budget_tokens', 'skip_layers'],
    ]);
    expect(makeCell('quest-paper', 64, settings).method.group).toBe('head');
  });

  test('refuse budgets that make no sense', () => {
    expect(() => makeCell('quest', 15, settings)).toThrow(
      /15 tokens is too small for quest: one page holds 16/,
    );
    expect(() => makeCell('quest-paper', 15, settings)).toThrow(/too small/);
    expect(() => makeCell('streaming', 4, settings)).toThrow(/4 sink tokens leave no room/);
    expect(() => makeCell('h2o', undefined, settings)).toThrow(/needs a budget/);
    expect(makeCell('streaming', 5, settings).method.budgetTokens).toBe(5);
    expect(makeCell('quest', 16, settings).method.budgetTokens).toBe(16);
  });

  test('say where a budget means something else', () => {
    const cells = makeCells(['full', 'quest', 'quest-paper', 'tova'], [32, 40, 64], settings);
    expect(budgetNotes(cells)).toEqual([
      'quest 40 reads 2 pages of 16 tokens, 32 in all',
      'quest-paper 32 reads 3 pages of 16 tokens, 48 in all',
      'quest-paper 40 reads 3 pages of 16 tokens, 48 in all',
    ]);
  });

  test('refuse to skip all layers, but not for full', () => {
    const all = { ...settings, skipLayers: 8 };
    expect(() => checkSkipLayers([makeCell('quest', 64, all)], 8)).toThrow(/none of the model's 8 layers/);
    checkSkipLayers([makeCell('full', undefined, all)], 8);
    checkSkipLayers([makeCell('quest', 64, { ...settings, skipLayers: 7 })], 8);
  });
});

describe('keys', () => {
  const key = (p: Plan, cell: Cell, i = item(0)) => rowKeys(p, i)(cell);
  const quest = makeCell('quest', 64, settings);
  const base = key(plan([quest]), quest);

  test('are stable', () => expect(base).toBe(key(plan([quest]), makeCell('quest', 64, settings))));

  test('change with everything that changes the result', () => {
    const others = [
      key({ ...plan([quest]), model: { name: 'm', fingerprint: 'g' } }, quest),
      key(plan([quest]), quest, { ...item(0), prefillIds: Int32Array.from([1, 2, 3]) }),
      key(plan([quest]), quest, { ...item(0), stepIds: Int32Array.from([5]) }),
      key(plan([quest]), quest, { ...item(0), maxNewTokens: 11 }),
      ...[{ pageSize: 32 }, { skipLayers: 0 }, { group: 'head' as const }].map((change) =>
        key(plan([quest]), makeCell('quest', 64, { ...settings, ...change })),
      ),
      key(plan([quest]), makeCell('quest', 128, settings)),
      key(plan([quest]), makeCell('tova', 64, settings)),
    ];
    expect(new Set([base, ...others]).size).toBe(others.length + 1);
  });

  test('do not change with what does not', () => {
    expect(key(plan([quest]), makeCell('quest', 64, { ...settings, sinks: 9, h2oPrefill: true }))).toBe(base);
    expect(key({ ...plan([quest]), model: { name: 'elsewhere', fingerprint: 'f' } }, quest)).toBe(base);
    const full = (change: object) => key(plan([]), makeCell('full', undefined, { ...settings, ...change }));
    expect(full({ pageSize: 32, skipLayers: 0, sinks: 1 })).toBe(full({}));
  });
});

describe('the plan of a folder', () => {
  const small = plan(makeCells(['full', 'quest'], [64], settings));
  const more = plan(makeCells(['full', 'quest', 'tova'], [32, 64], settings));

  test('may grow by methods and budgets, and nothing else', () => {
    const folder = mkdtempSync(join(tmpdir(), 'quest-plan-'));
    try {
      checkFolderPlan(folder, small, false); // an empty folder suits every plan
      writePlan(folder, small);
      checkFolderPlan(folder, small, true);
      checkFolderPlan(folder, more, true);
      writePlan(folder, more);
      expect(() => checkFolderPlan(folder, small, true)).toThrow(/no longer part of the table/);
      checkFolderPlan(folder, small, false); // nothing was computed for it
      expect(() =>
        checkFolderPlan(folder, { ...more, task: { ...more.task, params: { samples: 4 } } }, true),
      ).toThrow(/samples was 3, now 4/);
      expect(() =>
        checkFolderPlan(folder, { ...more, model: { name: 'm', fingerprint: 'g' } }, true),
      ).toThrow(/fingerprint/);
      writeFileSync(join(folder, 'plan.json'), '{');
      for (const started of [true, false])
        expect(() => checkFolderPlan(folder, more, started)).toThrow(/is not a plan/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('has a hash that says which run it is', () => {
    expect(planHash(small)).toMatch(/^[0-9a-f]{8}$/);
    expect(planHash(small)).not.toBe(planHash(more));
    expect(planHash({ ...more, cells: [...more.cells].reverse() })).toBe(planHash(more));
  });

  test('is measured without what is done', async () => {
    const keyOf = rowKeys(more, item(1));
    const done = new Set(more.cells.map((cell) => keyOf(cell)));
    expect(await measurePlan(more, (key) => done.has(key))).toEqual({
      rows: 15,
      prefillTokens: 8,
      decodeSteps: 2 * 5 * 12,
      longestTokens: 16,
      longestSteps: 12,
      done: 5,
    });
  });
});

describe('results', () => {
  test("Wilson's interval", () => {
    const rounded = (k: number, n: number) => wilson95(k, n).map((v) => Number(v.toFixed(1)));
    expect(rounded(0, 20)).toEqual([0, 16.1]);
    expect(rounded(20, 20)).toEqual([83.9, 100]);
    expect(rounded(10, 20)).toEqual([29.9, 70.1]);
    expect(rounded(65, 100)).toEqual([55.3, 73.6]);
    expect(rounded(0, 0)).toEqual([0, 100]);
  });

  test('add up counters and say where a method never acted', () => {
    const cells = makeCells(['full', 'quest'], [64], settings);
    const counters = (kv: number, sparse: number) => ({
      decodeSteps: 2,
      sparseSteps: sparse,
      tokensAttended: 0,
      tokensAvailable: 0,
      pagesAttended: 0,
      pagesAvailable: 0,
      kvBytes: kv,
      metadataBytes: 5,
      denseKvBytes: 100,
    });
    const row = (score: number, kv: number, sparse: number) =>
      ({ score, counters: counters(kv, sparse) }) as JournalRow;
    const [full, quest] = aggregateCells(cells, [
      [row(1, 95, 0), row(1, 15, 2)],
      [row(0, 95, 0), row(0, 95, 0)],
    ]);
    expect(full).toMatchObject({
      label: 'Full',
      budgetTokens: undefined,
      scorePct: 50,
      kvReadPct: 100,
      neverSparse: 0,
      skipLayers: undefined,
    });
    expect(quest).toMatchObject({
      label: 'Quest',
      budgetTokens: 64,
      scorePct: 50,
      kvReadPct: 60,
      neverSparse: 1,
      skipLayers: 2,
      group: 'max',
    });
  });
});
