/** Figures 3 and 4 of the paper, redrawn from our measurements with the paper's numbers as dashed lines. */
import type { TopLevelSpec } from 'vega-lite';
import { plural } from '../words.js';
import { PAPER_SPARSITY, paperRecall, type RecallReport, type SparsityReport } from './analysis.js';
import { methodScales, OURS, sourceDash } from './look.js';
import { otherThanLongChat } from './paper.js';

const colorOf = (labels: readonly string[]) => ({
  field: 'method',
  type: 'nominal' as const,
  title: 'method',
  sort: null,
  scale: methodScales(labels).color,
});

const dashOf = (paper: string, shown: boolean) => sourceDash(paper, shown, { labelLimit: 240 });

/** Share of KV that can be dropped, layer by layer. */
export function sparsityChart(report: SparsityReport): TopLevelSpec {
  const labels = [...new Set(report.cells.map((c) => c.label))];
  const last = Math.max(...report.cells.map((c) => c.layer));
  const ours = report.cells.map((c) => ({
    method: c.label,
    layer: c.layer,
    share: c.droppedShare,
    source: OURS,
  }));
  const paperName = `paper (${PAPER_SPARSITY.model}), mean of layers 2 on`;
  const paper = labels.flatMap((label) => {
    const share = PAPER_SPARSITY.others[report.cells.find((c) => c.label === label)!.method];
    if (share === undefined || last < 2) return [];
    return [2, last].map((layer) => ({ method: label, layer, share, source: paperName }));
  });
  const encoding = {
    x: {
      field: 'layer',
      type: 'quantitative',
      title: 'layer',
      scale: { domain: [0, Math.max(1, last)], nice: false },
      axis: { tickMinStep: 1, format: 'd' },
    },
    y: {
      field: 'share',
      type: 'quantitative',
      title: 'share of KV that can be dropped',
      scale: { domain: [0, 1], nice: false },
      axis: { format: '.0%' },
    },
    color: colorOf(labels),
    strokeDash: dashOf(paperName, paper.length > 0),
  };
  return {
    title: {
      text: `Per-layer sparsity at a perplexity rise below ${report.tolerance}`,
      subtitle: `${report.modelName}; ${report.text}; the last ${report.scored} of ${report.tokens} tokens`,
    },
    width: 560,
    height: 300,
    data: { values: [...ours, ...paper] },
    layer: [
      { mark: { type: 'line', strokeWidth: 2 }, encoding },
      {
        transform: [{ filter: `datum.source === '${OURS}'` }],
        mark: { type: 'point', filled: true, size: 60, opacity: 1 },
        encoding: { x: encoding.x, y: encoding.y, color: encoding.color },
      },
    ],
  } as unknown as TopLevelSpec;
}

/** Recall of the tokens that matter most, over the budget. */
export function recallChart(report: RecallReport): TopLevelSpec {
  const labels = [...new Set(report.cells.map((c) => c.label))];
  const budgets = [...new Set(report.cells.flatMap((c) => c.budgetTokens ?? []))].sort((a, b) => a - b);
  const other = otherThanLongChat(report.modelName);
  const paperName = `paper, Figure 4${other === undefined ? '' : ` (${other})`}`;
  const values = report.cells.flatMap((c) =>
    (c.budgetTokens === undefined ? budgets : [c.budgetTokens]).flatMap((budget) => {
      const paper = c.budgetTokens === undefined ? undefined : paperRecall(report, c);
      const base = { method: c.label, budget };
      return [
        { ...base, recall: c.recall, source: OURS },
        ...(paper === undefined ? [] : [{ ...base, recall: paper, source: paperName }]),
      ];
    }),
  );
  const encoding = {
    x: {
      field: 'budget',
      type: 'quantitative',
      title: 'token budget (log scale)',
      scale: {
        type: 'log',
        base: 2,
        domain: [(budgets[0] ?? 1) / 1.15, (budgets.at(-1) ?? 2) * 1.15],
        nice: false,
      },
      axis: { values: budgets, format: 'd' },
    },
    y: {
      field: 'recall',
      type: 'quantitative',
      title: `recall of the ${report.top} highest-attention tokens`,
      scale: { domain: [0, 1.02], nice: false },
      axis: { values: [0, 0.2, 0.4, 0.6, 0.8, 1] },
    },
    color: colorOf(labels),
    strokeDash: dashOf(
      paperName,
      values.some((v) => v.source === paperName),
    ),
  };
  const samples = report.cells[0]?.samples ?? 0;
  return {
    title: {
      text: 'Recall of the tokens that matter most',
      subtitle: `${report.modelName}; passkey prompts of ${report.contextTokens.toLocaleString('en-US')} tokens, ${plural(samples, 'sample')}; layers from ${report.skipLayers} on`,
    },
    width: 560,
    height: 300,
    data: { values },
    layer: [
      { mark: { type: 'line', strokeWidth: 2 }, encoding },
      {
        transform: [{ filter: `datum.source === '${OURS}'` }],
        mark: { type: 'point', filled: true, size: 60, opacity: 1 },
        encoding: { x: encoding.x, y: encoding.y, color: encoding.color },
      },
    ],
  } as unknown as TopLevelSpec;
}
