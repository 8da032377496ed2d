/** The passkey experiment as pictures: accuracy over budget, and depth x budget heat maps, both on the scale of Table 1. */
import type { TopLevelSpec } from 'vega-lite';
import { plural } from '../words.js';
import { methodScales, OURS, sourceDash } from './look.js';
import type { PasskeyReport } from './passkey.js';
import type { SampleResult } from './rows.js';

const subtitle = (report: PasskeyReport): string =>
  `${report.modelName}, ${report.contextTokens.toLocaleString('en-US')} tokens of context, ${plural(report.cells[0]?.samples ?? 0, 'sample')}`;

const paperName = ({ paper }: PasskeyReport): string =>
  `paper, Table 1${paper?.otherModel === undefined ? '' : ` (${paper.otherModel})`}`;

interface Point {
  method: string;
  budget: number;
  accuracy: number;
  lo: number | null;
  hi: number | null;
  source: string;
  /** A method without a budget: a level line without points. */
  level: boolean;
}

/** Points of one method are moved a little sideways, so that methods with equal accuracy stay visible. */
function accuracyPoints(report: PasskeyReport, labels: string[], low: number, high: number): Point[] {
  const shifted = labels.filter((label) =>
    report.cells.some((c) => c.label === label && c.budgetTokens !== undefined),
  );
  return report.cells.flatMap((cell) => {
    if (cell.budgetTokens === undefined) {
      const level = {
        method: cell.label,
        accuracy: cell.scorePct,
        lo: null,
        hi: null,
        source: OURS,
        level: true,
      };
      return [
        { ...level, budget: low / 1.3 },
        { ...level, budget: high * 1.3 },
      ];
    }
    const place = shifted.indexOf(cell.label) - (shifted.length - 1) / 2;
    const base = { method: cell.label, budget: cell.budgetTokens * 1.045 ** place, level: false };
    const paper = report.paper?.accuracyPct(cell.method, cell.budgetTokens);
    const [lo, hi] = cell.ci95;
    return [
      { ...base, accuracy: cell.scorePct, lo, hi, source: OURS },
      ...(paper === undefined
        ? []
        : [{ ...base, accuracy: paper, lo: null, hi: null, source: paperName(report) }]),
    ];
  });
}

/** Accuracy over the token budget, one line per method with 95% intervals; `full` is a level line, the paper is dashed. */
export function accuracyChart(report: PasskeyReport): TopLevelSpec {
  const labels = [...new Set(report.cells.map((c) => c.label))];
  const budgets = [...new Set(report.cells.flatMap((c) => c.budgetTokens ?? []))].sort((a, b) => a - b);
  const [low, high] = [budgets[0] ?? 1, budgets.at(-1) ?? 1];
  const scales = methodScales(labels);
  const values = accuracyPoints(report, labels, low, high);
  const paper = paperName(report);
  const hasPaper = values.some((v) => v.source === paper);
  const x = {
    field: 'budget',
    type: 'quantitative',
    title: 'token budget (log scale)',
    scale: { type: 'log', base: 2, domain: [low / 1.3, high * 1.3], nice: false },
    axis: { values: budgets, format: 'd' },
  };
  const y = {
    field: 'accuracy',
    type: 'quantitative',
    title: 'accuracy (%)',
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
  const strokeDash = sourceDash(paper, hasPaper, { labelLimit: 240 });
  const points = (source: string, filled: boolean) => ({
    transform: [{ filter: `!datum.level && datum.source === '${source}'` }],
    mark: { type: 'point', filled, size: 70, opacity: 1, ...(filled ? {} : { fill: 'white' }) },
    encoding: { x, y, color, shape },
  });
  return {
    title: {
      text: 'Passkey retrieval: accuracy over KV budget',
      subtitle: `${subtitle(report)} per method and budget; bars are 95% intervals`,
    },
    width: 560,
    height: 340,
    data: { values },
    layer: [
      { mark: { type: 'line', strokeWidth: 2 }, encoding: { x, y, color, strokeDash } },
      {
        transform: [{ filter: 'datum.lo !== null' }],
        mark: { type: 'rule', strokeWidth: 1.2, opacity: 0.55 },
        encoding: { x, y: { ...y, field: 'lo' }, y2: { field: 'hi' }, color },
      },
      ...(hasPaper ? [points(paper, false)] : []),
      points(OURS, true),
    ],
  } as unknown as TopLevelSpec;
}

/** One panel per method: rows are depths of the key, columns budgets, colour the accuracy from 0 to 100. */
export function depthChart(report: PasskeyReport, samples: readonly SampleResult[]): TopLevelSpec {
  const depths = [...new Set(samples.map((s) => s.depthPct))].sort((a, b) => a - b);
  // More depths than rows that can be read: gather them in bands of ten percent.
  const banded = depths.length > 12;
  const band = (depth: number): string => {
    if (!banded) return `${depth}`;
    const top = Math.min(100, Math.max(10, Math.ceil(depth / 10) * 10));
    return `${top - 10}-${top}`;
  };
  const groups = new Map<
    string,
    { label: string; budget: string; depth: string; hits: number; count: number }
  >();
  for (const sample of samples) {
    const budget = sample.budgetTokens === undefined ? 'all' : String(sample.budgetTokens);
    const depth = band(sample.depthPct);
    const key = JSON.stringify([sample.label, budget, depth]);
    const group = groups.get(key) ?? { label: sample.label, budget, depth, hits: 0, count: 0 };
    group.hits += sample.score;
    group.count += 1;
    groups.set(key, group);
  }
  const values = [...groups.values()].map((g) => ({ ...g, accuracy: (100 * g.hits) / g.count }));
  const depthOrder = [...new Set(depths.map(band))];
  const labels = [...new Set(samples.map((s) => s.label))];
  // Room for the axis titles, which would run into those of the next panel.
  const [width, height] = [34, Math.max(26, 140 / depthOrder.length)];
  const counts = values.map(({ count }) => count);
  const [fewest, most] = [Math.min(...counts), Math.max(...counts)];
  const each = fewest === most ? `${most}` : `${fewest} to ${most}`;
  const panels = labels.map((label, index) => {
    const own = values.filter((v) => v.label === label);
    const budgets = [...new Set(own.map((v) => v.budget))];
    return {
      title: { text: label, anchor: 'middle' as const, frame: 'group' as const, fontSize: 12, offset: 8 },
      width: Math.max(budgets.length * width, 104),
      height: depthOrder.length * height,
      data: { values: own },
      layer: [
        {
          mark: { type: 'rect' as const, stroke: 'white', strokeWidth: 1 },
          encoding: {
            color: {
              field: 'accuracy',
              type: 'quantitative' as const,
              title: 'accuracy (%)',
              scale: { domain: [0, 50, 100], range: ['#b2182b', '#fddc8c', '#1a7f4b'] },
              legend:
                index === 0
                  ? {
                      gradientLength: Math.min(220, depthOrder.length * height),
                      values: [0, 25, 50, 75, 100],
                    }
                  : null,
            },
          },
        },
        {
          mark: { type: 'text' as const, fontSize: 10.5 },
          encoding: {
            text: { field: 'accuracy', type: 'quantitative' as const, format: '.0f' },
            color: {
              condition: { test: 'datum.accuracy > 20 && datum.accuracy < 80', value: '#333' },
              value: 'white',
            },
          },
        },
      ],
      encoding: {
        x: {
          field: 'budget',
          type: 'ordinal' as const,
          sort: budgets,
          title: budgets.length === 1 && budgets[0] === 'all' ? 'no budget' : 'budget (tokens)',
          axis: { labelAngle: budgets.length > 1 ? -45 : 0, domain: false, ticks: false },
        },
        y: {
          field: 'depth',
          type: 'ordinal' as const,
          sort: depthOrder,
          title: index === 0 ? 'depth of the key (%)' : null,
          axis: index === 0 ? { domain: false, ticks: false } : null,
        },
      },
    };
  });
  return {
    title: {
      text: 'Passkey retrieval: accuracy by depth and KV budget',
      subtitle: `${subtitle(report)}, ${each} in each field`,
    },
    hconcat: panels,
    bounds: 'flush',
    spacing: 14,
    resolve: { scale: { color: 'shared' } },
  } as unknown as TopLevelSpec;
}
