// Whole-model numbers of the CPU executor, beside the machine's limits: decode of a large random 16-bit model, prefill,
// and one attention step at 32K for `full` and `quest`. Used by bench_cpu.js; needs dist/ and the addon.
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Model } from '../dist/src/runtime/index.js';

const GREEDY = { temperature: 0, topP: 1, seed: 0 };
const FULL = { method: 'full', budgetTokens: 0, skipLayers: 0, group: 'max', sinks: 4, h2oPrefill: false };

/** A random fp16 checkpoint of the given shape in one file; its spec points into it. */
function randomModel(dir, name, shape) {
  const { layers, hidden, heads, kvHeads, headDim, ffn, vocab, maxContext } = shape;
  const tensors = {};
  let elements = 0;
  const add = (tensor, dims) => {
    tensors[tensor] = { file: 0, offset: 2 * elements, dtype: 'fp16', shape: dims };
    elements += dims.reduce((a, b) => a * b, 1);
  };
  add('embed', [vocab, hidden]);
  add('norm', [hidden]);
  add('lm_head', [vocab, hidden]);
  for (let i = 0; i < layers; i++) {
    for (const norm of ['attn_norm', 'ffn_norm']) add(`layers.${i}.${norm}`, [hidden]);
    add(`layers.${i}.q`, [heads * headDim, hidden]);
    for (const kv of ['k', 'v']) add(`layers.${i}.${kv}`, [kvHeads * headDim, hidden]);
    add(`layers.${i}.o`, [hidden, heads * headDim]);
    for (const up of ['gate', 'up']) add(`layers.${i}.${up}`, [ffn, hidden]);
    add(`layers.${i}.down`, [hidden, ffn]);
  }
  const path = join(dir, name);
  const file = openSync(path, 'w');
  const block = new Uint16Array(1 << 20);
  let state = 1;
  for (let left = elements; left > 0; left -= block.length) {
    for (let i = 0; i < block.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      // A random sign and mantissa with the exponent of 2^-7: numbers of a trained layer's size, never NaN.
      block[i] = ((state >>> 16) & 0x83ff) | 0x2000;
    }
    writeSync(file, new Uint8Array(block.buffer, 0, 2 * Math.min(left, block.length)));
  }
  closeSync(file);
  const invFreq = Float32Array.from({ length: headDim / 2 }, (_, i) => 10000 ** ((-2 * i) / headDim));
  return {
    bytes: 2 * elements,
    // A step reads one row of the embedding and every other tensor once.
    bytesPerToken: 2 * (elements - vocab * hidden),
    spec: {
      ...{
        nLayers: layers,
        hidden,
        nHeads: heads,
        nKvHeads: kvHeads,
        headDim,
        ffn,
        vocab,
        normEps: 1e-5,
        maxContext,
      },
      ...{
        rope: { invFreq, attentionFactor: 1 },
        tiedEmbeddings: false,
        qkvBias: false,
        files: [path],
        tensors,
      },
    },
  };
}

async function seconds(work) {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

/** Median and half the spread of `repeats` timings of one step; each timing runs `steps` steps. */
async function stepTime(model, branch, steps, repeats) {
  const times = [];
  for (let i = 0; i < repeats; i++) {
    const ids = { maxTokens: steps + 1, stopIds: new Int32Array(), sampling: GREEDY };
    times.push((await seconds(() => model.generate([branch], ids))) / steps);
  }
  times.sort((a, b) => a - b);
  return { median: times[repeats >> 1], spread: (times.at(-1) - times[0]) / 2 };
}

const mb = (bytes) => Math.round(bytes / 1e6);

/** Most resident memory since the last reset, from /proc; undefined elsewhere. */
function peakRss() {
  try {
    return 1024 * Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]);
  } catch {
    return undefined;
  }
}

/** Makes the peak start anew; where that cannot be done the peak is the process's. */
function resetPeak() {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
  } catch {
    // not Linux, or not allowed
  }
}

const row = (name, { median, spread }, extra) => ({
  case: name,
  time_ms: Number((1e3 * median).toFixed(3)),
  spread_ms: Number((1e3 * spread).toFixed(3)),
  ...extra,
});

// A small model's widths, and those of Llama-2-7B's layers.
const SHAPES = [
  { layers: 8, hidden: 2048, heads: 16, kvHeads: 16, headDim: 128, ffn: 5632, vocab: 8192, maxContext: 4096 },
  {
    layers: 3,
    hidden: 4096,
    heads: 32,
    kvHeads: 32,
    headDim: 128,
    ffn: 11008,
    vocab: 8192,
    maxContext: 4096,
  },
];

async function decodeAndPrefill(dir, limits, shape) {
  const made = randomModel(dir, 'decode.bin', shape);
  const model = await Model.load(made.spec, { device: 'cpu', threads: 0 });
  const base = model.createSequence(16);
  const ids = Int32Array.from({ length: 1024 }, (_, i) => (i * 7919) % shape.vocab);
  await base.prefill(ids.slice(0, 16));
  const decode = await stepTime(model, base.fork(FULL), 24, 7);
  const gbps = made.bytesPerToken / decode.median / 1e9;
  const prefills = [];
  for (let i = 0; i < 3; i++) prefills.push(await seconds(() => model.createSequence(16).prefill(ids)));
  prefills.sort((a, b) => a - b);
  const { layers, hidden, heads, headDim, ffn } = shape;
  // The last layer's rows end after their keys and values, see native/cpu/forward.cpp.
  const perLayer = hidden * heads * headDim * 4 + 3 * hidden * ffn;
  const attention = (heads * headDim * ids.length ** 2 * 4) / 2;
  const flop =
    2 * ids.length * (perLayer * (layers - 1) + 3 * hidden * heads * headDim) + attention * (layers - 1);
  model.dispose();
  return [
    row(`decode, ${mb(made.bytes)} MB of fp16 weights, ${shape.hidden} wide`, decode, {
      gb_per_s: Number(gbps.toFixed(1)),
      limit_pct: Number(((100 * gbps) / limits.readGbPerS).toFixed(1)),
    }),
    row(
      `prefill of 1024 tokens, ${shape.hidden} wide`,
      { median: prefills[1], spread: (prefills[2] - prefills[0]) / 2 },
      {
        gflop_per_s: Number((flop / prefills[1] / 1e9).toFixed(0)),
        limit_pct: Number(((100 * flop) / prefills[1] / 1e9 / limits.gflopPerS).toFixed(1)),
      },
    ),
  ];
}

async function attention(dir, limits) {
  const context = 32768;
  const shape = {
    layers: 1,
    hidden: 64,
    heads: 32,
    kvHeads: 32,
    headDim: 128,
    ffn: 64,
    vocab: 256,
    maxContext: 40000,
  };
  const made = randomModel(dir, 'attention.bin', shape);
  resetPeak();
  const before = peakRss();
  const model = await Model.load(made.spec, { device: 'cpu', threads: 0 });
  const base = model.createSequence(16);
  await base.prefill(Int32Array.from({ length: context }, (_, i) => (i * 7919) % shape.vocab));
  const rows = [];
  let full;
  for (const budget of [0, 512, 1024, 2048, 4096]) {
    const branch = base.fork(budget ? { ...FULL, method: 'quest', budgetTokens: budget } : FULL);
    const time = await stepTime(model, branch, 6, 7);
    const c = branch.counters();
    const gbps = (c.kvBytes + c.metadataBytes) / c.decodeSteps / time.median / 1e9;
    full ??= time.median;
    rows.push(
      row(`attention step at 32K, 32/32 heads, ${budget ? `quest ${budget}` : 'full'}`, time, {
        gb_per_s: Number(gbps.toFixed(1)),
        limit_pct: Number(((100 * gbps) / limits.readGbPerS).toFixed(1)),
        speedup: Number((full / time.median).toFixed(2)),
      }),
    );
    branch.dispose();
  }
  // What the cache of these tokens must take: keys, values, minima and maxima.
  const { kvBytesPerToken, metadataBytesPerPage } = model.info;
  const needed = made.bytes + context * kvBytesPerToken + (context / 16) * metadataBytesPerPage;
  rows[0].memory = before && `peak ${mb(peakRss() - before)} MB for ${mb(needed)} MB of weights and KV`;
  model.dispose();
  return rows;
}

/** All rows. limits: the machine's measured `readGbPerS` and `gflopPerS`. */
export async function benchModel(limits) {
  const dir = mkdtempSync(join(tmpdir(), 'quest-bench-'));
  try {
    const rows = [];
    for (const shape of SHAPES) rows.push(...(await decodeAndPrefill(dir, limits, shape)));
    return [...rows, ...(await attention(dir, limits))];
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Prints the rows like the kernel program prints its own. */
export function printModel(rows) {
  for (const r of rows) {
    const rate = r.gflop_per_s ? `${r.gflop_per_s} GFLOP/s` : `${r.gb_per_s} GB/s`;
    const limit = `${r.limit_pct}% of ${r.gflop_per_s ? 'peak' : 'bandwidth'}`;
    const rest = [r.speedup && `${r.speedup}x full`, r.memory].filter(Boolean).join(', ');
    process.stdout.write(
      `${r.case.padEnd(50)}${`${r.time_ms} +- ${r.spread_ms} ms`.padEnd(24)}${rate.padEnd(16)}${limit.padEnd(20)}${rest}\n`,
    );
  }
}
