/** The plan of a GPU's memory, by the backend's own numbers. Needs a build with the CUDA backend, but no GPU. */
import { describe, expect, test } from 'vitest';
import { estimateMemory } from '../../src/cli/memory.js';
import { checkGpuMemory, fitGpu } from '../../src/cli/memory_gpu.js';
import { openCheckpoint } from '../../src/model/index.js';
import { addon } from '../../src/runtime/addon.js';
import { hasAddon, quest } from './spawn.js';

const hasCuda = hasAddon && addon().gpus().compiled;
if (!hasCuda) process.stderr.write('no CUDA backend in this build: its memory plan is not tested\n');
const GB = 2 ** 30;

describe.skipIf(!hasCuda)('the GPU plan', () => {
  const request = async (tokens: number, branches = 0) => {
    const { spec, weightBytes } = await openCheckpoint('quest-tiny');
    const shape = { spec, weightBytes, tokens, pageSize: 16, branches, branchTokens: 20, evictors: 0 };
    return { spec, estimate: estimateMemory(shape) };
  };

  test('keys and values take half of the CPU, and what is left is pages', async () => {
    const { spec, estimate } = await request(32768, 3);
    const { plan, estimate: gpu, fits } = fitGpu(spec, estimate, 4 * GB);
    expect(gpu.kv).toBe(estimate.kv / 2);
    expect(gpu.metadata).toBe(estimate.metadata / 2);
    expect(plan.kvBytesPerPage).toBe(16 * plan.metadataBytesPerPage);
    expect(gpu.forks).toBe(3 * 3 * 17 * plan.metadataBytesPerPage);
    expect(fits).toBe(true);
    const page = plan.kvBytesPerPage + plan.metadataBytesPerPage;
    expect(
      plan.weightBytes + plan.workspaceBytes + plan.reservedBytes + plan.pages * page,
    ).toBeLessThanOrEqual(4 * GB);
    // Eight whole contexts are enough for anybody.
    expect(fitGpu(spec, estimate, 80 * GB).plan.pages).toBe((8 * spec.maxContext) / 16);
  });

  test('a run that the cache will not hold is refused with the numbers', async () => {
    const { spec, estimate } = await request(32768, 20);
    const fit = fitGpu(spec, estimate, 800 * 2 ** 20);
    expect(fit.fits).toBe(false);
    expect(() => checkGpuMemory('cuda:0', fit, undefined)).toThrow(
      /this run needs about .* on cuda:0; it has 800 MB free: beside weights and workspace there is room for [\d,]+ tokens/,
    );
    const none = fitGpu(spec, estimate, 102 * 2 ** 20);
    expect(none.plan.pages).toBe(0);
    expect(() => checkGpuMemory('cuda:0', none, 102 * 2 ** 20)).toThrow(
      /--max-memory allows 102 MB.* no room for a cache/,
    );
  });

  test('quest model info --gpu-memory', async () => {
    const args = ['model', 'info', 'quest-tiny', '--gpu-memory', '1G', '--batch', '8', '--format', 'json'];
    const { stdout, stderr } = await quest(args);
    const rows = JSON.parse(stdout);
    const row = rows.at(-1);
    expect(row).toMatchObject({
      device: 'a GPU with 1.0 GB',
      available_bytes: GB,
      context_tokens: 32768,
      batch: 8,
    });
    expect(row.total_bytes).toBeGreaterThan(GB);
    expect(row.longest_context_tokens).toBeLessThan(32768);
    expect(row.longest_context_tokens % 16).toBe(0);
    expect(stderr).toMatch(/^a GPU with 1\.0 GB: 8 times 32768 tokens need .*; 8 times \d+ tokens fit$/m);
  });
});

test.skipIf(!hasAddon || hasCuda)('without the CUDA backend a GPU cannot be planned for', async () => {
  const { code, stderr } = await quest(['model', 'info', 'quest-tiny', '--gpu-memory', '80G']);
  expect(code).toBe(3);
  expect(stderr).toMatch(/^error: the GPU's memory cannot be planned: this build has no CUDA backend$/m);
});
