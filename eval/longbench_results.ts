/** From predictions, new or read again, to the rows of the report. */
import { taskKind } from '../datasets/longbench_tasks.js';
import type {
  LongBenchCell,
  LongBenchReport,
  LongBenchTaskResult,
  TaskScore,
} from '../src/report/longbench.js';
import { paperLongBench } from '../src/report/longbench-paper.js';
import { type Prediction, percent } from './longbench_predictions.js';
import { BUCKETS, bucketOf, METRIC_TITLE, metricOf } from './longbench_protocol.js';
import { methodDefinition } from './methods.js';
import { bucketScore, meanScore } from './metrics/rounding.js';

function reportCell(options: Prediction['cell']): LongBenchCell {
  const def = methodDefinition(String(options.method));
  const budget = options.budget_tokens;
  return {
    method: def.name,
    label: def.label,
    budgetTokens: typeof budget === 'number' ? budget : undefined,
    options,
  };
}

const scored = (record: Prediction): number => record.score ?? 0;
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

function taskScore(
  records: readonly Prediction[],
  mean: (scores: number[]) => number | undefined,
): TaskScore {
  const scores = records.map(scored);
  const n = scores.length;
  const centre = sum(scores) / n;
  const variance = n < 2 ? 0 : sum(scores.map((score) => (score - centre) ** 2)) / (n - 1);
  return {
    samples: n,
    score: mean(scores) ?? 0,
    stderr: 100 * Math.sqrt(variance / n),
    kvReadPct: percent(sum(records.map((r) => r.kv_read_bytes)), sum(records.map((r) => r.kv_dense_bytes))),
  };
}

const grouped = <T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> => {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return groups;
};

function taskResult(task: string, records: readonly Prediction[]): LongBenchTaskResult {
  const rows = grouped(records, (record) => String(record.row));
  const cells = [...grouped(records, (record) => JSON.stringify(record.cell)).values()].map((own) => ({
    cell: reportCell(own[0]!.cell),
    all: taskScore(own, meanScore),
    buckets: BUCKETS.flatMap((bucket) => {
      const part = own.filter((record) => bucketOf(record.length) === bucket);
      return part.length === 0 ? [] : [{ bucket, ...taskScore(part, bucketScore) }];
    }),
    neverSparse: own.filter((record) => record.never_sparse).length,
  }));
  return {
    task,
    title: taskKind(task).title,
    metric: METRIC_TITLE[metricOf(task)],
    samples: rows.size,
    truncated: [...rows.values()].filter((own) => own[0]!.truncated).length,
    cells,
  };
}

/** The report of scored predictions, tasks and cells in their order of appearance. */
export function longBenchReport(
  records: readonly Prediction[],
  run: { modelName: string; data: string },
): LongBenchReport {
  const tasks = [...grouped(records, (record) => record.task)].map(([task, own]) => taskResult(task, own));
  return { ...run, tasks, paper: paperLongBench(run.modelName, run.data) };
}
