/** Running perplexity over positions, as in the paper's Figure 6: one panel per budget, one line per method. */
import type { TopLevelSpec } from 'vega-lite';
import { methodScales, OURS, sourceDash } from './look.js';
import { describeTexts, type PerplexityReport, pplToken } from './ppl.js';

const PAPER = 'paper, Figure 6';

interface Value {
  method: string;
  budget: number | undefined;
  position: number;
  ppl: number;
  /** Percent above the dense perplexity at the same position, where `full` is part of the run. */
  rise: number | undefined;
  source: string;
}

function values(report: PerplexityReport): Value[] {
  const full = report.total.find((s) => s.method === 'full');
  const above = (ppl: number, dense: number | undefined) =>
    dense === undefined ? undefined : 100 * (ppl / dense - 1);
  return report.total.flatMap((s) => {
    const base = { method: s.label, budget: s.budgetTokens };
    const ours = s.points
      .filter((p) => p.position !== undefined)
      .map((p) => {
        const dense = full?.points.find((other) => other.position === p.position);
        const rise = above(pplToken(p), dense && pplToken(dense));
        return { ...base, position: p.position!, ppl: pplToken(p), rise, source: OURS };
      });
    const paper = (report.paper?.tokens ?? []).flatMap((position) => {
      const ppl = report.paper?.ppl(s.method, s.budgetTokens, position);
      const rise = ppl && above(ppl, report.paper?.ppl('full', undefined, position));
      return ppl === undefined ? [] : [{ ...base, position, ppl, rise, source: PAPER }];
    });
    return [...ours, ...paper];
  });
}

function domainOf(numbers: readonly number[], least: number): [number, number] {
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const room = Math.max((high - low) * 0.06, least);
  return [low - room, high + room];
}

/** The figure of a run: running perplexity above, its rise over `full` below. A method without a budget is in every panel. */
export function perplexityChart(report: PerplexityReport): TopLevelSpec {
  // The first points average over few tokens and would flatten the rest of the picture.
  const longest = Math.max(...values(report).map((v) => v.position));
  const all = values(report).filter((v) => v.position >= longest / 16);
  const labels = [...new Set(report.total.map((s) => s.label))];
  const budgets = [...new Set(report.total.flatMap((s) => s.budgetTokens ?? []))];
  const hasPaper = all.some((v) => v.source === PAPER);
  const shared = {
    x: {
      field: 'position',
      type: 'quantitative',
      title: 'tokens read',
      scale: { domain: [0, longest], nice: false },
      axis: { format: '~s', tickCount: 6 },
    },
    color: {
      field: 'method',
      type: 'nominal',
      title: 'method',
      sort: null,
      scale: methodScales(labels).color,
    },
    strokeDash: sourceDash(PAPER, hasPaper),
  };
  const row = (field: 'ppl' | 'rise', title: string, height: number, least: number) => {
    const domain = domainOf(
      all.flatMap((v) => v[field] ?? []),
      least,
    );
    return (budgets.length === 0 ? [undefined] : budgets).map((budget, index) => ({
      ...(field === 'ppl' && {
        title: {
          text: budget === undefined ? 'no budget' : `budget ${budget} tokens`,
          anchor: 'middle',
          frame: 'group',
          fontSize: 12,
          offset: 8,
        },
      }),
      width: budgets.length > 1 ? 300 : 560,
      height,
      data: { values: all.filter((v) => v.budget === undefined || v.budget === budget) },
      mark: { type: 'line', strokeWidth: 2 },
      encoding: {
        ...shared,
        y: {
          field,
          type: 'quantitative',
          title: index === 0 ? title : null,
          scale: { domain, zero: false, nice: false },
          axis: { minExtent: 36 }, // aligns the rows
        },
      },
    }));
  };
  const lowest = Math.min(...all.map((v) => v.ppl));
  const rows = [row('ppl', 'running perplexity per token', 260, lowest * 0.002)];
  if (budgets.length > 0 && all.some((v) => v.rise !== undefined))
    rows.push(row('rise', 'above full (%)', 130, 0.05));
  return {
    title: { text: 'Perplexity over positions', subtitle: `${report.modelName}; ${describeTexts(report)}` },
    vconcat: rows.map((panels) => ({ hconcat: panels, spacing: 24 })),
  } as unknown as TopLevelSpec;
}
