/** A sweep as a picture: a panel per task, model and context with the score over the budget. */
import type { TopLevelSpec } from 'vega-lite';
import { methodLabel, methodScales, panelTitles } from './look.js';
import { type SweepPanel, sweepSeeds } from './sweep.js';

/** A page holds no more; the table has them all. */
const MOST_PANELS = 24;

const WIDTH = 270;

function panelChart(panel: SweepPanel, title: readonly string[], methods: readonly string[]) {
  const named = panel.points.map((p) => ({ ...p, label: methodLabel(p.method) }));
  const lines = named.filter((p) => p.budgetTokens !== undefined);
  const dense = named.filter((p) => p.budgetTokens === undefined);
  const budgets = [...new Set(lines.map((p) => p.budgetTokens!))].sort((a, b) => a - b);
  const scales = methodScales(methods.map(methodLabel));
  const y = {
    field: 'score',
    type: 'quantitative',
    title: panel.metric,
    scale:
      panel.bestScore === undefined
        ? { zero: !panel.lowerIsBetter }
        : { domain: [0, panel.bestScore], nice: false },
    axis: { tickCount: 5, minExtent: 34 }, // aligns the panels
  };
  const x = {
    field: 'budgetTokens',
    type: 'quantitative',
    title: 'budget (tokens)',
    scale: {
      type: 'log',
      base: 2,
      domain: [budgets[0]! / 1.25, budgets.at(-1)! * 1.25],
      nice: false,
    },
    axis: { values: budgets, format: 'd', labelOverlap: true },
  };
  const color = {
    field: 'label',
    type: 'nominal',
    title: 'method',
    sort: null,
    scale: scales.color,
    legend: { symbolOpacity: 1, symbolStrokeWidth: 2 },
  };
  const shape = { ...color, scale: scales.shape };
  return {
    title: { text: title, anchor: 'start', frame: 'group', fontSize: 12, offset: 8 },
    width: WIDTH,
    height: 180,
    layer: [
      {
        data: { values: dense },
        mark: { type: 'rule', strokeWidth: 1.5, strokeDash: [2, 3] },
        encoding: { y, color },
      },
      {
        data: { values: lines },
        mark: { type: 'line', strokeWidth: 2 },
        encoding: { x, y, color },
      },
      {
        data: { values: lines },
        mark: { type: 'point', size: 55, filled: true, opacity: 1 },
        encoding: { x, y, color, shape },
      },
    ],
  };
}

/** All panels with budgets, three in a row. Methods without a budget are dotted lines. Nothing where no panel has a budget. */
export function sweepChart(panels: readonly SweepPanel[]): TopLevelSpec | undefined {
  const drawn = panels.filter(({ points }) => points.some((p) => p.budgetTokens !== undefined));
  if (drawn.length === 0) return undefined;
  const shown = drawn.slice(0, MOST_PANELS);
  const methods = [...new Set(shown.flatMap(({ points }) => points.map((p) => p.method)))];
  const titles = panelTitles(
    shown.map(({ title }) => title),
    WIDTH,
  );
  const dense = shown.flatMap(({ points }) =>
    points.flatMap((p) => (p.budgetTokens === undefined ? methodLabel(p.method) : [])),
  );
  const notes = [
    ...(dense.length > 0 ? [`dotted: ${[...new Set(dense)].join(', ')}, without a budget`] : []),
    ...[sweepSeeds(shown) ?? []].flat(),
  ];
  const more = drawn.length > shown.length ? [`the first ${shown.length} of ${drawn.length} panels`] : [];
  return {
    title: {
      text: 'Score over the KV budget',
      subtitle: [...notes, ...more].join('; '),
    },
    columns: 3,
    bounds: 'flush',
    spacing: { row: 62 + titles[0]!.height, column: 72 },
    concat: shown.map((panel, i) => panelChart(panel, titles[i]!.lines, methods)),
    resolve: { scale: { color: 'shared', shape: 'shared' } },
  } as unknown as TopLevelSpec;
}
