/** A sweep as a picture: a panel per task, model and context with the score over the budget. */
import type { TopLevelSpec } from 'vega-lite';
import { methodLabel, methodScales } from './look.js';
import type { SweepPanel } from './sweep.js';

/** A page holds no more; the table has them all. */
const MOST_PANELS = 24;

function panelChart(panel: SweepPanel, methods: readonly string[], legend: boolean) {
  const named = panel.points.map((p) => ({ ...p, label: methodLabel(p.method) }));
  const lines = named.filter((p) => p.budgetTokens !== undefined);
  const dense = named.filter((p) => p.budgetTokens === undefined);
  const budgets = [...new Set(lines.map((p) => p.budgetTokens!))].sort((a, b) => a - b);
  const scales = methodScales(methods.map(methodLabel));
  const percent = panel.metric === 'accuracy (%)';
  const y = {
    field: 'score',
    type: 'quantitative',
    title: panel.metric,
    scale: percent ? { domain: [0, 100] } : { zero: !panel.lowerIsBetter },
    axis: { tickCount: 5 },
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
    legend: legend ? { symbolOpacity: 1, symbolStrokeWidth: 2 } : null,
  };
  const shape = { ...color, scale: scales.shape };
  return {
    title: { text: panel.title, anchor: 'start', fontSize: 12, offset: 8, limit: 320 },
    width: 270,
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
  const more = drawn.length > shown.length ? `; the first ${shown.length} of ${drawn.length} panels` : '';
  return {
    title: {
      text: 'Score over the KV budget',
      subtitle: `dotted: full, which has no budget; means over seeds${more}`,
    },
    columns: 3,
    spacing: { row: 28, column: 36 },
    concat: shown.map((panel, i) => panelChart(panel, methods, i === 0)),
  } as unknown as TopLevelSpec;
}
