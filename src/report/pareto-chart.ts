/** Score against KV bytes read as a picture: a panel per model and task, the Pareto front as a line. */
import type { TopLevelSpec } from 'vega-lite';
import { methodLabel, methodScales } from './look.js';
import type { ParetoPanel, ParetoPoint } from './pareto.js';

/** From and to with some air around. */
function domain(values: readonly number[], ratio: boolean): [number, number] {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (ratio) return [low / 1.25, high * 1.25];
  const air = 0.1 * (high - low || Math.abs(high) || 10);
  return [low - 1.4 * air, high + air]; // labels stand below their points
}

/** Budgets are written beside the points of the front, once where points coincide. */
function frontLabels(points: readonly ParetoPoint[]): (ParetoPoint & { text: string })[] {
  return points
    .filter((p) => p.front && p.budgetTokens !== undefined)
    .map((p) => ({ ...p, text: `${methodLabel(p.method)} ${p.budgetTokens}` }));
}

function panelChart(panel: ParetoPanel, methods: readonly string[], legend: boolean) {
  const { points, title, metric } = panel;
  const reads = points.map((p) => p.kvReadPct).filter((value) => value > 0);
  const log = reads.length === points.length && Math.min(...reads) < 8;
  const x = {
    field: 'kvReadPct',
    type: 'quantitative',
    title: `KV bytes read (% of full${log ? ', log scale' : ''})`,
    scale: log
      ? { type: 'log', domain: domain(reads, true), nice: false }
      : { domain: [0, Math.max(105, ...reads.map((v) => v * 1.02))], nice: false },
    axis: log ? { format: '~g', values: [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100] } : { tickCount: 6 },
  };
  const scores = points.map((p) => p.score);
  const y = {
    field: 'score',
    type: 'quantitative',
    title: metric,
    scale: {
      domain: metric === 'accuracy (%)' ? [-14, 105] : domain(scores, false),
      nice: false,
      zero: false,
    },
    axis: {
      tickCount: 6,
      ...(Math.min(...scores) >= 0 && { labelExpr: "datum.value < 0 ? '' : datum.label" }),
    },
  };
  const scales = methodScales(methods.map(methodLabel));
  const color = {
    field: 'label',
    type: 'nominal',
    title: 'method',
    sort: null,
    scale: scales.color,
    legend: legend ? { symbolOpacity: 1 } : null,
  };
  const shape = { ...color, scale: scales.shape };
  const named = points.map((p) => ({ ...p, label: methodLabel(p.method) }));
  const front = named.filter((p) => p.front).sort((a, b) => a.kvReadPct - b.kvReadPct);
  return {
    title: { text: title, anchor: 'start', fontSize: 12, offset: 8, limit: 400 },
    width: 340,
    height: 230,
    layer: [
      {
        data: { values: front },
        mark: {
          type: 'line',
          interpolate: 'step-after',
          color: '#999',
          strokeWidth: 1.5,
          strokeDash: [5, 3],
        },
        encoding: { x, y },
      },
      {
        data: { values: named },
        mark: { type: 'point', size: 60, strokeWidth: 1.6, opacity: 0.9 },
        encoding: {
          x,
          y,
          color,
          shape,
          fillOpacity: { condition: { test: 'datum.front', value: 1 }, value: 0 },
          fill: { ...color, legend: null },
        },
      },
      {
        data: { values: frontLabels(points) },
        mark: { type: 'text', align: 'left', dx: 7, dy: 11, fontSize: 10, color: '#333' },
        encoding: { x, y, text: { field: 'text', type: 'nominal' } },
      },
    ],
  };
}

/** All panels, two in a row. Filled points are on the front. */
export function paretoChart(panels: readonly ParetoPanel[]): TopLevelSpec {
  const methods = [...new Set(panels.flatMap(({ points }) => points.map((p) => p.method)))];
  return {
    title: {
      text: 'Score against KV bytes read',
      subtitle: 'filled points are on the Pareto front (dashed): nothing reads less and scores as well',
    },
    columns: 2,
    spacing: { row: 30, column: 40 },
    concat: panels.map((panel, i) => panelChart(panel, methods, i === 0)),
  } as unknown as TopLevelSpec;
}
