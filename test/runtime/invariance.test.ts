/** What must be the same bits: chunks or steps, batches or single branches, any number of threads, every budget that holds all. */
import { spawnSync } from 'node:child_process';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ModelSpec } from '../../src/model/spec.js';
import { addon } from '../../src/runtime/addon.js';
import { type MethodOptions, Model, type Sequence } from '../../src/runtime/index.js';
import { randomIds, randomSpec } from '../support/random_model.js';

const PROMPT = 700;
const QUESTION = 23;

const base: MethodOptions = {
  method: 'full',
  budgetTokens: 0,
  skipLayers: 1,
  group: 'max',
  sinks: 4,
  h2oPrefill: false,
};
const methods: MethodOptions[] = [
  base,
  { ...base, method: 'quest', budgetTokens: 64 },
  { ...base, method: 'quest', budgetTokens: 100, group: 'mean' },
  { ...base, method: 'quest', budgetTokens: 48, group: 'head', skipLayers: 0 },
  { ...base, method: 'quest-paper', budgetTokens: 80 },
  { ...base, method: 'streaming', budgetTokens: 40 },
  { ...base, method: 'h2o', budgetTokens: 60 },
  { ...base, method: 'tova', budgetTokens: 60 },
];
const greedy = { temperature: 0, topP: 1, seed: 0 };

let spec: ModelSpec;
let prompt: Int32Array;
let question: Int32Array;

beforeAll(async () => {
  spec = await randomSpec();
  const ids = randomIds(PROMPT + QUESTION, spec.vocab);
  prompt = ids.slice(0, PROMPT);
  question = ids.slice(PROMPT);
});

async function prefilled(model: Model, pageSize = 16): Promise<Sequence> {
  const sequence = model.createSequence(pageSize);
  await sequence.prefill(prompt);
  return sequence;
}

async function feedOne(model: Model, sequence: Sequence, ids: Int32Array): Promise<Float32Array> {
  const [result] = await model.feed([{ sequence, ids, logits: 'all' }]);
  return result!.logits!;
}

describe('the same bits', () => {
  it('one step at a time and a whole chunk', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    using root = await prefilled(model);
    for (const method of methods) {
      using chunk = root.fork(method);
      using steps = root.fork(method);
      const whole = await feedOne(model, chunk, question);
      const apart: number[] = [];
      for (const id of question) apart.push(...(await feedOne(model, steps, Int32Array.of(id))));
      expect(Float32Array.from(apart), method.method).toEqual(whole);
      expect(steps.counters(), method.method).toEqual(chunk.counters());
    }
  });

  it('alone and in a batch with every other method, and so the generated text', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    using root = await prefilled(model);
    const batch = methods.map((m) => root.fork(m));
    const together = await model.feed(batch.map((sequence) => ({ sequence, ids: question, logits: 'last' })));
    const texts = await model.generate(batch, { maxTokens: 12, stopIds: new Int32Array(), sampling: greedy });
    for (const [i, method] of methods.entries()) {
      using alone = root.fork(method);
      const [result] = await model.feed([{ sequence: alone, ids: question, logits: 'last' }]);
      expect(result!.logits, method.method).toEqual(together[i]!.logits);
      const [text] = await model.generate([alone], {
        maxTokens: 12,
        stopIds: new Int32Array(),
        sampling: greedy,
      });
      expect(text, method.method).toEqual(texts[i]);
      expect(alone.counters()).toEqual(batch[i]!.counters());
      batch[i]!.dispose();
    }
  });

  it('with 1, 2, 3 and 7 threads', async () => {
    const outputs: Float32Array[][] = [];
    for (const threads of [1, 2, 3, 7]) {
      using model = await Model.load(spec, { device: 'cpu', threads });
      expect(model.info.threads).toBe(threads);
      using root = await prefilled(model);
      outputs.push([]);
      for (const method of methods) {
        using branch = root.fork(method);
        outputs.at(-1)!.push(await feedOne(model, branch, question));
      }
    }
    for (const other of outputs.slice(1)) expect(other).toEqual(outputs[0]);
  });

  it('a prefill in one call and in uneven pieces', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    using whole = await prefilled(model);
    using pieces = model.createSequence(16);
    for (const [from, to] of [
      [0, 1],
      [1, 33],
      [33, 590],
      [590, PROMPT],
    ]) {
      await pieces.prefill(prompt.slice(from, to));
    }
    for (const method of methods) {
      using a = whole.fork(method);
      using b = pieces.fork(method);
      expect(await feedOne(model, a, question), method.method).toEqual(await feedOne(model, b, question));
    }
  });

  it('every method whose budget holds the whole context, and full', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    using root = await prefilled(model);
    using full = root.fork(base);
    const want = await feedOne(model, full, question);
    for (const method of methods.slice(1)) {
      using branch = root.fork({ ...method, budgetTokens: PROMPT + QUESTION });
      expect(await feedOne(model, branch, question), method.method).toEqual(want);
      expect(branch.counters().sparseSteps).toBe(0);
      expect(branch.counters().tokensAttended).toBe(full.counters().tokensAttended);
    }
  });

  it('with layers that are all skipped, and full', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    using root = await prefilled(model);
    using full = root.fork(base);
    const want = await feedOne(model, full, question);
    for (const method of methods.slice(1)) {
      using branch = root.fork({ ...method, skipLayers: spec.nLayers });
      expect(await feedOne(model, branch, question), method.method).toEqual(want);
    }
  });

  it('likelihoods and logits agree', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    using root = await prefilled(model);
    using branch = root.fork(methods[1]!);
    const targets = Int32Array.from([...question.slice(1), 7]);
    const [result] = await model.feed([{ sequence: branch, ids: question, logits: 'all', targets }]);
    targets.forEach((target, i) => {
      const row = [...result!.logits!.subarray(i * spec.vocab, (i + 1) * spec.vocab)];
      const top = Math.max(...row);
      const nll = top + Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0)) - row[target]!;
      expect(result!.nll![i]).toBeCloseTo(nll, 4);
    });
  });
});

describe('branches', () => {
  it('do not disturb each other or their parent', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    using root = await prefilled(model);
    const fresh = async () => {
      using branch = root.fork(methods[1]!);
      return feedOne(model, branch, question);
    };
    const before = await fresh();
    using other = root.fork(methods[1]!);
    await feedOne(
      model,
      other,
      question.map((id) => (id + 1) % spec.vocab),
    );
    expect(root.length).toBe(PROMPT);
    expect(await fresh()).toEqual(before);
  });

  it('sparse methods read less than full and say how much', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    using root = await prefilled(model);
    for (const method of methods.slice(1)) {
      using branch = root.fork(method);
      await feedOne(model, branch, question);
      const c = branch.counters();
      expect(c.decodeSteps).toBe(QUESTION);
      expect(c.sparseSteps).toBeGreaterThan(0);
      expect(c.tokensAttended).toBeLessThan(c.tokensAvailable);
      expect(c.kvBytes).toBeLessThan(c.denseKvBytes);
      expect(c.metadataBytes > 0).toBe(method.method.startsWith('quest'));
    }
  });

  it('h2o can start from the prefill, and only when that was collected', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    using plain = await prefilled(model);
    const method: MethodOptions = { ...base, method: 'h2o', budgetTokens: 60, h2oPrefill: true };
    expect(() => plain.fork(method)).toThrow(/not collected/);
    using collected = model.createSequence(16);
    await collected.prefill(prompt, { h2oPrefill: true });
    using a = collected.fork(method);
    using b = collected.fork({ ...method, h2oPrefill: false });
    using c = plain.fork({ ...method, h2oPrefill: false });
    const [withSums, without, never] = [
      await feedOne(model, a, question),
      await feedOne(model, b, question),
      await feedOne(model, c, question),
    ];
    expect(without).toEqual(never);
    expect(withSums).not.toEqual(without);
  });

  it('an evictor that dropped tokens cannot become another method', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    using root = await prefilled(model);
    using branch = root.fork({ ...base, method: 'tova', budgetTokens: 60 });
    await feedOne(model, branch, question);
    expect(() => branch.fork(base)).toThrow(/dropped tokens/);
    using same = branch.fork({ ...base, method: 'tova', budgetTokens: 60 });
    expect(await feedOne(model, same, question)).toEqual(await feedOne(model, branch, question));
  });
});

describe('traces', () => {
  it('are no wider than the cache, however large the budget', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 2 });
    using root = model.createSequence(16);
    await root.prefill(prompt.slice(0, 40));
    using branch = root.fork({ ...base, method: 'quest', budgetTokens: Number.MAX_SAFE_INTEGER });
    const [result] = await model.feed([{ sequence: branch, ids: question, pages: true }]);
    expect(result!.pagesWidth).toBe(Math.ceil((40 + QUESTION) / 16));
    expect(result!.pages!.length).toBe(QUESTION * (spec.nLayers - 1) * spec.nHeads * result!.pagesWidth!);
  });
});

describe('refusals', () => {
  it('ids outside the vocabulary, contexts above the limit, senseless methods', async () => {
    const short = await randomSpec({ maxContext: 64 });
    using model = await Model.load(short, { device: 'cpu', threads: 1 });
    using sequence = model.createSequence(16);
    await expect(sequence.prefill(Int32Array.of(1, 128))).rejects.toThrow(/id 128 at index 1/);
    await expect(sequence.prefill(Int32Array.of(-1))).rejects.toThrow(/id -1/);
    await expect(sequence.prefill(randomIds(65, 128))).rejects.toThrow(/65 tokens.*64/);
    expect(sequence.length).toBe(0);
    await sequence.prefill(randomIds(64, 128));
    expect(() => sequence.fork({ ...base, method: 'quest', budgetTokens: 8 })).toThrow(/below one page/);
    expect(() => model.createSequence(12)).toThrow(/power of two/);
    await expect(Model.load(short, { device: 'tpu', threads: 1 })).rejects.toThrow(/tpu/);
  });

  it('a cancelled job leaves its branch unusable and its parent whole', async () => {
    using model = await Model.load(spec, { device: 'cpu', threads: 1 });
    using root = model.createSequence(16);
    await root.prefill(prompt.slice(0, 100));
    using branch = root.fork(base);
    const abort = new AbortController();
    const long = randomIds(3000, spec.vocab);
    const running = model.feed([{ sequence: branch, ids: long }], {
      signal: abort.signal,
      onProgress: () => abort.abort(new Error('enough')),
    });
    await expect(running).rejects.toThrow('enough');
    await expect(model.feed([{ sequence: branch, ids: question }])).rejects.toThrow(/interrupted/);
    using again = root.fork(base);
    await model.feed([{ sequence: again, ids: question }]);
    expect(again.length).toBe(100 + QUESTION);
  });
});

describe('SIMD levels', () => {
  const script = `
    import { Model } from './dist/src/runtime/index.js';
    const spec = JSON.parse(process.env.SPEC);
    spec.rope.invFreq = Float32Array.from(spec.rope.invFreq);
    const model = await Model.load(spec, { device: 'cpu', threads: 2 });
    const root = model.createSequence(16);
    await root.prefill(Int32Array.from(JSON.parse(process.env.PROMPT)));
    const branch = root.fork(JSON.parse(process.env.METHOD));
    const [r] = await model.feed([{ sequence: branch, ids: Int32Array.from(JSON.parse(process.env.QUESTION)), logits: 'all' }]);
    process.stdout.write(JSON.stringify({ simd: model.info.simd, logits: [...r.logits] }));
  `;
  const run = (level: string) =>
    spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      env: {
        ...process.env,
        QUEST_SIMD: level,
        SPEC: JSON.stringify({ ...spec, rope: { ...spec.rope, invFreq: [...spec.rope.invFreq] } }),
        PROMPT: JSON.stringify([...prompt]),
        QUESTION: JSON.stringify([...question]),
        METHOD: JSON.stringify(methods[1]),
      },
    });

  it('agree with each other', () => {
    const levels = addon().cpuInfo().levels;
    const results = levels.map((level) => {
      const child = run(level);
      expect(child.stderr).toBe('');
      return JSON.parse(child.stdout) as { simd: string; logits: number[] };
    });
    expect(results.map((r) => r.simd)).toEqual(levels);
    for (const r of results.slice(1)) {
      r.logits.forEach((x, i) => {
        expect(Math.abs(x - results[0]!.logits[i]!)).toBeLessThan(1e-3);
      });
    }
  });

  it('an unknown one is refused by name', () => {
    expect(run('mmx').stderr).toMatch(/mmx/);
  });
});
