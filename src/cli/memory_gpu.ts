/** What a run needs on a GPU, by the numbers that the CUDA backend allocates by, and whether it fits. */
import { QuestError } from '../errors.js';
import type { ModelSpec } from '../model/index.js';
import type { NativeGpuMemoryPlan } from '../runtime/addon.js';
import { freeGpuMemory, planGpuMemory } from '../runtime/index.js';
import { describeMemory, formatBytes, type MemoryEstimate } from './memory.js';

/** The same run in the GPU's numbers: 16-bit keys and values, weights as they are uploaded, the reserve in the workspace. */
export function gpuEstimate(estimate: MemoryEstimate, plan: NativeGpuMemoryPlan): MemoryEstimate {
  const { pages, forkPages, pageSize } = estimate;
  const weights = plan.weightBytes;
  const kv = pages * plan.kvBytesPerPage;
  const metadata = pages * plan.metadataBytesPerPage;
  const forks = forkPages * (plan.kvBytesPerPage + plan.metadataBytesPerPage);
  const workspace = plan.workspaceBytes + plan.reservedBytes;
  const total = weights + kv + metadata + forks + workspace;
  return { weights, kv, metadata, forks, workspace, total, pages, forkPages, pageSize };
}

export interface GpuFit {
  estimate: MemoryEstimate;
  plan: NativeGpuMemoryPlan;
  freeBytes: number;
  fits: boolean;
}

/** Plans a run for a GPU with `freeBytes`. */
export function fitGpu(spec: ModelSpec, estimate: MemoryEstimate, freeBytes: number): GpuFit {
  const plan = planGpuMemory(spec, { pageSize: estimate.pageSize, freeBytes });
  const fits = estimate.pages + estimate.forkPages <= plan.pages;
  return { estimate: gpuEstimate(estimate, plan), plan, freeBytes, fits };
}

/** Plans a run for `cuda:N` as it is now; with `limit`, as if it had no more than that. */
export function fitDevice(
  spec: ModelSpec,
  estimate: MemoryEstimate,
  device: string,
  limit: number | undefined,
): GpuFit {
  return fitGpu(spec, estimate, Math.min(freeGpuMemory(device), limit ?? Number.POSITIVE_INFINITY));
}

/** Refuses a run that the GPU's cache will not hold, before anything is loaded. */
export function checkGpuMemory(device: string, fit: GpuFit, limit: number | undefined): void {
  if (fit.fits) return;
  const { plan, estimate, freeBytes } = fit;
  const limited = limit !== undefined && limit <= freeBytes;
  const holds = plan.pages * estimate.pageSize;
  const room =
    holds > 0
      ? `beside weights and workspace there is room for ${holds.toLocaleString('en-US')} tokens of all sequences`
      : 'weights and workspace leave no room for a cache';
  throw new QuestError(
    'E_MEMORY',
    `this run needs about ${describeMemory(estimate)} on ${device}; ${limited ? '--max-memory allows' : 'it has'} ${formatBytes(freeBytes)}${limited ? '' : ' free'}: ${room}`,
    {
      hint: 'use a shorter context, fewer methods or budgets, a smaller model, or --device cpu',
      exitCode: 3,
    },
  );
}
