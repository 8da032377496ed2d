/** Figures of benchmarks, shaped like the paper's: the estimate's cost (8), a sparse step's parts and speed-up (9), whole models (10). */
import type { TopLevelSpec } from 'vega-lite';
import type { E2eRow } from '../../eval/efficiency/e2e.js';
import type { AttentionRow } from '../../eval/efficiency/kernels.js';

const PARTS = [
  { part: 'estimate', color: '#edae49' },
  { part: 'top-k', color: '#00798c' },
  { part: 'attention', color: '#d1495b' },
  { part: 'dense', color: '#999999' },
] as const;
const BUDGET_COLORS = ['#a8dadc', '#77b6c4', '#3d7ea6', '#1d3557', '#0b1d33'];
const DENSE_COLOR = '#999999';

/** `32K`, or the number itself. */
const tokens = (n: number): string => (n % 1024 === 0 ? `${n / 1024}K` : String(n));

/** The same for an axis. */
const TOKENS_LABEL = "datum.value % 1024 == 0 ? datum.value / 1024 + 'K' : datum.value";

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];

const titled = (text: string, device: string, detail: string) => ({
  title: { text, subtitle: `${device}; ${detail}` },
});

/** Contexts along x, each doubling as far from the last. */
const contextAxis = (values: readonly { context: number }[]) => ({
  field: 'context',
  type: 'quantitative',
  title: 'context (tokens)',
  scale: { type: 'log', base: 2, nice: false },
  axis: { labelExpr: TOKENS_LABEL, values: unique(values.map((v) => v.context)) },
});

/** Figure 8, left: the estimate's time as a share of dense attention's, by context and page size. */
function estimateChart(rows: readonly AttentionRow[], device: string): TopLevelSpec {
  const values = rows.map((r) => ({
    heads: `${r.heads} heads`,
    context: r.contextTokens,
    page: String(r.pageSize),
    share: r.estimateUs / r.denseUs,
  }));
  const pages = unique(values.map((v) => v.page)).sort((a, b) => Number(a) - Number(b));
  return {
    ...titled(
      'Estimate beside dense attention',
      device,
      'time of the estimate as a share of dense attention of one layer',
    ),
    data: { values },
    facet: { column: { field: 'heads', title: null, sort: unique(values.map((v) => v.heads)) } },
    spec: {
      width: 340,
      height: 260,
      mark: { type: 'line', point: true },
      encoding: {
        x: contextAxis(values),
        y: { field: 'share', type: 'quantitative', title: 'estimate / dense', scale: { zero: true } },
        color: {
          field: 'page',
          type: 'nominal',
          title: 'page size',
          sort: pages,
          scale: { domain: pages, range: BUDGET_COLORS },
        },
      },
    },
  } as unknown as TopLevelSpec;
}

/** Figure 9: stacked parts of a sparse step beside the dense one, per context and budget. */
function breakdownChart(rows: readonly AttentionRow[], device: string): TopLevelSpec {
  const values = rows.flatMap((r) => {
    const place = { panel: `${r.heads} heads, ${tokens(r.contextTokens)}`, bar: tokens(r.budgetTokens) };
    const parts = [r.estimateUs, r.topkUs, r.attentionUs];
    const sparse = parts.map((us, i) => ({ ...place, part: PARTS[i]!.part as string, us, order: i }));
    return [...sparse, { ...place, bar: 'full', part: 'dense', us: r.denseUs, order: 3 }];
  });
  const seen = new Set<string>();
  const once = values.filter((v) => {
    const key = `${v.panel} ${v.bar} ${v.part}`;
    return seen.has(key) ? false : seen.add(key);
  });
  const bars = [
    ...unique(rows.map((r) => r.budgetTokens))
      .sort((a, b) => a - b)
      .map(tokens),
    'full',
  ];
  return {
    ...titled(
      'Attention of one layer',
      device,
      'parts timed one by one; attention.csv has the whole step as sparse_us',
    ),
    data: { values: once },
    facet: { field: 'panel', title: null, sort: unique(once.map((v) => v.panel)) },
    columns: Math.min(5, unique(rows.map((r) => r.contextTokens)).length),
    resolve: { scale: { y: 'independent' } },
    spec: {
      width: 150,
      height: 200,
      mark: 'bar',
      encoding: {
        x: { field: 'bar', type: 'nominal', title: 'budget (tokens)', sort: bars, axis: { labelAngle: 0 } },
        y: { field: 'us', type: 'quantitative', title: 'microseconds' },
        order: { field: 'order' },
        color: {
          field: 'part',
          type: 'nominal',
          title: null,
          scale: { domain: PARTS.map((p) => p.part), range: PARTS.map((p) => p.color) },
        },
      },
    },
  } as unknown as TopLevelSpec;
}

/** Figure 9, right: speed-up of the whole sparse step over the dense one. */
function speedupChart(rows: readonly AttentionRow[], device: string): TopLevelSpec {
  const values = rows.map((r) => ({
    heads: `${r.heads} heads`,
    context: r.contextTokens,
    budget: tokens(r.budgetTokens),
    speedup: r.speedup,
  }));
  const budgets = unique(rows.map((r) => r.budgetTokens))
    .sort((a, b) => a - b)
    .map(tokens);
  return {
    ...titled('Speed-up over dense attention', device, 'estimate, top-k and attention as one, one layer'),
    data: { values },
    facet: { column: { field: 'heads', title: null, sort: unique(values.map((v) => v.heads)) } },
    spec: {
      width: 340,
      height: 260,
      layer: [
        {
          mark: { type: 'line', point: true },
          encoding: {
            x: contextAxis(values),
            y: {
              field: 'speedup',
              type: 'quantitative',
              title: 'times faster than dense',
              scale: { zero: true },
            },
            color: {
              field: 'budget',
              type: 'nominal',
              title: 'budget',
              sort: budgets,
              scale: { domain: budgets, range: BUDGET_COLORS },
            },
          },
        },
        { mark: { type: 'rule', strokeDash: [4, 4], color: '#888' }, encoding: { y: { datum: 1 } } },
      ],
    },
  } as unknown as TopLevelSpec;
}

/** The figures of attention.csv by file name. Page sizes are told apart in the first only. */
export function kernelCharts(
  rows: readonly AttentionRow[],
  device: string,
): { name: string; spec: TopLevelSpec }[] {
  const pageSize = rows.some((r) => r.pageSize === 16) ? 16 : rows[0]!.pageSize;
  const shown = rows.filter((r) => r.pageSize === pageSize);
  return [
    { name: 'estimate', spec: estimateChart(rows, device) },
    { name: 'breakdown', spec: breakdownChart(shown, `${device}, page size ${pageSize}`) },
    { name: 'speedup', spec: speedupChart(shown, `${device}, page size ${pageSize}`) },
  ];
}

/** Figure 10: milliseconds per token by budget, one panel per model and kind of weights, one group of bars per context. */
export function e2eChart(rows: readonly E2eRow[], device: string): TopLevelSpec {
  // The floor of the dense step stands in the row of `full`, where there is one.
  const denseFloor = (r: E2eRow) =>
    rows.find(
      (other) =>
        other.budget === undefined &&
        other.shape === r.shape &&
        other.weights === r.weights &&
        other.contextTokens === r.contextTokens,
    )?.floorMs;
  const bars = (r: E2eRow) => [
    ...(r.sparseMs === undefined ? [] : [{ budget: tokens(r.budget!), ms: r.sparseMs, floor: r.floorMs }]),
    { budget: 'full', ms: r.denseMs, floor: denseFloor(r) },
  ];
  const seen = new Set<string>();
  const values = rows
    .flatMap((r) =>
      bars(r).map((bar) => ({ panel: `${r.shape}, ${r.weights}`, context: tokens(r.contextTokens), ...bar })),
    )
    .filter((v) => {
      const key = `${v.panel} ${v.context} ${v.budget}`;
      return seen.has(key) ? false : seen.add(key);
    });
  const numbers = unique(rows.flatMap((r) => r.budget ?? []))
    .sort((a, b) => a - b)
    .map(tokens);
  const budgets = [...numbers, 'full'];
  const colors = [...BUDGET_COLORS.slice(0, numbers.length), DENSE_COLOR];
  const x = {
    field: 'context',
    type: 'nominal',
    title: 'context (tokens)',
    sort: unique(rows.map((r) => r.contextTokens)).map(tokens),
    axis: { labelAngle: 0 },
  };
  return {
    ...titled(
      'Decode step of whole models',
      device,
      'random weights, batch 1; the black tick is the floor: the bytes at the read bandwidth',
    ),
    data: { values },
    facet: { column: { field: 'panel', title: null, sort: unique(values.map((v) => v.panel)) } },
    spec: {
      width: { step: 16 },
      height: 260,
      encoding: { x, xOffset: { field: 'budget', sort: budgets } },
      layer: [
        {
          mark: 'bar',
          encoding: {
            y: { field: 'ms', type: 'quantitative', title: 'milliseconds per token' },
            color: {
              field: 'budget',
              type: 'nominal',
              title: 'budget',
              sort: budgets,
              scale: { domain: budgets, range: colors },
            },
          },
        },
        {
          transform: [{ filter: 'isValid(datum.floor)' }],
          mark: { type: 'tick', color: 'black', thickness: 2, width: 12 },
          encoding: { y: { field: 'floor', type: 'quantitative' } },
        },
      ],
    },
  } as unknown as TopLevelSpec;
}
