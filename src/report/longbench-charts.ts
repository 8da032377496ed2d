/** LongBench as pictures: score over the KV budget, one chart per task, and all of them in one figure like the paper's Figure 7. */
import type { TopLevelSpec } from 'vega-lite';
import { plural } from '../words.js';
import { dataTitle, isSample, type LongBenchReport, type LongBenchTaskResult } from './longbench.js';
import { methodScales, OURS, sourceDash } from './look.js';

const PAPER = 'paper, Figure 7';
/** Two standard errors to each side, about a 95% interval. */
const ERRORS = 1.96;

interface Point {
  method: string;
  budget: number;
  score: number;
  lo: number | null;
  hi: number | null;
  source: string;
  /** A method without a budget: a level line without points. */
  level: boolean;
}

interface Axes {
  low: number;
  high: number;
  budgets: number[];
}

/** Budgets of all tasks; a task that only ran dense methods still needs an axis. */
function axesOf(report: LongBenchReport): Axes {
  const all = report.tasks.flatMap(({ cells }) => cells.flatMap(({ cell }) => cell.budgetTokens ?? []));
  const budgets = [...new Set(all)].sort((a, b) => a - b);
  return { budgets, low: (budgets[0] ?? 1) / 1.3, high: (budgets.at(-1) ?? 1) * 1.3 };
}

function points(report: LongBenchReport, result: LongBenchTaskResult, axes: Axes): Point[] {
  const labels = [
    ...new Set(result.cells.flatMap(({ cell }) => (cell.budgetTokens === undefined ? [] : cell.label))),
  ];
  return result.cells.flatMap(({ cell, all }): Point[] => {
    const { label: method, budgetTokens } = cell;
    const paper = report.paper?.score(result.task, cell.method, budgetTokens);
    const bare = { method, lo: null, hi: null };
    if (budgetTokens === undefined) {
      const line = (score: number, source: string): Point[] =>
        [axes.low, axes.high].map((budget) => ({ ...bare, score, source, level: true, budget }));
      return [...line(all.score, OURS), ...(paper === undefined ? [] : line(paper, PAPER))];
    }
    // Methods are moved a little sideways, so that equal scores stay visible.
    const budget = budgetTokens * 1.045 ** (labels.indexOf(method) - (labels.length - 1) / 2);
    const [lo, hi] = [all.score - ERRORS * all.stderr, all.score + ERRORS * all.stderr];
    return [
      {
        method,
        budget,
        score: all.score,
        lo: Math.max(0, lo),
        hi: Math.min(100, hi),
        source: OURS,
        level: false,
      },
      ...(paper === undefined ? [] : [{ ...bare, budget, score: paper, source: PAPER, level: false }]),
    ];
  });
}

function panel(
  report: LongBenchReport,
  result: LongBenchTaskResult,
  axes: Axes,
  size: { width: number; height: number },
) {
  const values = points(report, result, axes);
  const labels = [...new Set(report.tasks.flatMap(({ cells }) => cells.map(({ cell }) => cell.label)))];
  const scales = methodScales(labels);
  const hasPaper = report.paper !== undefined;
  const x = {
    field: 'budget',
    type: 'quantitative',
    title: 'token budget (log scale)',
    scale: { type: 'log', base: 2, domain: [axes.low, axes.high], nice: false },
    axis: { values: axes.budgets, format: 'd', labelOverlap: true },
  };
  const y = {
    field: 'score',
    type: 'quantitative',
    title: `${result.metric} x 100`,
    scale: { domain: [-3, 103], nice: false, zero: false },
    axis: { values: [0, 20, 40, 60, 80, 100] },
  };
  const color = {
    field: 'method',
    type: 'nominal',
    title: 'method',
    sort: null,
    scale: scales.color,
    legend: { symbolOpacity: 1 },
  };
  const shape = { ...color, scale: scales.shape };
  const strokeDash = sourceDash(PAPER, hasPaper);
  const dots = (source: string, filled: boolean) => ({
    transform: [{ filter: `!datum.level && datum.source === '${source}'` }],
    mark: { type: 'point', filled, size: 60, opacity: 1, ...(filled ? {} : { fill: 'white' }) },
    encoding: { x, y, color, shape },
  });
  return {
    ...size,
    data: { values },
    layer: [
      { mark: { type: 'line', strokeWidth: 2 }, encoding: { x, y, color, strokeDash } },
      {
        transform: [{ filter: 'datum.lo !== null' }],
        mark: { type: 'rule', strokeWidth: 1.2, opacity: 0.45 },
        encoding: { x, y: { ...y, field: 'lo' }, y2: { field: 'hi' }, color },
      },
      ...(hasPaper ? [dots(PAPER, false)] : []),
      dots(OURS, true),
    ],
  };
}

const subtitle = (report: LongBenchReport, samples: string): string =>
  `${report.modelName}, ${dataTitle(report)}, ${samples}; bars are 95% intervals`;

/** Score of one task over the token budget, one line per method; `full` is a level line, the paper is dashed. */
export function taskChart(report: LongBenchReport, result: LongBenchTaskResult): TopLevelSpec {
  const name = isSample(report) ? `sample of ${result.title}` : result.title;
  return {
    title: {
      text: `${name}: ${result.metric} over KV budget`,
      subtitle: subtitle(report, plural(result.samples, 'sample')),
    },
    ...panel(report, result, axesOf(report), { width: 520, height: 320 }),
  } as unknown as TopLevelSpec;
}

/** All tasks side by side, in the shape of Figure 7. */
export function allTasksChart(report: LongBenchReport): TopLevelSpec {
  const axes = axesOf(report);
  const total = report.tasks.reduce((sum, { samples }) => sum + samples, 0);
  return {
    title: {
      text: `${isSample(report) ? 'Sample' : 'LongBench'}: score over KV budget`,
      subtitle: subtitle(report, `${plural(report.tasks.length, 'task')}, ${plural(total, 'sample')}`),
    },
    columns: 3,
    bounds: 'flush',
    spacing: { row: 84, column: 64 },
    concat: report.tasks.map((result) => ({
      title: { text: result.title, anchor: 'middle', frame: 'group', fontSize: 12, offset: 6 },
      ...panel(report, result, axes, { width: 230, height: 170 }),
    })),
    resolve: { scale: { color: 'shared', shape: 'shared', strokeDash: 'shared' } },
  } as unknown as TopLevelSpec;
}
