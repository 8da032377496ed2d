import { describe, expect, test } from 'vitest';
import { titleLines } from '../../src/report/look.js';
import type { ParetoPoint } from '../../src/report/pareto.js';
import { frontLabels, paretoChart } from '../../src/report/pareto-chart.js';
import { depthChart } from '../../src/report/passkey-charts.js';
import { renderSvg, textWidth } from '../../src/report/svg.js';
import { type SweepCell, sweepPanels, sweepWideTable } from '../../src/report/sweep.js';
import { sweepChart } from '../../src/report/sweep-chart.js';

const texts = (svg: string) => [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map((m) => m[1]!);

const cell = (more: Partial<SweepCell> = {}): SweepCell => ({
  task: 'passkey',
  data: undefined,
  model: 'quest-tiny',
  contextTokens: 600,
  seed: undefined,
  method: 'quest',
  budgetTokens: 64,
  samples: 4,
  score: 50,
  metric: 'accuracy (%)',
  lowerIsBetter: false,
  bestScore: 100,
  kvReadPct: 30,
  neverSparse: false,
  seconds: 1,
  unit: 'u',
  error: undefined,
  ...more,
});

describe('titles', () => {
  test.each([40, 90, 270])('fit %d pixels and lose nothing', (width) => {
    const text =
      'a-model-with-a-very-long-name/Instruct-v0.1: longbench/multifieldqa_en (sample), 16000 tokens';
    const lines = titleLines(text, width);
    for (const line of lines)
      expect(textWidth({ fontSize: 12, fontWeight: 'bold' }, line)).toBeLessThanOrEqual(width);
    expect(lines.join('').replaceAll(' ', '')).toBe(text.replaceAll(' ', ''));
  });

  test('of panels are never cut', async () => {
    const model = `${'a-very-long-organisation'.repeat(3)}/model`;
    const sweep = await renderSvg(
      sweepChart(sweepPanels([cell({ model }), cell({ model, contextTokens: 9 })]))!,
    );
    const points = [10, 20].map((kvReadPct) => ({
      method: 'quest',
      budgetTokens: 1,
      kvReadPct,
      score: 1,
      front: true,
    }));
    const panel = { title: model, metric: 'F1', lowerIsBetter: false, bestScore: 100, points };
    for (const svg of [sweep, await renderSvg(paretoChart([panel]))]) expect(svg).not.toContain('…');
    expect(sweep).toContain('/model: passkey, 600');
  });
});

describe('a sweep', () => {
  const chart = async (cells: SweepCell[]) => texts(await renderSvg(sweepChart(sweepPanels(cells))!));

  test('has a legend with one method too, and one of all panels', async () => {
    expect(await chart([cell(), cell({ budgetTokens: 128 })])).toEqual(
      expect.arrayContaining(['method', 'Quest']),
    );
    const other = cell({ contextTokens: 900, method: 'tova' });
    const both = await chart([cell(), other]);
    expect(both.filter((text) => ['method', 'Quest', 'TOVA'].includes(text))).toEqual([
      'Quest',
      'TOVA',
      'method',
    ]);
  });

  test('shows percentages from 0 to 100, whatever they are, and perplexity as it is', async () => {
    const scale = ['0', '20', '40', '60', '80', '100'];
    expect(await chart([cell({ metric: 'F1', score: 0 })])).toEqual(expect.arrayContaining(scale));
    expect(await chart([cell({ metric: 'F1', score: 47 })])).toEqual(expect.arrayContaining(scale));
    const ppl = cell({ metric: 'perplexity (lower is better)', bestScore: undefined, lowerIsBetter: true });
    expect(
      await chart([
        { ...ppl, score: 207 },
        { ...ppl, score: 211, budgetTokens: 32 },
      ]),
    ).not.toContain('100');
  });

  test('says of which tasks and over how many seeds scores are means', async () => {
    const seeds = [cell({ seed: 0 }), cell({ seed: 1 })];
    const words = (cells: SweepCell[]) => sweepWideTable(cells).notes;
    expect(words(seeds)).toEqual(['scores are means over 2 seeds']);
    expect(words([...seeds, cell({ task: 'ppl' })])).toEqual(['scores of passkey are means over 2 seeds']);
    expect(words([cell({ seed: 0 })])).toEqual([]);
    expect((await chart([cell({ seed: 0 })])).some((text) => /seed|dotted/.test(text))).toBe(false);
  });
});

describe('the depth of the key', () => {
  const samples = [25, 50, 75, 100, 100].flatMap((depthPct) =>
    [undefined, 64].map((budgetTokens) => ({
      label: budgetTokens === undefined ? 'Full' : 'StreamingLLM',
      budgetTokens,
      depthPct,
      score: 1,
    })),
  );
  const report = { modelName: 'm', contextTokens: 2000, cells: [{ samples: 5 }], paper: undefined };

  test('panels have room for their titles, however few budgets and depths there are', () => {
    const spec = depthChart(report as never, samples) as unknown as {
      hconcat: { width: number; height: number; encoding: { x: { title: string }; y: { title: string } } }[];
    };
    for (const { width, height, encoding } of spec.hconcat) {
      expect(width).toBeGreaterThanOrEqual(textWidth({ fontSize: 12 }, encoding.x.title));
      expect(height).toBeGreaterThanOrEqual(textWidth({ fontSize: 12 }, encoding.y.title ?? ''));
    }
  });

  test('the samples of a field are counted', async () => {
    const svg = await renderSvg(depthChart(report as never, samples));
    expect(texts(svg)).toContain('m, 2,000 tokens of context, 5 samples, 1 to 2 in each field');
  });
});

describe('labels of the Pareto front', () => {
  const at = (p: { kvReadPct: number; score: number }) => ({ x: 3 * p.kvReadPct, y: 230 - 2 * p.score });
  const point = (kvReadPct: number, score: number): ParetoPoint => ({
    method: 'streaming',
    budgetTokens: 64,
    kvReadPct,
    score,
    front: true,
  });

  test('overlap neither each other nor a point; what has no room is left out', () => {
    const points = Array.from({ length: 12 }, (_, i) => point(20 + i, 40 + i));
    const labels = frontLabels(points, at);
    expect(labels.length).toBeGreaterThan(2);
    expect(labels.length).toBeLessThan(12);
    const boxes = labels.map((label) => {
      const { x, y } = at(label);
      const width = textWidth({ fontSize: 10 }, label.text);
      return [x + label.dx, y + label.dy - 5, x + label.dx + width, y + label.dy + 5] as const;
    });
    for (const [i, a] of boxes.entries()) {
      expect([a[0] >= 0, a[2] <= 340]).toEqual([true, true]);
      for (const b of boxes.slice(i + 1))
        expect(a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]).toBe(false);
      for (const p of points.map(at))
        expect(a[0] < p.x && p.x < a[2] && a[1] < p.y && p.y < a[3]).toBe(false);
    }
  });

  test('a lone point at the edge is named inside of the panel', () => {
    const [label] = frontLabels([point(110, 100)], at);
    expect(label!.dx).toBeLessThan(0);
  });
});
