/** The kernel benchmark: which cases the axes make, and the rows of attention.csv and kernels.csv (Figures 8 and 9). */
import type { KernelCase, KernelTime } from '../../src/runtime/addon.js';
import type { AttentionStep } from '../iso_attention.js';
import { matricesOf, parseHeads } from './shapes.js';

/** A sparse step's parts, then what else can be timed. */
export const ATTENTION_KERNELS = ['dense', 'estimate', 'topk', 'attention', 'sparse'] as const;
export const KERNELS = [...ATTENTION_KERNELS, 'prefill', 'append', 'norm', 'gemv', 'gemm'] as const;
export type KernelName = (typeof KERNELS)[number];

const HEAD_DIM = 128;
const DEFAULT_PAGE_SIZE = 16;
const GEMV_ROWS = [1, 8];
const GEMM_ROWS = 2048;
const MATRIX_SHAPE = 'llama2-7b';

export interface KernelAxes {
  kernels: readonly KernelName[];
  contexts: readonly number[];
  budgets: readonly number[];
  pageSizes: readonly number[];
  heads: readonly string[];
}

/** A case with what its row says of it. */
export interface NamedCase {
  /** `32/8`, or the matrix's name. */
  what: string;
  case: KernelCase;
}

export interface TimedCase extends NamedCase {
  time: KernelTime;
}

/** One layer's decode step as a case. */
export function kernelCase(heads: string, step: AttentionStep): KernelCase {
  return {
    ...parseHeads(heads),
    kernel: step.budgetTokens === undefined ? 'dense' : 'sparse',
    headDim: HEAD_DIM,
    contextTokens: Math.round(step.contextTokens),
    pageSize: step.pageSize ?? DEFAULT_PAGE_SIZE,
    budgetTokens: step.budgetTokens ?? 0,
  };
}

/** All cases, each once; cases of one layer follow each other, so that its data is made once. */
export function kernelCases(axes: KernelAxes): NamedCase[] {
  const wants = (name: KernelName) => axes.kernels.includes(name);
  const cases: NamedCase[] = [];
  for (const heads of axes.heads) {
    for (const contextTokens of axes.contexts) {
      for (const pageSize of axes.pageSizes) {
        const layer = { ...parseHeads(heads), headDim: HEAD_DIM, contextTokens, pageSize };
        // A budget that covers the context is a dense step.
        const budgets = axes.budgets.filter(
          (budget) => budget + pageSize <= contextTokens && budget >= pageSize,
        );
        const add = (kernel: KernelName, budgetTokens = 0) =>
          cases.push({ what: heads, case: { kernel, ...layer, budgetTokens } });
        for (const kernel of ['dense', 'prefill', 'append'] as const) if (wants(kernel)) add(kernel);
        // The estimate reads all pages, whatever the budget.
        if (wants('estimate') && budgets.length > 0) add('estimate', budgets[0]!);
        for (const budget of budgets)
          for (const kernel of ['topk', 'attention', 'sparse'] as const)
            if (wants(kernel)) add(kernel, budget);
      }
    }
  }
  for (const { name, n, k } of matricesOf(MATRIX_SHAPE)) {
    if (wants('gemv'))
      for (const rows of GEMV_ROWS) cases.push({ what: name, case: { kernel: 'gemv', rows, n, k } });
    if (wants('gemm')) cases.push({ what: name, case: { kernel: 'gemm', rows: GEMM_ROWS, n, k } });
  }
  if (wants('norm'))
    for (const rows of [1, GEMM_ROWS])
      cases.push({ what: 'hidden', case: { kernel: 'norm', rows, n: 4096, k: 4096 } });
  return cases;
}

/** One line of attention.csv: a sparse step beside the dense one. */
export interface AttentionRow {
  heads: string;
  contextTokens: number;
  budgetTokens: number;
  pageSize: number;
  denseUs: number;
  estimateUs: number;
  topkUs: number;
  attentionUs: number;
  /** Estimate, top-k and attention timed together. */
  sparseUs: number;
  speedup: number;
  denseReadPct: number;
  sparseReadPct: number;
}

/** Percent of the measured read bandwidth that a time reaches for its bytes. */
export const readPct = ({ bytes, medianUs }: KernelTime, bytesPerSecond: number): number =>
  (100 * bytes) / (medianUs * 1e-6) / bytesPerSecond;

/** Puts the parts of each sparse step together; steps of which a part was not timed are left out. */
export function attentionRows(timed: readonly TimedCase[], bytesPerSecond: number): AttentionRow[] {
  const find = (one: TimedCase, kernel: KernelName) =>
    timed.find(
      ({ what, case: other }) =>
        other.kernel === kernel &&
        what === one.what &&
        other.contextTokens === one.case.contextTokens &&
        other.pageSize === one.case.pageSize &&
        (kernel === 'dense' || kernel === 'estimate' || other.budgetTokens === one.case.budgetTokens),
    )?.time;
  return timed.flatMap((one): AttentionRow[] => {
    if (one.case.kernel !== 'sparse') return [];
    const [dense, estimate, topk, attention] = (['dense', 'estimate', 'topk', 'attention'] as const).map(
      (kernel) => find(one, kernel),
    );
    if (dense === undefined || estimate === undefined || topk === undefined || attention === undefined)
      return [];
    return [
      {
        heads: one.what,
        contextTokens: one.case.contextTokens!,
        budgetTokens: one.case.budgetTokens!,
        pageSize: one.case.pageSize!,
        denseUs: dense.medianUs,
        estimateUs: estimate.medianUs,
        topkUs: topk.medianUs,
        attentionUs: attention.medianUs,
        sparseUs: one.time.medianUs,
        speedup: dense.medianUs / one.time.medianUs,
        denseReadPct: readPct(dense, bytesPerSecond),
        sparseReadPct: readPct(one.time, bytesPerSecond),
      },
    ];
  });
}
