import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { e2eRow } from '../../eval/efficiency/e2e.js';
import { attentionRows, type KernelAxes, kernelCases } from '../../eval/efficiency/kernels.js';
import { hasAddon, quest, temporaryFolder } from './spawn.js';

const AXES: KernelAxes = {
  kernels: ['dense', 'estimate', 'topk', 'attention', 'sparse'],
  contexts: [1024, 4096],
  budgets: [512, 1024],
  pageSizes: [8, 16],
  heads: ['8/2'],
};

describe('kernel cases', () => {
  test('one dense step and one estimate per layer, the rest per budget; a budget that covers the context is left out', () => {
    const cases = kernelCases(AXES);
    const count = (kernel: string, context: number) =>
      cases.filter(({ case: c }) => c.kernel === kernel && c.contextTokens === context).length;
    expect([count('dense', 1024), count('estimate', 1024), count('sparse', 1024)]).toEqual([2, 2, 2]);
    expect([count('dense', 4096), count('estimate', 4096), count('topk', 4096)]).toEqual([2, 2, 4]);
    expect(new Set(cases.map((one) => JSON.stringify(one))).size).toBe(cases.length);
  });

  test('rows put the parts of one place together and leave incomplete ones out', () => {
    const us: Record<string, number> = { dense: 100, estimate: 10, topk: 5, attention: 20, sparse: 25 };
    const timed = kernelCases(AXES).map((one) => {
      const medianUs = us[one.case.kernel]! * (one.case.pageSize === 8 ? 2 : 1);
      return { ...one, time: { medianUs, noisePct: 0, repeats: 1, bytes: 1e6, flops: 0 } };
    });
    const rows = attentionRows(timed, 1e11);
    expect(rows).toHaveLength(6);
    expect(
      rows.find((r) => r.contextTokens === 4096 && r.budgetTokens === 512 && r.pageSize === 8),
    ).toMatchObject({
      ...{
        heads: '8/2',
        denseUs: 200,
        estimateUs: 20,
        topkUs: 10,
        attentionUs: 40,
        sparseUs: 50,
        speedup: 4,
      },
      ...{ denseReadPct: expect.closeTo(5), sparseReadPct: expect.closeTo(20) },
    });
    const without = timed.filter(({ case: c }) => !(c.kernel === 'topk' && c.budgetTokens === 512));
    expect(attentionRows(without, 1e11)).toHaveLength(2);
  });

  test('a whole model beside its floor', () => {
    const time = (ms: number, bytes: number) => ({ prefillS: 1, ms, noisePct: 0, bytes });
    const place = { shape: 'tiny', weights: 'fp16', contextTokens: 4096, budget: 512 } as const;
    const row = e2eRow(place, time(10, 8e9), time(4, 2e9), 1e12);
    expect(row).toMatchObject({
      denseMs: 10,
      sparseMs: 4,
      speedup: 2.5,
      floorMs: 2,
      floorPct: 50,
      prefillS: 1,
    });
  });
});

describe.runIf(hasAddon)('quest bench', () => {
  const read = (folder: string, file: string) => readFileSync(join(folder, file), 'utf8');

  test('kernels: tables with the agreed columns, figures, a manifest; the same command reuses all rows', async () => {
    const out = join(temporaryFolder(), 'k');
    const args = [
      'bench',
      'kernels',
      '--device',
      'cpu',
      '--context',
      '1024,2048',
      '--budget',
      '256',
      '--heads',
      '4/2',
    ];
    const more = ['--seconds', '0', '--kernel', 'dense,estimate,topk,attention,sparse,gemv', '--out', out];
    const first = await quest([...args, ...more, '--format', 'csv']);
    expect(first.stderr).toContain('cases in');
    expect(first.code).toBe(0);
    const [header, ...rows] = read(out, 'attention.csv').trim().split('\n');
    expect(header).toBe(
      'heads,context_tokens,budget_tokens,page_size,dense_us,estimate_us,topk_us,attention_us,sparse_us,speedup,dense_read_pct,sparse_read_pct',
    );
    expect(rows.map((row) => row.split(',').slice(0, 4).join())).toEqual([
      '4/2,1024,256,16',
      '4/2,2048,256,16',
    ]);
    for (const row of rows)
      for (const value of row.split(',').slice(4)) expect(Number(value)).toBeGreaterThan(0);
    for (const figure of ['estimate', 'breakdown', 'speedup'])
      expect(read(out, `${figure}.svg`)).toContain('<svg');
    expect(read(out, 'kernels.csv')).toMatch(/\ngemv,qkv,/);
    const manifest = JSON.parse(read(out, 'manifest.json'));
    expect(manifest.read_gb_per_s).toBeGreaterThan(0);
    expect(manifest.runs[0].environment.device).toBe('cpu');
    const before = read(out, 'kernels.csv');
    const again = await quest([...args, ...more, '--format', 'csv']);
    expect(again.stderr).toContain('all cases were there');
    expect(again.stdout).toBe(first.stdout);
    expect(read(out, 'kernels.csv')).toBe(before);
  });

  test('e2e: a random model, dense and sparse from one prefill', async () => {
    const out = join(temporaryFolder(), 'e');
    const args = [
      '--context',
      '1024',
      '--budget',
      '128,full',
      '--steps',
      '4',
      '--repeats',
      '2',
      '--out',
      out,
    ];
    const { code, stdout } = await quest([
      'bench',
      'e2e',
      '--device',
      'cpu',
      '--shape',
      'tiny',
      ...args,
      '--format',
      'json',
    ]);
    expect(code).toBe(0);
    const rows = JSON.parse(stdout);
    expect(rows.map((row: { budget_tokens: unknown }) => row.budget_tokens)).toEqual([128, 'full']);
    expect(rows[0].speedup).toBeCloseTo(rows[0].dense_ms / rows[0].sparse_ms, 1);
    expect(read(out, 'e2e.csv').split('\n')[0]).toBe(
      'shape,weights,context_tokens,budget_tokens,dense_ms,sparse_ms,speedup,floor_ms,floor_pct,prefill_s',
    );
    expect(existsSync(join(out, 'e2e.svg'))).toBe(true);
  });

  test('e2e: a large model on a CPU says how long it would take', async () => {
    const args = ['--shape', 'llama2-7b', '--weights', 'int4', '--device', 'cpu', '--dry-run'];
    const plan = async (...more: string[]) => {
      const { code, stdout } = await quest(['bench', 'e2e', ...args, ...more]);
      expect(code).toBe(0);
      return stdout;
    };
    // A prefill of 1024 tokens alone is 14 Tflop.
    expect(await plan('--context', '1024')).toMatch(
      /^5 cases .* roughly (\d+:)?\d+:\d\d; --shape, .*shorter -> /,
    );
    expect(await plan('--context', '64', '--steps', '1', '--repeats', '1')).toMatch(/roughly 0:\d\d -> /);
  });

  test('compare: without the peers it says so and shows ours', async () => {
    const out = join(temporaryFolder(), 'c');
    const args = [
      '--context',
      '1024',
      '--budget',
      '128',
      '--heads',
      '4/2',
      '--seconds',
      '0',
      '--python',
      'no-such-python',
    ];
    const { code, stdout, stderr } = await quest([
      'bench',
      'compare',
      '--device',
      'cpu',
      ...args,
      '--out',
      out,
      '--format',
      'csv',
    ]);
    expect(code).toBe(0);
    expect(stderr).toContain('the peers were not timed: no-such-python');
    expect(stdout.trim().split('\n')).toHaveLength(3);
  });

  test('what cannot be is refused before anything is written', async () => {
    const cases: [string[], number, RegExp][] = [
      [['bench', 'speed'], 2, /there is no benchmark "speed"/],
      [['bench', 'kernels', '--steps', '3'], 2, /--steps belongs to quest bench e2e and compare/],
      [['bench', 'kernels', '--heads', '8/3'], 2, /--heads wants query heads \/ KV heads, got "8\/3"/],
      [['bench', 'kernels', '--budget', 'full'], 2, /--budget wants whole numbers of at least 1, got "full"/],
      [['bench', 'kernels', '--device', 'cpu', '--kernel', 'append'], 2, /append is not timed on cpu/],
      [
        ['bench', 'kernels', '--device', 'cpu', '--context', '64', '--budget', '128', '--kernel', 'sparse'],
        2,
        /nothing to time/,
      ],
    ];
    for (const [args, code, message] of cases) {
      const cwd = temporaryFolder();
      const result = await quest(args, { cwd });
      expect([args.join(' '), result.code]).toEqual([args.join(' '), code]);
      expect(result.stderr).toMatch(message);
      expect(existsSync(join(cwd, 'runs'))).toBe(false);
    }
  });
});
