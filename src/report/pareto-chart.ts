/** Score against KV bytes read as a picture: a panel for all that compares, the Pareto front as a line. */
import type { TopLevelSpec } from 'vega-lite';
import { methodLabel, methodScales, panelTitles } from './look.js';
import type { ParetoPanel, ParetoPoint } from './pareto.js';
import { textWidth } from './svg.js';

const [WIDTH, HEIGHT] = [340, 230];

/** From and to with some air around. */
function domain(values: readonly number[], ratio: boolean): [number, number] {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (ratio) return [low / 1.25, high * 1.25];
  const air = 0.1 * (high - low || Math.abs(high) || 10);
  return [low - 1.4 * air, high + air]; // labels stand below their points
}

interface Label {
  text: string;
  kvReadPct: number;
  score: number;
  dx: number;
  dy: number;
}

interface Box {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

const overlap = (a: Box, b: Box): boolean =>
  a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

const LABEL_SIZE = 10;

/**
 * Budgets beside the points of the front, where there is room: below, above, to the left. What finds none goes without; the
 * text beside the figure names every point of the front.
 */
export function frontLabels(
  points: readonly ParetoPoint[],
  place: (point: ParetoPoint) => { x: number; y: number },
): Label[] {
  const dot = 6;
  const taken = points.map(place).map(({ x, y }): Box => {
    return { left: x - dot, right: x + dot, top: y - dot, bottom: y + dot };
  });
  const front = points.filter((p) => p.front && p.budgetTokens !== undefined);
  return front.flatMap((point): Label[] => {
    const text = `${methodLabel(point.method)} ${point.budgetTokens}`;
    const width = textWidth({ fontSize: LABEL_SIZE }, text);
    const { x, y } = place(point);
    const [right, left] = [7, -7 - width];
    const offsets = [11, -11, 0, 22, -22].flatMap((dy) =>
      [right, left, -width / 2].map((dx) => ({ dx, dy })),
    );
    for (const { dx, dy } of offsets) {
      const half = LABEL_SIZE / 2 + 1;
      const box = { left: x + dx, right: x + dx + width, top: y + dy - half, bottom: y + dy + half };
      const inside = box.left >= 0 && box.right <= WIDTH && box.top >= 0 && box.bottom <= HEIGHT;
      if (!inside || taken.some((other) => overlap(box, other))) continue;
      taken.push(box);
      return [{ text, kvReadPct: point.kvReadPct, score: point.score, dx, dy }];
    }
    return [];
  });
}

/** Where a value stands between the ends of an axis, 0 to 1. */
function share(value: number, [low, high]: readonly [number, number], log: boolean): number {
  const of = log ? Math.log : (x: number) => x;
  return (of(value) - of(low)) / (of(high) - of(low));
}

function panelChart(panel: ParetoPanel, title: readonly string[], methods: readonly string[]) {
  const { points, metric, bestScore } = panel;
  const reads = points.map((p) => p.kvReadPct).filter((value) => value > 0);
  const log = reads.length === points.length && Math.min(...reads) < 8;
  const xDomain: [number, number] = log
    ? domain(reads, true)
    : [0, Math.max(105, ...reads.map((v) => v * 1.02))];
  const x = {
    field: 'kvReadPct',
    type: 'quantitative',
    title: `KV bytes read (% of full${log ? ', log scale' : ''})`,
    scale: { ...(log && { type: 'log' }), domain: xDomain, nice: false },
    axis: log ? { format: '~g', values: [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100] } : { tickCount: 6 },
  };
  const scores = points.map((p) => p.score);
  const yDomain: [number, number] =
    bestScore === undefined ? domain(scores, false) : [-0.1 * bestScore, 1.1 * bestScore];
  const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1].map((part) => part * (bestScore ?? 0));
  const y = {
    field: 'score',
    type: 'quantitative',
    title: metric,
    scale: { domain: yDomain, nice: false, zero: false },
    axis: {
      ...(bestScore === undefined ? { tickCount: 6 } : { values: ticks }),
      minExtent: 34, // aligns the panels
    },
  };
  const scales = methodScales(methods.map(methodLabel));
  const color = {
    field: 'label',
    type: 'nominal',
    title: 'method',
    sort: null,
    scale: scales.color,
    legend: { symbolOpacity: 1 },
  };
  const shape = { ...color, scale: scales.shape };
  const named = points.map((p) => ({ ...p, label: methodLabel(p.method) }));
  const front = named.filter((p) => p.front).sort((a, b) => a.kvReadPct - b.kvReadPct);
  const labels = frontLabels(points, (p) => ({
    x: WIDTH * share(p.kvReadPct, xDomain, log),
    y: HEIGHT * (1 - share(p.score, yDomain, false)),
  }));
  return {
    title: { text: title, anchor: 'start', frame: 'group', fontSize: 12, offset: 8 },
    width: WIDTH,
    height: HEIGHT,
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
      ...labels.map(({ text, dx, dy, ...point }) => ({
        data: { values: [point] },
        mark: {
          type: 'text',
          align: 'left',
          baseline: 'middle',
          dx,
          dy,
          fontSize: LABEL_SIZE,
          color: '#333',
          text,
        },
        encoding: { x, y },
      })),
    ],
  };
}

/** All panels, two in a row. Filled points are on the front. */
export function paretoChart(panels: readonly ParetoPanel[]): TopLevelSpec {
  const methods = [...new Set(panels.flatMap(({ points }) => points.map((p) => p.method)))];
  const titles = panelTitles(
    panels.map(({ title }) => title),
    WIDTH,
  );
  return {
    title: {
      text: 'Score against KV bytes read',
      subtitle: 'filled points are on the Pareto front (dashed): nothing reads less and scores as well',
    },
    columns: 2,
    bounds: 'flush',
    spacing: { row: 62 + (titles[0]?.height ?? 0), column: 72 },
    concat: panels.map((panel, i) => panelChart(panel, titles[i]!.lines, methods)),
    resolve: { scale: { color: 'shared', shape: 'shared', fill: 'shared' } },
  } as unknown as TopLevelSpec;
}
