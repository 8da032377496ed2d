/** Models and sequences: the only way in which the rest of the program runs a network. */
import type { ModelSpec } from '../model/spec.js';
import {
  addon,
  type Counters,
  type DeviceInfo,
  type FeedResult,
  type GenerateOptions,
  type MethodOptions,
  type NativeGpuMemoryPlan,
  type NativeModel,
  type NativeModelInfo,
  type NativeSequence,
} from './addon.js';
import { ignore, type JobOptions, runJob } from './job.js';

export type {
  Counters,
  DeviceInfo,
  FeedResult,
  GenerateOptions,
  MethodOptions,
  NativeModelInfo,
} from './addon.js';

import { plural } from '../words.js';

export type { JobOptions } from './job.js';

/** What `--device` means for a model; `note` says why `auto` does not take a GPU that is there. */
export const chooseDevice = (spec: ModelSpec, device: string): { device: string; note?: string } =>
  addon().chooseDevice(spec, device);

/** Bytes that `cuda:N` has free now. */
export function freeGpuMemory(device: string): number {
  const index = Number(device.slice('cuda:'.length));
  return addon()
    .gpus()
    .gpus.find((gpu) => gpu.index === index)!.freeBytes;
}

/** How the memory of a GPU with `freeBytes` would be divided; the loader goes by the same numbers. */
export const planGpuMemory = (
  spec: ModelSpec,
  options: { pageSize: number; freeBytes: number },
): NativeGpuMemoryPlan => addon().planGpuMemory(spec, options);

/** `cuda:0, NVIDIA H100 80GB HBM3, cuBLAS` or `cpu, avx2, 8 threads`. */
export const describeDevice = ({ device, gpu, simd, threads }: DeviceInfo): string =>
  gpu === undefined ? `${device}, ${simd}, ${plural(threads!, 'thread')}` : `${device}, ${gpu}`;

/** One branch: a paged KV cache (shared with its forks) and the method that reads it. */
export class Sequence implements Disposable {
  constructor(readonly native: NativeSequence) {}

  /** Tokens in the cache. */
  get length(): number {
    return this.native.length;
  }

  /** Appends `ids` densely, whatever the method, and keeps the last token's logits. `h2oPrefill` collects column sums for H2O. */
  prefill(ids: Int32Array, options: JobOptions & { h2oPrefill?: boolean } = {}): Promise<void> {
    return runJob(options.signal, (job) =>
      this.native.prefill(job, ids, options.h2oPrefill ?? false, options.onProgress ?? ignore),
    );
  }

  /** A branch that shares this one's pages (copy on write) and reads them with its own method; counters start at 0. */
  fork(method: MethodOptions): Sequence {
    return new Sequence(this.native.fork(method));
  }

  counters(): Counters {
    return this.native.counters();
  }

  dispose(): void {
    this.native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

export interface Feed {
  sequence: Sequence;
  ids: Int32Array;
  logits?: 'none' | 'last' | 'all';
  targets?: Int32Array;
  pages?: boolean;
  /** Measure the recall of this many highest-attention tokens (see `FeedItem`). */
  recallTop?: number;
}

export class Model implements Disposable {
  private constructor(
    private readonly native: NativeModel,
    readonly spec: ModelSpec,
  ) {}

  /** Loads the weights; `device` is `auto`, `cpu`, `cuda` or `cuda:N`, `threads` 0 means all cores. */
  static async load(
    spec: ModelSpec,
    options: { device: string; threads: number; signal?: AbortSignal },
  ): Promise<Model> {
    const native = await runJob(options.signal, (job) =>
      addon().loadModel(job, spec, { device: options.device, threads: options.threads }),
    );
    return new Model(native, spec);
  }

  get info(): NativeModelInfo {
    return this.native.info;
  }

  /** An empty dense sequence whose cache has pages of `pageSize` tokens. */
  createSequence(pageSize: number): Sequence {
    return new Sequence(this.native.createSequence(pageSize));
  }

  /** Feeds tokens as decode steps through each branch's method, all branches together, in parallel where that is exact. */
  feed(feeds: Feed[], options: JobOptions = {}): Promise<FeedResult[]> {
    const items = feeds.map(({ sequence, ids, logits, targets, pages, recallTop }) => ({
      sequence: sequence.native,
      ids,
      logits: logits ?? 'none',
      targets,
      pages: pages ?? false,
      recallTop,
    }));
    return runJob(options.signal, (job) => this.native.feed(job, items, options.onProgress ?? ignore));
  }

  /** Generates in lockstep from each branch's last logits until a stop id (not returned) or `maxTokens`. */
  generate(
    sequences: Sequence[],
    options: GenerateOptions & { signal?: AbortSignal; onToken?: (index: number, id: number) => void },
  ): Promise<Int32Array[]> {
    const natives = sequences.map((s) => s.native);
    return runJob(options.signal, (job) =>
      this.native.generate(job, natives, options, options.onToken ?? ignore),
    );
  }

  dispose(): void {
    this.native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
