/** Tables of benchmarks: attention.csv, kernels.csv and e2e.csv, and the same for readers. */
import type { E2eRow } from '../../eval/efficiency/e2e.js';
import { type AttentionRow, readPct, type TimedCase } from '../../eval/efficiency/kernels.js';
import { columnsOf, fixed, type Table } from './table.js';

const [two, one] = [fixed(2), fixed(1)];

const ATTENTION_KEYS = [
  'heads',
  'context_tokens',
  'budget_tokens',
  'page_size',
  'dense_us',
  'estimate_us',
  'topk_us',
  'attention_us',
  'sparse_us',
  'speedup',
  'dense_read_pct',
  'sparse_read_pct',
] as const;

/** attention.csv: a sparse step of one layer and its parts beside the dense one. */
export function attentionTable(rows: readonly AttentionRow[]): Table {
  const us = { dense_us: two, estimate_us: two, topk_us: two, attention_us: two, sparse_us: two };
  return {
    columns: columnsOf(ATTENTION_KEYS, { ...us, speedup: two, dense_read_pct: one, sparse_read_pct: one }),
    rows: rows.map((r) => [
      ...[r.heads, r.contextTokens, r.budgetTokens, r.pageSize],
      ...[
        r.denseUs,
        r.estimateUs,
        r.topkUs,
        r.attentionUs,
        r.sparseUs,
        r.speedup,
        r.denseReadPct,
        r.sparseReadPct,
      ],
    ]),
  };
}

/** kernels.csv: every case with its noise, bytes and share of the read bandwidth. */
export function kernelTable(timed: readonly TimedCase[], bytesPerSecond: number): Table {
  const keys = [
    ...['kernel', 'what', 'context_tokens', 'budget_tokens', 'page_size', 'rows', 'n', 'k'],
    ...['median_us', 'noise_pct', 'repeats', 'bytes', 'read_pct', 'tflop_per_s'],
  ];
  const show = { median_us: two, noise_pct: two, bytes: fixed(0), read_pct: one, tflop_per_s: two };
  return {
    columns: columnsOf(keys, show),
    rows: timed.map(({ what, case: c, time }) => [
      ...[c.kernel, what, c.contextTokens, c.budgetTokens || undefined, c.pageSize, c.rows, c.n, c.k],
      ...[time.medianUs, time.noisePct, time.repeats],
      ...(time.bytes > 0 ? [time.bytes, readPct(time, bytesPerSecond)] : [undefined, undefined]),
      time.flops > 0 ? time.flops / time.medianUs / 1e6 : undefined,
    ]),
  };
}

/** e2e.csv: milliseconds per token of whole models. */
export function e2eTable(rows: readonly E2eRow[]): Table {
  const keys = [
    ...['shape', 'weights', 'context_tokens', 'budget_tokens', 'dense_ms', 'sparse_ms'],
    ...['speedup', 'floor_ms', 'floor_pct', 'prefill_s'],
  ];
  const three = fixed(3);
  const show = {
    dense_ms: three,
    sparse_ms: three,
    speedup: two,
    floor_ms: three,
    floor_pct: one,
    prefill_s: three,
  };
  return {
    columns: columnsOf(keys, show),
    rows: rows.map((r) => [
      ...[r.shape, r.weights, r.contextTokens, r.budget ?? 'full', r.denseMs, r.sparseMs],
      ...[r.speedup, r.floorMs, r.floorPct, r.prefillS],
    ]),
  };
}

/** Ours beside a peer's time of the same dense work. */
export interface CompareRow {
  what: 'attention' | 'step';
  /** Heads or shape. */
  case: string;
  contextTokens: number;
  budget: number | undefined;
  unit: 'us' | 'ms';
  ours: number;
  peer: string | undefined;
  peerTime: number | undefined;
}

/** compare.csv. */
export function compareTable(rows: readonly CompareRow[]): Table {
  const keys = [
    'what',
    'case',
    'context_tokens',
    'budget_tokens',
    'unit',
    'ours',
    'peer',
    'peer_time',
    'times_faster',
  ];
  return {
    columns: columnsOf(keys, { ours: two, peer_time: two, times_faster: two }),
    rows: rows.map((r) => [
      ...[r.what, r.case, r.contextTokens, r.budget ?? 'full', r.unit, r.ours],
      ...(r.peerTime === undefined
        ? [undefined, undefined, undefined]
        : [r.peer, r.peerTime, r.peerTime / r.ours]),
    ]),
  };
}
