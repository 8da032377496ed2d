/** Timing of single kernels on one device; whole models are timed through {@link Model}. */
import {
  addon,
  type DeviceInfo,
  type KernelCase,
  type KernelTime,
  type NativeKernelBench,
  type TimingRules,
} from './addon.js';
import { runJob } from './job.js';

export class KernelBench implements Disposable {
  private readonly native: NativeKernelBench;

  /** `device` is `cpu` or `cuda:N`; `threads` 0 means all cores. */
  constructor(device: string, threads: number) {
    this.native = addon().createKernelBench(device, threads);
  }

  get info(): DeviceInfo {
    return this.native.info;
  }

  /** What can be timed on this device. */
  get kernels(): string[] {
    return this.native.kernels;
  }

  /** Bytes per second of a kernel that only reads, over a range that no cache holds. */
  readBandwidth(signal?: AbortSignal): Promise<number> {
    return runJob(signal, (job) => this.native.readBandwidth(job));
  }

  /** Repeats one case until the noise is small enough or the time is over. */
  time(one: KernelCase, rules: TimingRules, signal?: AbortSignal): Promise<KernelTime> {
    return runJob(signal, (job) => this.native.time(job, one, rules));
  }

  dispose(): void {
    this.native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
