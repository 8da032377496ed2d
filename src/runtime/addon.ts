/** Typed mirror of the native binary; the only file that loads it. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { QuestError } from '../errors.js';
import { packageRoot } from '../model/package_root.js';
import type { ModelSpec } from '../model/spec.js';

export type MethodName = 'full' | 'quest' | 'quest-paper' | 'streaming' | 'h2o' | 'tova' | 'oracle';
export type GroupMode = 'max' | 'mean' | 'head';

/** One branch's KV method, as spec'd in the paper and README. Budgets count tokens. */
export interface MethodOptions {
  method: MethodName;
  budgetTokens: number;
  skipLayers: number;
  group: GroupMode;
  sinks: number;
  h2oPrefill: boolean;
  /** The oracle takes whole pages by their highest logit, not single tokens. */
  oraclePages?: boolean;
  /** For analyses: the method acts in this layer alone, all others are dense. Absent: in every layer from `skipLayers` on. */
  onlyLayer?: number;
}

/** What a branch has read since its fork, summed over decode steps, layers and heads. */
export interface Counters {
  /** Tokens fed or generated as decode steps. */
  decodeSteps: number;
  /** Decode steps in which some layer attended fewer tokens than the cache held. */
  sparseSteps: number;
  /** (token, layer, query head) triples attended / held in the cache. */
  tokensAttended: number;
  tokensAvailable: number;
  /** The same in pages (a partly attended page counts as one). */
  pagesAttended: number;
  pagesAvailable: number;
  /** KV bytes read; a list shared by a group of query heads is read once. */
  kvBytes: number;
  metadataBytes: number;
  /** KV bytes that `full` would have read over the same steps. */
  denseKvBytes: number;
}

/** What computes: `cpu` with its threads and SIMD level, or `cuda:N` with the GPU's name and matrix library. */
export interface DeviceInfo {
  device: string;
  threads?: number;
  simd?: string;
  gpu?: string;
}

export interface NativeModelInfo extends DeviceInfo {
  weightBytes: number;
  /** All layers: K and V of one token, minima and maxima of one page. */
  kvBytesPerToken: number;
  metadataBytesPerPage: number;
}

export interface FeedItem {
  sequence: NativeSequence;
  ids: Int32Array;
  /** Rows of logits wanted. */
  logits: 'none' | 'last' | 'all';
  /** Negative log-likelihood of each target (ids shifted left by the caller); one per fed token, or absent. */
  targets?: Int32Array;
  /** Record the pages each query head attends (selectors only). */
  pages: boolean;
  /** Measure how many of this many highest-attention tokens each step attends. */
  recallTop?: number;
}

export interface FeedResult {
  /** [rows, vocab] fp32, absent for 'none'. */
  logits?: Float32Array;
  /** [ids.length] fp32 nats. */
  nll?: Float32Array;
  /** [steps * sparse layers, nHeads, width] int32 page indices; see methods: last page first for quest, sorted for quest-paper. -1 pads. */
  pages?: Int32Array;
  pagesWidth?: number;
  /** [ids.length, nLayers] fp32, 0 to 1: mean over query heads; 1 in dense layers. With `recallTop` only. */
  recall?: Float32Array;
}

export interface SamplingOptions {
  /** 0 is greedy. */
  temperature: number;
  topP: number;
  seed: number;
}

export interface GenerateOptions {
  maxTokens: number;
  stopIds: Int32Array;
  sampling: SamplingOptions;
}

/** Progress is coalesced: at most one call is queued at a time. `done` counts tokens. */
export type ProgressCallback = (done: number, total: number) => void;

export interface NativeSequence {
  readonly length: number;
  /** Dense; keeps the logits of the last token for `generate`. */
  prefill(job: NativeJob, ids: Int32Array, h2oPrefill: boolean, progress: ProgressCallback): Promise<void>;
  fork(options: MethodOptions): NativeSequence;
  counters(): Counters;
  dispose(): void;
}

/** A cancel flag shared with the native thread, checked per layer. A cancelled job rejects with code `E_CANCELLED`. */
export interface NativeJob {
  cancel(): void;
}

export interface NativeModel {
  readonly info: NativeModelInfo;
  createSequence(pageSize: number): NativeSequence;
  /** Tokens as decode steps through each sequence's method; in parallel where that is exact. Sequences must differ. */
  feed(job: NativeJob, items: FeedItem[], progress: ProgressCallback): Promise<FeedResult[]>;
  /** Lockstep generation from each sequence's last logits. `onToken(sequence index, id)` may lag behind. */
  generate(
    job: NativeJob,
    sequences: NativeSequence[],
    options: GenerateOptions,
    onToken: (index: number, id: number) => void,
  ): Promise<Int32Array[]>;
  dispose(): void;
}

export interface QuantizeOptions {
  /** Consecutive inputs that share a scale and a zero. */
  group: number;
  /** AWQ's search of scales; else round to nearest, without a calibration text. */
  activationAware: boolean;
  /** Of `activationAware`: cut large weights where that lowers the error. */
  clip: boolean;
  /** Tokens of the calibration text that see each other. */
  sequence: number;
  threads: number;
}

/** Error of outputs relative to their square: before a search, and with what it chose. */
export interface SearchError {
  before: number;
  after: number;
}

export interface QuantizedLayer {
  /** `attn_norm`, `q.weights`, `q.zeros`, `q.scales`, `q_bias`, ...: bytes in AutoAWQ's layout, 16-bit ones as fp16. */
  tensors: Record<string, Uint8Array>;
  /** `qkv`, `o`, `gate_up`, `down` of the scales, and `clip`; none without a search. */
  errors: Record<string, SearchError>;
}

export interface NativeQuantizer {
  /** Layer 0, 1, ... in order. */
  next(job: NativeJob, progress: ProgressCallback): Promise<QuantizedLayer>;
  /** Rows of `embed`, `norm` or `lm_head` as fp16 bytes. */
  plain(job: NativeJob, name: string, firstRow: number, rows: number): Promise<Uint8Array>;
  dispose(): void;
}

export interface NativeCpuInfo {
  /** SIMD levels this build has and this CPU runs, slowest first; `active` is the one in use. */
  levels: string[];
  active: string;
  cores: number;
}

export interface NativeGpu {
  index: number;
  name: string;
  memoryBytes: number;
  freeBytes: number;
  computeCapability: string;
  multiprocessors: number;
  /** Processes share it. */
  mps: boolean;
  /** Why it cannot be used. */
  problem?: string;
}

export interface NativeGpuReport {
  /** This build has the CUDA backend. */
  compiled: boolean;
  /** The newest CUDA version of the driver. */
  driver?: string;
  /** What multiplies matrices of many rows. */
  matrixLibrary?: string;
  /** Why there are no GPUs. */
  problem?: string;
  gpus: NativeGpu[];
}

/** How a GPU's memory would be divided; the loader and the cache go by the same numbers. */
export interface NativeGpuMemoryPlan {
  weightBytes: number;
  workspaceBytes: number;
  /** Stays free: scratch that grows on first use, the driver's own. */
  reservedBytes: number;
  /** Of one page over all layers. */
  kvBytesPerPage: number;
  metadataBytesPerPage: number;
  /** Pages of the cache, all sequences together. */
  pages: number;
}

/** One layer's work; see native/core/bench.h. */
export interface KernelCase {
  kernel: string;
  nHeads?: number;
  nKvHeads?: number;
  headDim?: number;
  contextTokens?: number;
  budgetTokens?: number;
  pageSize?: number;
  /** Matrix products and rows: [rows, k] by [n, k]. */
  rows?: number;
  n?: number;
  k?: number;
}

/** Repeats until the noise is small enough or the time is over. */
export interface TimingRules {
  minRepeats: number;
  noisePct: number;
  maxSeconds: number;
}

export interface KernelTime {
  medianUs: number;
  /** Half of the middle 80% of the repeats, in percent of the median. */
  noisePct: number;
  repeats: number;
  /** What the kernel must move and compute. */
  bytes: number;
  flops: number;
}

export interface NativeKernelBench {
  readonly info: NativeModelInfo;
  readonly kernels: string[];
  /** Bytes per second. */
  readBandwidth(job: NativeJob): Promise<number>;
  time(job: NativeJob, one: KernelCase, rules: TimingRules): Promise<KernelTime>;
  dispose(): void;
}

export interface NativeAddon {
  version: string;
  cpuInfo(): NativeCpuInfo;
  gpus(): NativeGpuReport;
  /** What `auto`, `cpu`, `cuda` or `cuda:N` means for a model; `note` says why `auto` does not take a GPU that is there. */
  chooseDevice(spec: ModelSpec, device: string): { device: string; note?: string };
  /** For a GPU with `freeBytes`, which need not be there. Throws E_DEVICE without the CUDA backend, E_UNSUPPORTED for its kernels' sake. */
  planGpuMemory(spec: ModelSpec, options: { pageSize: number; freeBytes: number }): NativeGpuMemoryPlan;
  createJob(): NativeJob;
  /** `device` is `cpu` or `cuda:N`. */
  createKernelBench(device: string, threads: number): NativeKernelBench;
  createQuantizer(
    job: NativeJob,
    spec: ModelSpec,
    calibration: Int32Array,
    options: QuantizeOptions,
  ): Promise<NativeQuantizer>;
  loadModel(
    job: NativeJob,
    spec: ModelSpec,
    options: { device: string; threads: number },
  ): Promise<NativeModel>;
}

let loaded: NativeAddon | undefined;

/** Loads the binary on first use, so that `--help` stays fast. QUEST_ADDON names another build of it. */
export function addon(): NativeAddon {
  if (loaded) return loaded;
  const require = createRequire(import.meta.url);
  const path = process.env.QUEST_ADDON || join(packageRoot(), 'native', 'build', 'Release', 'quest.node');
  try {
    loaded = require(path) as NativeAddon;
  } catch (cause) {
    throw new QuestError('E_ADDON', `the native runtime could not be loaded from ${path}`, {
      hint: 'build it with `npm run build:native` (needs CMake >= 3.22 and a C++20 compiler)',
      exitCode: 3,
      cause,
    });
  }
  return loaded;
}
