/** A table of methods x budgets costs what its dense prefills and decode steps cost, each prefill once for all cells. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { openJournal } from '../../eval/journal.js';
import { type MethodSettings, makeCells } from '../../eval/methods.js';
import { createPasskeyTask } from '../../eval/passkey.js';
import type { Plan } from '../../eval/plan.js';
import { runPlan } from '../../eval/runner.js';
import { openCheckpoint } from '../../src/model/index.js';
import { Model } from '../../src/runtime/index.js';

const dir = mkdtempSync(join(tmpdir(), 'quest-cost-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const settings: MethodSettings = { pageSize: 16, skipLayers: 2, group: 'max', sinks: 4, h2oPrefill: false };
const LIMIT = 1.5;

async function timed<T>(body: () => Promise<T>): Promise<{ seconds: number; result: T }> {
  const started = performance.now();
  const result = await body();
  return { seconds: (performance.now() - started) / 1000, result };
}

it('costs at most 1.5x its prefills plus its decode steps, each cell alone', async () => {
  const checkpoint = await openCheckpoint('quest-tiny');
  const tokenizer = await checkpoint.tokenizer();
  using model = await Model.load(checkpoint.spec, { device: 'cpu', threads: 0 });
  const cells = makeCells(['full', 'quest', 'streaming', 'h2o', 'tova'], [64, 512], settings);
  const newTask = () => createPasskeyTask({ contextTokens: 2500, samples: 1, seed: 0 }, tokenizer);
  const { signal } = new AbortController();

  /** Prefills once, then forks, feeds and generates for one cell after the other. */
  const inParts = async (): Promise<number> => {
    const task = newTask();
    let seconds = 0;
    for (let index = 0; index < task.count; index++) {
      const item = await task.item(index);
      using root = model.createSequence(16);
      seconds += (await timed(() => root.prefill(item.prefillIds, { signal }))).seconds;
      for (const { method } of cells) {
        using branch = root.fork(method);
        const work = async () => {
          await model.feed([{ sequence: branch, ids: item.stepIds, logits: 'none' }], { signal });
          await model.generate([branch], {
            ...{ maxTokens: item.maxNewTokens, stopIds: Int32Array.from(checkpoint.eosIds) },
            ...{ sampling: { temperature: 0, topP: 1, seed: 0 }, signal },
          });
        };
        seconds += (await timed(work)).seconds;
      }
    }
    return seconds;
  };
  /** The command's way, tokenising and journal included. */
  const asTable = async (name: string): Promise<number> => {
    const plan: Plan = { model: { name: 'quest-tiny', fingerprint: 'x' }, task: newTask(), cells };
    using journal = openJournal(mkdtempSync(join(dir, name)), () => {});
    const load = async () => model;
    const run = () =>
      runPlan({ plan, journal, tokenizer, eosIds: checkpoint.eosIds, loadModel: load, signal });
    const { seconds, result } = await timed(run);
    for (const row of result) expect(new Set(row.map(({ timing }) => timing.prefill_s)).size).toBe(1);
    return seconds;
  };

  // Another process may take the cores for a while: the best of a few tries counts.
  const ratios: number[] = [];
  while (ratios.length < 4 && !ratios.some((ratio) => ratio <= LIMIT)) {
    const parts = await inParts();
    ratios.push((await asTable(`try${ratios.length}-`)) / parts);
  }
  process.stdout.write(`a table of ${cells.length} cells costs ${ratios.at(-1)!.toFixed(2)}x its parts\n`);
  expect(Math.min(...ratios)).toBeLessThanOrEqual(LIMIT);
}, 120_000);
