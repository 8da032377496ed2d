import { rmSync } from 'node:fs';
import { afterAll, describe, expect, test } from 'vitest';
import { generateAnswers, replacedFirstToken } from '../../eval/answers.js';
import { makeCells } from '../../eval/methods.js';
import type { TaskItem } from '../../eval/task.js';
import { openCheckpoint } from '../../src/model/index.js';
import { Model } from '../../src/runtime/index.js';
import { hasAddon } from '../cli/spawn.js';
import { randomIds, writeRandomCheckpoint } from '../support/random_model.js';

describe('a first token that may not end the answer', () => {
  const logits = Float32Array.of(1, 5, 5, 3, -1);

  test('is replaced by the likeliest other one, only when it would end it', () => {
    expect(replacedFirstToken(logits, new Set([3]))).toBeUndefined(); // 1 is the likeliest
    expect(replacedFirstToken(logits, new Set([1]))).toBe(2);
    expect(replacedFirstToken(logits, new Set([1, 2]))).toBe(3);
    expect(replacedFirstToken(logits, new Set([2]))).toBeUndefined(); // of equals the lower id
    expect(replacedFirstToken(logits, new Set([0, 1, 2, 3, 4]))).toBeUndefined();
  });
});

describe.skipIf(!hasAddon)('answers with stop tokens of the task', () => {
  let dir = '';
  afterAll(() => {
    if (dir !== '') rmSync(dir, { recursive: true, force: true });
  });

  test('each branch goes on from its own first token, as step by step', async () => {
    dir = await writeRandomCheckpoint();
    using model = await Model.load((await openCheckpoint(dir)).spec, { device: 'cpu', threads: 1 });
    const settings = { pageSize: 16, skipLayers: 0, group: 'max', sinks: 4, h2oPrefill: false } as const;
    const cells = makeCells(['full', 'quest', 'streaming'], [32], settings);
    const [prompt, steps] = [randomIds(100, 128, 3), randomIds(8, 128, 4)];
    const signal = new AbortController().signal;
    using base = model.createSequence(16);
    await base.prefill(prompt);

    const branchesAfterSteps = async () => {
      const branches = cells.map((cell) => base.fork(cell.method));
      const fed = await model.feed(
        branches.map((sequence) => ({ sequence, ids: steps, logits: 'last' as const })),
      );
      return { branches, fed };
    };
    const answer = async (stopIds: number[] | undefined) => {
      const { branches, fed } = await branchesAfterSteps();
      const item = { stopIds, maxNewTokens: 6 } as TaskItem;
      const options = { eosIds: [2], signal, onToken: () => {} };
      const outputs = await generateAnswers(model, branches, fed, item, options);
      for (const branch of branches) branch.dispose();
      return outputs.map((ids) => [...ids]);
    };
    const free = await answer(undefined);
    const first = free[0]![0]!;
    const stopped = await answer([first]);
    for (const [i, ids] of stopped.entries()) {
      if (free[i]![0] !== first) {
        expect(ids).toEqual(free[i]!.slice(0, free[i]!.indexOf(first) < 0 ? 6 : free[i]!.indexOf(first)));
        continue;
      }
      const { branches, fed } = await branchesAfterSteps();
      const second = replacedFirstToken(fed[i]!.logits!, new Set([2, first]))!;
      await model.feed([{ sequence: branches[i]!, ids: Int32Array.of(second), logits: 'none' }]);
      const [rest] = await model.generate([branches[i]!], {
        maxTokens: 5,
        stopIds: Int32Array.of(2, first),
        sampling: { temperature: 0, topP: 1, seed: 0 },
      });
      expect(ids).toEqual([second, ...rest!]);
      for (const branch of branches) branch.dispose();
    }
    expect(stopped[0]).not.toContain(first);
  });
});
