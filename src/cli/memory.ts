/** What a run needs and what the machine has, before anything is loaded. */
import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { join } from 'node:path';
import { QuestError } from '../errors.js';
import type { ModelSpec } from '../model/index.js';

export interface MemoryRequest {
  spec: ModelSpec;
  weightBytes: number;
  /** The longest sequence, its decode steps included. */
  tokens: number;
  pageSize: number;
  branches: number;
  /** Tokens that each branch adds to the shared prefill. */
  branchTokens: number;
  /** Branches of evictors, which keep a list of tokens and scores. */
  evictors: number;
  /** Logits that come back to JavaScript. */
  extraBytes?: number;
}

export interface MemoryEstimate {
  weights: number;
  kv: number;
  metadata: number;
  forks: number;
  workspace: number;
  total: number;
  /** Pages of the shared prefill, and of all that branches add. */
  pages: number;
  forkPages: number;
  /** Tokens of a page. */
  pageSize: number;
}

/** Node, the binary, thread stacks and buffers that do not depend on the model. */
const BASE_BYTES = 120 * 2 ** 20;
const PREFILL_CHUNK = 512;

/** Adds up weights, KV cache, page metadata, forks and workspace; fp32 KV as on the CPU. */
export function estimateMemory(request: MemoryRequest): MemoryEstimate {
  const { spec, weightBytes, tokens, pageSize, branches, branchTokens, evictors } = request;
  // Keys and values of one token, all layers; a page's minimum and maximum cost as much.
  const kvToken = 2 * spec.nKvHeads * spec.headDim * 4 * spec.nLayers;
  const pages = Math.ceil(tokens / pageSize);
  const branchPages = Math.ceil(branchTokens / pageSize) + 1;
  const kv = pages * pageSize * kvToken;
  const metadata = pages * kvToken;
  const evictorLists = evictors * tokens * spec.nLayers * spec.nKvHeads * 8;
  const forkPages = branches * branchPages;
  const forks = forkPages * (pageSize + 1) * kvToken + evictorLists;
  const activations = PREFILL_CHUNK * 4 * (4 * spec.hidden + 3 * spec.nHeads * spec.headDim + 2 * spec.ffn);
  const logits = Math.max(1, branches) * spec.vocab * 4 * 2;
  const workspace = BASE_BYTES + activations + logits + (request.extraBytes ?? 0);
  return {
    weights: weightBytes,
    kv,
    metadata,
    forks,
    workspace,
    total: weightBytes + kv + metadata + forks + workspace,
    pages,
    forkPages,
    pageSize,
  };
}

function readNumber(path: string): number | undefined {
  try {
    const value = Number(readFileSync(path, 'utf8').trim()); // `max` is not a number
    return Number.isFinite(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function inactiveFile(path: string): number {
  try {
    return Number(/^(?:total_)?inactive_file (\d+)$/m.exec(readFileSync(path, 'utf8'))?.[1] ?? 0);
  } catch {
    return 0;
  }
}

/** What the control group of this process still allows, over both versions and all parents. */
function cgroupFree(): number {
  let groups: string[];
  try {
    groups = readFileSync('/proc/self/cgroup', 'utf8').trim().split('\n');
  } catch {
    return Number.POSITIVE_INFINITY;
  }
  let free = Number.POSITIVE_INFINITY;
  for (const line of groups) {
    const [, controllers, path] = line.split(':');
    const v2 = controllers === '';
    if (!v2 && !controllers?.split(',').includes('memory')) continue;
    const root = v2 ? '/sys/fs/cgroup' : '/sys/fs/cgroup/memory';
    const [limitFile, usedFile] = v2
      ? ['memory.max', 'memory.current']
      : ['memory.limit_in_bytes', 'memory.usage_in_bytes'];
    const parts = (path ?? '/').split('/').filter(Boolean);
    for (let depth = parts.length; depth >= 0; depth--) {
      const folder = join(root, ...parts.slice(0, depth));
      const limit = readNumber(join(folder, limitFile!));
      const used = readNumber(join(folder, usedFile!));
      if (limit === undefined || used === undefined) continue;
      free = Math.min(free, limit - used + inactiveFile(join(folder, 'memory.stat')));
    }
  }
  return Math.max(0, free);
}

/** Bytes that a new program can use: the system's own estimate, and the control group's limit. */
export function availableMemory(): number {
  let system = freemem();
  try {
    const found = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'));
    if (found !== null) system = Number(found[1]) * 1024;
  } catch {
    // not Linux
  }
  return Math.min(system, cgroupFree());
}

/** `1.5 GB`, in powers of two. */
export function formatBytes(bytes: number): string {
  if (bytes < 2 ** 20) return `${Math.ceil(bytes / 1024)} kB`;
  if (bytes < 2 ** 30) return `${Math.round(bytes / 2 ** 20)} MB`;
  return `${(bytes / 2 ** 30).toFixed(1)} GB`;
}

/** `weights 12 MB + KV 78 MB + ...`. */
export function describeMemory(estimate: MemoryEstimate): string {
  const { weights, kv, metadata, forks, workspace, total } = estimate;
  const parts = { weights, KV: kv, metadata, forks, workspace };
  const list = Object.entries(parts).map(([name, bytes]) => `${name} ${formatBytes(bytes)}`);
  return `${formatBytes(total)} (${list.join(', ')})`;
}

/** Refuses a run that cannot fit. */
export function checkMemory(estimate: MemoryEstimate, limit: number | undefined): void {
  const available = Math.min(availableMemory(), limit ?? Number.POSITIVE_INFINITY);
  if (estimate.total <= available) return;
  const limited = limit !== undefined && limit <= available;
  throw new QuestError(
    'E_MEMORY',
    `this run needs about ${describeMemory(estimate)}; ${limited ? '--max-memory allows' : 'this machine has'} ${formatBytes(available)}${limited ? '' : ' free'}`,
    { hint: 'use a shorter context, fewer methods or budgets, or a smaller model', exitCode: 3 },
  );
}
