/** Each model family against a forward pass of its own in plain double precision. */
import { rmSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/model/index.js';
import { type MethodOptions, Model } from '../../src/runtime/index.js';
import { naiveLogits } from '../support/naive_forward.js';
import { type RandomShape, type RandomTensor, randomIds, writeRandomModel } from '../support/random_model.js';

const folders: string[] = [];
afterAll(() => {
  for (const f of folders) rmSync(f, { recursive: true, force: true });
});

const LLAMA = { name: 'LlamaForCausalLM', modelType: 'llama' };
const MISTRAL = { name: 'MistralForCausalLM', modelType: 'mistral' };
const QWEN = { name: 'Qwen2ForCausalLM', modelType: 'qwen2' };
const CASES: [string, RandomShape][] = [
  ['Llama', { family: LLAMA }],
  [
    'Mistral, heads wider than the model',
    {
      family: MISTRAL,
      hidden: 48,
      headDim: 64,
      heads: 8,
      kvHeads: 2,
      config: { sliding_window: null, rope_theta: 1e6 },
    },
  ],
  [
    'Qwen2, seven heads to a KV head, tied',
    {
      family: QWEN,
      heads: 7,
      kvHeads: 1,
      hidden: 56,
      tied: true,
      config: { use_sliding_window: false, sliding_window: 4096, rope_theta: 1e6 },
    },
  ],
  ['Qwen2 of 128-wide heads', { family: QWEN, headDim: 128, layers: 2, vocab: 64 }],
];

const full: MethodOptions = {
  method: 'full',
  budgetTokens: 0,
  skipLayers: 0,
  group: 'max',
  sinks: 4,
  h2oPrefill: false,
};
const PROMPT = 30;
const TOKENS = 45;

async function ours(folder: string, ids: Int32Array, method: MethodOptions): Promise<Float32Array> {
  const { spec } = await openCheckpoint(folder);
  using model = await Model.load(spec, { device: 'cpu', threads: 2 });
  using root = model.createSequence(4);
  await root.prefill(ids.slice(0, PROMPT));
  using branch = root.fork(method);
  const [result] = await model.feed([{ sequence: branch, ids: ids.slice(PROMPT), logits: 'all' }]);
  return result!.logits!;
}

const worst = (a: Float32Array, b: number[]): number =>
  a.length === b.length
    ? Math.max(...b.map((value, i) => Math.abs(value - a[i]!)))
    : Number.POSITIVE_INFINITY;

describe.each(CASES)('%s', (_, shape) => {
  let model: { folder: string; config: Record<string, unknown>; tensors: RandomTensor[] };
  const ids = randomIds(TOKENS, shape.vocab ?? 128);
  const setUp = async () => {
    model ??= await writeRandomModel(shape);
    folders.push(model.folder);
    return { ...model, want: naiveLogits(model.config, model.tensors, ids).slice(PROMPT).flat() };
  };

  it('gives the logits of the naive forward, and so does quest with everything in its budget', async () => {
    const { folder, want } = await setUp();
    expect(worst(await ours(folder, ids, full), want)).toBeLessThan(2e-4);
    const quest: MethodOptions = { ...full, method: 'quest', budgetTokens: 48 };
    expect(worst(await ours(folder, ids, quest), want)).toBeLessThan(2e-4);
  });

  it('notices a bias left out, of another head, or a head rotated as its neighbour', async () => {
    const { folder, config, tensors } = await setUp();
    const got = await ours(folder, ids, full);
    const changed = (change: (tensor: RandomTensor) => Float32Array) =>
      naiveLogits(
        config,
        tensors.map((tensor) => ({ ...tensor, data: change(tensor) })),
        ids,
      )
        .slice(PROMPT)
        .flat();
    const kind = tensors.some(({ name }) => name.endsWith('.bias')) ? 'bias' : 'weight';
    for (const part of ['q_proj', 'k_proj', 'v_proj']) {
      const wrong = changed(({ name, data }) =>
        name === `model.layers.1.self_attn.${part}.${kind}` ? data.map(() => 0) : data,
      );
      expect(worst(got, wrong)).toBeGreaterThan(1e-2);
    }
    expect(
      worst(
        got,
        naiveLogits({ ...config, rope_theta: 500 }, tensors, ids)
          .slice(PROMPT)
          .flat(),
      ),
    ).toBeGreaterThan(1e-2);
  });
});
