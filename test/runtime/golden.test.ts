import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/model/index.js';
import { type MethodOptions, Model } from '../../src/runtime/index.js';
import { goldenDir, hasShared } from '../support/shared.js';
import { largestDifference, readTensors, type TestTensor } from '../support/tensors.js';

const TOLERANCE = 1e-3;
const PREFILL_POSITIONS = [0, 1, 17, 255, 559];

/** `<method>.b<budget>[.page32][.grouphead][.skip0]` as methods.md names the vectors. */
function optionsOf(key: string): { options: MethodOptions; pageSize: number } {
  const match = /^([a-z0-9-]+)\.b(\d+)((?:\.[a-z0-9]+)*)$/.exec(key);
  if (!match) throw new Error(`unknown golden vector ${key}`);
  const flags = match[3]!.split('.');
  return {
    options: {
      method: match[1] as MethodOptions['method'],
      budgetTokens: Number(match[2]),
      skipLayers: flags.includes('skip0') ? 0 : 2,
      group: flags.includes('grouphead') ? 'head' : 'max',
      sinks: 4,
      h2oPrefill: false,
    },
    pageSize: flags.includes('page32') ? 32 : 16,
  };
}

const full: MethodOptions = {
  method: 'full',
  budgetTokens: 0,
  skipLayers: 2,
  group: 'max',
  sinks: 4,
  h2oPrefill: false,
};

async function load(name: string) {
  const checkpoint = await openCheckpoint(goldenDir(name));
  return Model.load(checkpoint.spec, { device: 'cpu', threads: 0 });
}

function vectors(name: string): Map<string, TestTensor> {
  const all = readTensors(`${goldenDir(name)}/golden.safetensors`);
  if (name !== 'linear8-d64') {
    for (const [key, value] of readTensors(`${goldenDir(name)}/golden-paper.safetensors`))
      all.set(key, value);
  }
  return all;
}

/** Rows whose page sets differ; golden rows are one query head of one layer of one step. */
function differingRows(pages: Int32Array, width: number, golden: TestTensor): number {
  const k = golden.shape[2]!;
  let differing = 0;
  for (let row = 0; row < golden.data.length / k; row++) {
    const ours = [...pages.subarray(row * width, (row + 1) * width)].filter((p) => p >= 0);
    const theirs = [...golden.data.subarray(row * k, (row + 1) * k)];
    if (ours.join() !== theirs.join()) differing++;
  }
  return differing;
}

const cases = ['mha-d128', 'linear8-d64', 'yarn32-d128', 'llama3-gqa4-d64', 'gqa8-d32-tied'];

describe.skipIf(!hasShared)('golden vectors', () => {
  for (const name of cases) {
    describe(name, async () => {
      const golden = hasShared ? vectors(name) : new Map<string, TestTensor>();
      const ids = (golden.get('input_ids')?.data ?? new Int32Array()) as Int32Array;
      const promptLength = golden.get('prompt_len')?.data[0] ?? 0;
      const model = hasShared ? await load(name) : (undefined as never);

      it('dense prefill logits', async () => {
        const want = golden.get('dense.prefill_logits')!;
        using base = model.createSequence(16);
        using sequence = base.fork(full);
        const [result] = await model.feed([{ sequence, ids: ids.slice(0, promptLength), logits: 'all' }]);
        const vocab = model.spec.vocab;
        PREFILL_POSITIONS.forEach((position, i) => {
          const ours = result!.logits!.subarray(position * vocab, (position + 1) * vocab);
          expect(largestDifference(ours, want.data.subarray(i * vocab, (i + 1) * vocab))).toBeLessThan(
            TOLERANCE,
          );
        });
      });

      it('greedy continuation', async () => {
        using base = model.createSequence(16);
        await base.prefill(ids.slice(0, 64));
        using sequence = base.fork(full);
        const [out] = await model.generate([sequence], {
          maxTokens: 32,
          stopIds: new Int32Array([2]),
          sampling: { temperature: 0, topP: 1, seed: 0 },
        });
        const want = [...golden.get('greedy.prompt64.next32')!.data];
        if (want.at(-1) === 2) want.pop();
        expect([...out!]).toEqual(want);
      });

      const keys = [...golden.keys()]
        .filter((k) => k.endsWith('.logits'))
        .map((k) => k.slice(0, -'.logits'.length));
      for (const key of keys) {
        it(key, async () => {
          const { options, pageSize } = key === 'dense' ? { options: full, pageSize: 16 } : optionsOf(key);
          using base = model.createSequence(pageSize);
          await base.prefill(ids.slice(0, promptLength));
          const wantPages = golden.get(`${key}.pages`);
          for (const mode of ['parallel', 'stepwise']) {
            using sequence = base.fork(options);
            const chunks =
              mode === 'parallel'
                ? [ids.slice(promptLength)]
                : [...ids.slice(promptLength)].map((id) => Int32Array.of(id));
            const logits: number[] = [];
            const pages: number[] = [];
            let width = 0;
            for (const chunk of chunks) {
              const [result] = await model.feed([
                { sequence, ids: chunk, logits: 'all', pages: wantPages !== undefined },
              ]);
              logits.push(...result!.logits!);
              pages.push(...(result!.pages ?? []));
              width = result!.pagesWidth ?? 0;
            }
            expect(largestDifference(logits, golden.get(`${key}.logits`)!.data)).toBeLessThan(TOLERANCE);
            if (wantPages) expect(differingRows(Int32Array.from(pages), width, wantPages)).toBe(0);
          }
        });
      }
    });
  }
});

describe.skipIf(!hasShared)('stories260k', async () => {
  it('continues exactly as the reference', async () => {
    const model = await load('stories260k');
    const golden = JSON.parse(readFileSync(`${goldenDir('stories260k')}/greedy.json`, 'utf8')) as {
      prompt_ids: number[];
      greedy_ids: number[];
    };
    using base = model.createSequence(16);
    await base.prefill(Int32Array.from(golden.prompt_ids));
    using sequence = base.fork(full);
    const [out] = await model.generate([sequence], {
      maxTokens: golden.greedy_ids.length,
      stopIds: new Int32Array(),
      sampling: { temperature: 0, topP: 1, seed: 0 },
    });
    expect([...out!]).toEqual(golden.greedy_ids);
  });
});
