/** Perplexity against logits by hand, over windows, books and interruptions; real models, a tokenizer of bytes. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TextSource } from '../../datasets/texts.js';
import { openTexts } from '../../datasets/texts.js';
import { openJournal } from '../../eval/journal.js';
import { type MethodSettings, makeCells } from '../../eval/methods.js';
import {
  checkPerplexityOptions,
  createPerplexityTask,
  curvePoints,
  cutWindows,
  type PerplexityRow,
  runPerplexity,
} from '../../eval/perplexity.js';
import { bookSeries, totalSeries } from '../../eval/perplexity_results.js';
import { openCheckpoint, type Tokenizer } from '../../src/model/index.js';
import type { ModelSpec } from '../../src/model/spec.js';
import { lastPoint, perplexityLongTable, perplexityNotes, pplToken, pplWord } from '../../src/report/ppl.js';
import { paperPerplexity } from '../../src/report/ppl-paper.js';
import { Model } from '../../src/runtime/index.js';
import { randomSpec } from '../support/random_model.js';
import { hasShared, sharedDir } from '../support/shared.js';

const dir = mkdtempSync(join(tmpdir(), 'quest-ppl-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** One token per character, BOS 1. */
const bytes: Tokenizer = {
  encode: (text, { bos = true } = {}) =>
    Int32Array.from([...(bos ? [1] : []), ...[...text].map((c) => (c.charCodeAt(0) % 126) + 2)]),
  decode: (ids) =>
    [...Array.from(ids)]
      .filter((id) => id > 1)
      .map((id) => String.fromCharCode(id - 2))
      .join(''),
  vocabSize: 128,
  bosId: 1,
  eosIds: [],
  addsBos: true,
  source: 'test',
};

const settings: MethodSettings = { pageSize: 16, skipLayers: 1, group: 'max', sinks: 4, h2oPrefill: false };
const words = (n: number, seed: number) =>
  Array.from({ length: n }, (_, i) => 'abcdefgh'.slice(0, 1 + ((i * 7 + seed) % 5))).join(' ');
const source: TextSource = {
  dataset: 'text',
  title: 'two texts',
  label: 'two texts',
  books: [
    { id: 'first', read: () => words(90, 1) },
    { id: 'second', read: () => words(40, 3) },
  ],
};
const oneBook: TextSource = { ...source, books: source.books.slice(0, 1) };

let spec: ModelSpec;
let model: Model;
beforeAll(async () => {
  spec = await randomSpec();
  model = await Model.load(spec, { device: 'cpu', threads: 2 });
});
afterAll(() => model.dispose());

let folders = 0;
async function score(
  from: TextSource,
  cells: ReturnType<typeof makeCells>,
  options: { tokens: number; window?: number; stride?: number; lockstep?: number },
  folder = mkdtempSync(join(dir, `run${folders++}-`)),
) {
  const { tokens, window = 4096, stride, lockstep = 4 } = options;
  const task = createPerplexityTask(from, { tokens, window, stride, lockstep }, bytes);
  using journal = openJournal(folder, () => {});
  let loads = 0;
  const grid = await runPerplexity({
    plan: { model: { name: 'random', fingerprint: 'f' }, task, cells },
    journal,
    tokenizer: bytes,
    eosIds: [],
    // The model outlives the runs.
    loadModel: async () => {
      loads++;
      return model;
    },
    signal: new AbortController().signal,
  });
  return { grid, task, folder, loads };
}

/** Likelihood of ids[from..to) after ids[0..from), from the logits of single decode steps, in double precision. */
async function byHand(
  ids: Int32Array,
  method: ReturnType<typeof makeCells>[number]['method'],
  scoredFrom = 0,
) {
  using root = model.createSequence(16);
  using branch = root.fork(method);
  let nll = 0;
  for (let i = 0; i + 1 < ids.length; i++) {
    const [result] = await model.feed([{ sequence: branch, ids: ids.slice(i, i + 1), logits: 'last' }]);
    const logits = [...result!.logits!];
    const top = Math.max(...logits);
    const log = top + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - top), 0));
    if (i >= scoredFrom) nll += log - logits[ids[i + 1]!]!;
  }
  return nll;
}

describe('windows and points', () => {
  it('a text that fits is one window; a longer one advances by the stride and scores each token once', () => {
    expect(cutWindows(5, 8, undefined)).toEqual([{ from: 0, scoredFrom: 0, to: 5 }]);
    expect(cutWindows(8, 8, 4)).toEqual([{ from: 0, scoredFrom: 0, to: 8 }]);
    expect(cutWindows(15, 8, 4)).toEqual([
      { from: 0, scoredFrom: 0, to: 8 },
      { from: 4, scoredFrom: 8, to: 12 },
      { from: 8, scoredFrom: 12, to: 15 },
    ]);
    expect(cutWindows(17, 8, 8).map((w) => w.scoredFrom)).toEqual([0, 8, 16]);
  });

  it('points are multiples of a round number, the same for all texts of a run', () => {
    expect(curvePoints(31_999, 32_000)).toEqual([
      ...Array.from({ length: 31 }, (_, i) => 1000 * (i + 1)),
      31_999,
    ]);
    expect(curvePoints(700, 8192)).toEqual([500, 700]);
    expect(curvePoints(3, 20)).toEqual([1, 2, 3]);
    for (const n of [1, 33, 640, 9999, 32_000]) expect(curvePoints(n, n).length).toBeLessThanOrEqual(33);
  });

  it('what does not fit is refused with what would', () => {
    const check = (o: object) =>
      checkPerplexityOptions({ tokens: 100, window: 64, stride: undefined, lockstep: 1, ...o }, 64, 'm');
    expect(() => check({})).toThrow(/100 tokens do not fit into one pass of 64/);
    expect(() => check({ stride: 65 })).toThrow(/longer than the window/);
    expect(() => check({ window: 65 })).toThrow(/exceeds the 64/);
    expect(() => check({ stride: 32 })).not.toThrow();
  });
});

describe('perplexity', () => {
  it('equals what the logits of single steps give, for every method', async () => {
    const cells = makeCells(
      ['full', 'quest', 'quest-paper', 'streaming', 'h2o', 'tova', 'oracle'],
      [48],
      settings,
    );
    const { grid, task } = await score(oneBook, cells, { tokens: 230 });
    const { stepIds } = task.item(0);
    expect(stepIds.length).toBe(231);
    for (const [i, cell] of cells.entries()) {
      const row = grid[0]![i] as PerplexityRow;
      const nll = await byHand(stepIds, cell.method);
      expect(row.curve.nll.at(-1)! / nll, cell.method.method).toBeCloseTo(1, 6);
      expect(row.step_tokens).toBe(230);
      expect(row.counters.decodeSteps).toBe(230);
    }
    const [series] = bookSeries(cells, grid);
    const nll = (grid[0]![0] as PerplexityRow).curve.nll.at(-1)!;
    const text = words(90, 1).slice(0, 230);
    expect(pplToken(lastPoint(series!))).toBeCloseTo(Math.exp(nll / 230), 10);
    expect(pplWord(lastPoint(series!))).toBeCloseTo(
      Math.exp(nll / text.split(' ').filter(Boolean).length),
      6,
    );
    // The running values are those of the prefix.
    const at = series!.points.find((p) => p.position === 100)!;
    expect(at.nll).toBeCloseTo(await byHand(stepIds.slice(0, 101), cells[0]!.method), 4);
    expect(at.words).toBe(text.slice(0, 100).split(' ').filter(Boolean).length);
  });

  it('in windows every token is predicted once, from the context that its window gives', async () => {
    const cells = makeCells(['full', 'quest', 'tova'], [32], settings);
    const { grid, task } = await score(oneBook, cells, { tokens: 200, window: 96, stride: 64 });
    const ids = task.item(0).stepIds;
    expect(task.params).toMatchObject({ window: 96, stride: 64 });
    for (const [i, cell] of cells.entries()) {
      let nll = await byHand(ids.slice(0, 97), cell.method);
      for (const [from, scoredFrom, to] of [
        [64, 96, 160],
        [128, 160, 200],
      ] as const) {
        const window = ids.slice(from, to + 1);
        window[0] = 1; // BOS
        nll += await byHand(window, cell.method, scoredFrom - from);
      }
      expect((grid[0]![i] as PerplexityRow).curve.nll.at(-1)! / nll, cell.method.method).toBeCloseTo(1, 6);
    }
    expect((grid[0]![0] as PerplexityRow).curve.tokens.at(-1)).toBe(200);
  });

  it('does not depend on how many evictors run side by side', async () => {
    const cells = makeCells(['h2o', 'tova'], [32, 64], settings);
    const apart = await score(oneBook, cells, { tokens: 150, lockstep: 1 });
    const together = await score(oneBook, cells, { tokens: 150, lockstep: 4 });
    const curves = (g: typeof apart.grid) => g[0]!.map((row) => (row as PerplexityRow).curve);
    expect(curves(apart.grid)).toEqual(curves(together.grid));
    expect(together.grid[0]![0]!.timing.branches).toBe(4);
  });

  it('goes on where it was interrupted, with the same rows, and loads nothing when all is there', async () => {
    const cells = makeCells(['full', 'quest', 'tova'], [32], settings);
    const whole = await score(source, cells, { tokens: 220 });
    const part = await score(source, cells.slice(0, 1), { tokens: 220 });
    const resumed = await score(source, cells, { tokens: 220 }, part.folder);
    const strip = (g: typeof whole.grid) => g.map((rows) => rows.map(({ timing: _, ...row }) => row));
    expect(strip(resumed.grid)).toEqual(strip(whole.grid));
    const again = await score(source, cells, { tokens: 220 }, part.folder);
    expect(again.loads).toBe(0);
    expect(again.grid).toEqual(resumed.grid);
  });

  it('over several books adds tokens, words and likelihoods', async () => {
    const cells = makeCells(['full', 'quest'], [32], settings);
    const { grid } = await score(source, cells, { tokens: 220 });
    const ends = grid.map((rows) => (rows[1] as PerplexityRow).curve);
    const [, quest] = totalSeries(cells, grid);
    const end = lastPoint(quest!);
    const [first, second] = ends.map((c) => ({ tokens: c.tokens.at(-1)!, nll: c.nll.at(-1)! }));
    expect(second!.tokens).toBeLessThan(first!.tokens);
    expect(end).toMatchObject({ position: undefined, tokens: first!.tokens + second!.tokens });
    expect(end.nll).toBeCloseTo(first!.nll + second!.nll, 8);
    const at = quest!.points.find((p) => p.position === 100)!;
    expect(at.tokens).toBe(200);
    expect(at.nll).toBeCloseTo(
      ends.reduce((sum, c) => sum + c.nll[c.tokens.indexOf(100)]!, 0),
      8,
    );
  });

  it('a budget that holds the text reads everything, and the report says so', async () => {
    const cells = makeCells(['full', 'quest'], [48, 512], settings);
    const { grid } = await score(oneBook, cells, { tokens: 120 });
    const report = {
      modelName: 'random',
      dataset: 'text',
      title: 'a text',
      textLabel: 'a text',
      window: undefined,
      books: ['first'],
      series: bookSeries(cells, grid),
      total: totalSeries(cells, grid),
      paper: undefined,
    };
    const [full, small, large] = report.series;
    expect([full!.neverSparse, small!.neverSparse, large!.neverSparse]).toEqual([false, false, true]);
    expect(lastPoint(large!).nll).toBe(lastPoint(full!).nll);
    expect(lastPoint(small!).kvReadPct).toBeLessThan(100);
    expect(perplexityNotes(report).join('\n')).toMatch(/\* Quest 512 never attended fewer tokens/);
    const table = perplexityLongTable(report);
    const column = (key: string) => table.columns.findIndex((c) => c.key === key);
    expect(table.rows.map((row) => row[column('never_sparse')])).toContain(true);
  });
});

describe('the paper', () => {
  it('stands beside its own model and text only', () => {
    const paper = paperPerplexity('lmsys/longchat-7b-v1.5-32k', 'pg19')!;
    expect(paper.ppl('full', undefined, 32_000)).toBe(6.808);
    expect(paper.ppl('quest', 4096, 4000)).toBe(7.251);
    expect(paper.ppl('quest', 1024, 4000)).toBeUndefined();
    expect(paper.ppl('streaming', 4096, 4000)).toBeUndefined();
    expect(paperPerplexity('quest-tiny', 'pg19')).toBeUndefined();
    expect(paperPerplexity('lmsys/longchat-7b-v1.5-32k', 'moby-dick')).toBeUndefined();
  });
});

describe.skipIf(!hasShared)('quest-tiny on the real PG-19 books', () => {
  it('has read them: far better than chance, worse with a starved cache', async () => {
    const checkpoint = await openCheckpoint('quest-tiny');
    const tokenizer = await checkpoint.tokenizer();
    using tiny = await Model.load(checkpoint.spec, { device: 'cpu', threads: 2 });
    const books = await openTexts({ data: `${sharedDir}/data`, books: ['860', '10146', '10356'] });
    const cells = makeCells(['full', 'quest'], [64], { ...settings, skipLayers: 0 });
    const task = createPerplexityTask(
      books,
      { tokens: 600, window: 4096, stride: undefined, lockstep: 1 },
      tokenizer,
    );
    using journal = openJournal(mkdtempSync(join(dir, 'tiny-')), () => {});
    const grid = await runPerplexity({
      plan: { model: checkpoint, task, cells },
      journal,
      tokenizer,
      eosIds: [],
      loadModel: async () => tiny,
      signal: new AbortController().signal,
    });
    const [full, quest] = totalSeries(cells, grid).map((s) => pplToken(lastPoint(s)));
    expect(full).toBeGreaterThan(15);
    expect(full).toBeLessThan(80);
    expect(quest).toBeGreaterThan(full!);
    expect(quest).toBeLessThan(2 * full!);
  });
});
