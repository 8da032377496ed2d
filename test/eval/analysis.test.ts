/** The analyses of Figures 3 and 4 on small real models: bisection, dropped shares, recall against logits by hand. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TextSource } from '../../datasets/texts.js';
import {
  actingMean,
  createRecallTask,
  meanByLayer,
  type RecallRow,
  runRecall,
} from '../../eval/analysis_recall.js';
import { recallCells, sparsityCells } from '../../eval/analysis_results.js';
import {
  bisectLowest,
  checkSparsityOptions,
  createSparsityTask,
  runSparsity,
  type SparsityRow,
} from '../../eval/analysis_sparsity.js';
import { openJournal } from '../../eval/journal.js';
import { type Cell, type MethodSettings, makeCell, makeCells } from '../../eval/methods.js';
import { createPasskeyTask } from '../../eval/passkey.js';
import { type Checkpoint, openCheckpoint, type Tokenizer } from '../../src/model/index.js';
import { paperRecall, recallWideTable, sparsityMeans, sparsityWideTable } from '../../src/report/analysis.js';
import { Model } from '../../src/runtime/index.js';
import { randomIds, randomSpec } from '../support/random_model.js';

const dir = mkdtempSync(join(tmpdir(), 'quest-analysis-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const settings: MethodSettings = { pageSize: 16, skipLayers: 0, group: 'max', sinks: 4, h2oPrefill: false };

let checkpoint: Checkpoint;
let tokenizer: Tokenizer;
let model: Model;
beforeAll(async () => {
  checkpoint = await openCheckpoint('quest-tiny');
  tokenizer = await checkpoint.tokenizer();
  model = await Model.load(checkpoint.spec, { device: 'cpu', threads: 2 });
});
afterAll(() => model.dispose());

let folders = 0;
const fresh = () => mkdtempSync(join(dir, `run${folders++}-`));
const common = () => ({
  tokenizer,
  eosIds: [] as number[],
  signal: new AbortController().signal,
});

describe('bisection', () => {
  it('finds the lowest that passes, in few steps, and never tries the highest', async () => {
    for (const most of [1, 2, 3, 17, 512, 8192]) {
      for (const limit of [1, 2, 5, 16, 300, 8192].filter((k) => k <= most)) {
        const tried: number[] = [];
        const found = await bisectLowest(most, async (k) => {
          tried.push(k);
          return k >= limit;
        });
        expect(found).toBe(limit);
        expect(new Set(tried).size).toBe(tried.length);
        expect(tried.every((k) => k >= 1 && k < most)).toBe(true);
        expect(tried.length).toBeLessThan(20);
      }
    }
  });
});

describe('sparsity', () => {
  const source: TextSource = {
    dataset: 'text',
    title: 'a text',
    label: 'a text',
    books: [
      {
        id: 'a',
        read: () => 'The old captain looked at the grey sea and said that the wind would turn. '.repeat(60),
      },
    ],
  };
  const options = { tokens: 320, scored: 40, tolerance: 0.01, nLayers: 8 };
  const cells = (): Cell[] => (['oracle', 'quest'] as const).map((name) => makeCell(name, 320, settings));

  it('gives budgets whose perplexity stays within the tolerance while the next smaller tried one does not', async () => {
    const task = createSparsityTask(source, options, tokenizer);
    const plan = { model: checkpoint, task, cells: cells() };
    using journal = openJournal(fresh(), () => {});
    let loads = 0;
    const loadModel = async () => {
      loads++;
      return model;
    };
    const grid = await runSparsity({ ...common(), plan, journal, loadModel });
    expect(grid.length).toBe(8);
    for (const row of grid.flat() as SparsityRow[]) {
      const { budget_tokens, ppl, full_ppl } = row.fields as Record<string, number>;
      expect(ppl! - full_ppl!).toBeLessThan(0.01);
      const below = row.tried.filter((t) => t.budget_tokens < budget_tokens!);
      expect(below.every((t) => t.ppl - full_ppl! >= 0.01)).toBe(true);
      const unit = row.cell.method === 'quest' ? 16 : 1;
      if (budget_tokens! > unit) expect(below.at(-1)!.budget_tokens).toBe(budget_tokens! - unit);
      // Only one layer reads less: its share is 1 - budget / mean length, give or take the open page.
      if (budget_tokens! < 270) {
        expect(row.score).toBeGreaterThan(1 - (budget_tokens! + 1) / 300.5 - 0.01);
        expect(row.score).toBeLessThan(1 - (budget_tokens! - unit) / 300.5 + 0.01);
      }
    }
    const again = await runSparsity({ ...common(), plan, journal, loadModel });
    expect(again).toEqual(grid);
    expect(loads).toBe(1);
    const report = {
      modelName: 'quest-tiny',
      text: 'a text',
      ...options,
      pageSize: 16,
      cells: sparsityCells(plan.cells, grid),
    };
    expect(sparsityWideTable(report).rows.length).toBe(8 + 4);
    expect(sparsityMeans(report, 'oracle').others).toBeGreaterThan(0.5);
  });

  it('refuses texts that are too short and splits that leave nothing', () => {
    const task = createSparsityTask(source, { ...options, tokens: 5000 }, tokenizer);
    expect(() => task.item(0)).toThrow(/of the 5001 tokens/);
    expect(() => checkSparsityOptions({ ...options, scored: 320 }, 4096, 'm')).toThrow(/leaves nothing/);
    expect(() => checkSparsityOptions({ ...options, tokens: 5000 }, 4096, 'm')).toThrow(/exceed/);
  });
});

describe('recall', () => {
  it('is measured on passkey prompts for every method and budget', async () => {
    const cells = makeCells(['full', 'quest', 'streaming', 'h2o', 'tova', 'oracle'], [64, 256], settings);
    const passkey = createPasskeyTask({ contextTokens: 700, samples: 2, seed: 0 }, tokenizer);
    const plan = { model: checkpoint, task: createRecallTask(passkey, 10), cells };
    using journal = openJournal(fresh(), () => {});
    const grid = await runRecall({ ...common(), plan, journal, loadModel: async () => model });
    const found = recallCells(cells, grid);
    const of = (method: string, budget?: number) =>
      found.find((c) => c.method === method && c.budgetTokens === budget)!;
    expect(of('full').recall).toBe(1);
    expect(of('oracle', 64).recall).toBeGreaterThan(0.999);
    for (const method of ['quest', 'streaming', 'h2o', 'tova']) {
      expect(of(method, 256).recall, method).toBeGreaterThan(of(method, 64).recall);
      expect(of(method, 64).recall, method).toBeLessThan(1);
      expect(of(method, 64).byLayer.length).toBe(8);
    }
    expect(of('quest', 256).recall).toBeGreaterThan(of('streaming', 256).recall);
    const report = { modelName: 'quest-tiny', contextTokens: 700, top: 10, skipLayers: 0, cells: found };
    expect(recallWideTable(report).rows.map((row) => row[0])).toContain('Quest');
    expect(paperRecall(report, { method: 'quest', budgetTokens: 256 })).toBeUndefined(); // another context
    const figure4 = { ...report, contextTokens: 10_000 };
    expect(paperRecall(figure4, { method: 'quest', budgetTokens: 256 })).toBe(0.985);
    expect(recallWideTable(figure4).rows.map((row) => row[0])).toContain('  paper (LongChat-7B)');
    const again = await runRecall({ ...common(), plan, journal, loadModel: async () => model });
    expect(again).toEqual(grid);
    expect((grid[0]![1] as RecallRow).recall.every((x) => x > 0 && x <= 1)).toBe(true);
  });

  it('leaves out the first step and the layers that stay dense', () => {
    // [3 steps, 2 layers]
    expect(meanByLayer(Float32Array.of(1, 1, 0.5, 0.25, 0, 0.75), 2)).toEqual([0.25, 0.5]);
    const cell = makeCell('quest', 64, { ...settings, skipLayers: 1 });
    expect(actingMean([1, 0.5, 0.25], cell)).toBe(0.375);
    expect(actingMean([1, 1, 1], makeCell('full', undefined, settings))).toBe(1);
  });
});

describe('the runtime behind them', () => {
  it('one acting layer changes no other, and recall is 1 where a layer is dense', async () => {
    const spec = await randomSpec();
    using random = await Model.load(spec, { device: 'cpu', threads: 2 });
    using root = random.createSequence(16);
    const ids = randomIds(420, spec.vocab);
    await root.prefill(ids.slice(0, 400));
    const feed = async (method: Partial<Cell['method']>) => {
      const { method: base } = makeCell('oracle', 40, settings);
      using branch = root.fork({ ...base, ...method });
      const [result] = await random.feed([
        { sequence: branch, ids: ids.slice(400), logits: 'all', recallTop: 10 },
      ]);
      return { ...result!, counters: branch.counters() };
    };
    const full = await feed({ method: 'full' });
    expect(full.recall!.every((x) => x === 1)).toBe(true);
    for (const method of ['quest', 'oracle', 'h2o', 'streaming'] as const) {
      const one = await feed({ method, onlyLayer: 1 });
      const byLayer = meanByLayer(one.recall!, spec.nLayers);
      expect(byLayer[0]).toBe(1);
      expect(byLayer[2]).toBe(1);
      if (method === 'oracle') expect(byLayer[1]).toBe(1);
      else expect(byLayer[1]).toBeLessThan(1);
      const missing = one.counters.tokensAvailable - one.counters.tokensAttended;
      expect(missing).toBeGreaterThan(0);
      expect(missing).toBeLessThan(one.counters.tokensAvailable / spec.nLayers);
      expect(one.logits).not.toEqual(full.logits);
      expect((await feed({ method, onlyLayer: 1, budgetTokens: 420 })).logits).toEqual(full.logits);
    }
    // The same in every layer is what the method does without a named layer.
    const all = await feed({ method: 'oracle' });
    expect((await feed({ method: 'oracle', onlyLayer: 0 })).logits).not.toEqual(all.logits);
    await expect(async () => feed({ method: 'quest', onlyLayer: 1, skipLayers: 2 })).rejects.toThrow(
      /only_layer/,
    );
  });
});
