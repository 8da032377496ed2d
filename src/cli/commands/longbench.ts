/** quest longbench: the paper's Figure 7, and all of LongBench, on any model. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import {
  type LongBenchSet,
  longBenchKey,
  openLongBenchFile,
  resolveTasks,
} from '../../../datasets/longbench.js';
import {
  checkMaxLength,
  createLongBenchTask,
  type LongBenchData,
  type LongBenchOptions,
} from '../../../eval/longbench.js';
import {
  collectPredictions,
  PREDICTIONS_NAME,
  renderPredictions,
} from '../../../eval/longbench_predictions.js';
import { longBenchReport } from '../../../eval/longbench_results.js';
import { cellOptions } from '../../../eval/methods.js';
import type { Plan } from '../../../eval/plan.js';
import type { RowGrid } from '../../../eval/runner.js';
import { QuestError } from '../../errors.js';
import { findChatTemplate } from '../../model/chat.js';
import { writeFileAtomic } from '../../report/files.js';
import { type LongBenchReport, longBenchLongTable, longBenchWideTable } from '../../report/longbench.js';
import { type Format, renderCsv, renderMarkdown } from '../../report/table.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import { describePlan, type Evaluation, evaluate } from '../evaluate.js';
import { writeManifest } from '../manifest.js';
import { openRun, promptCache, tableCells } from '../session.js';
import { withTransfer } from '../transfer.js';

/** The rows of the wanted tasks; with --sample from the package, else from the data folder, pulled there on first use. */
async function openSets(context: CommandContext, tasks: string[], even: boolean): Promise<LongBenchSet[]> {
  const { settings } = context;
  const limit = settings.maybeNumber('limit');
  const data = settings.maybeString('data');
  if (settings.flag('sample')) {
    if (data !== undefined) {
      throw new QuestError('E_USAGE', '--sample and --data exclude each other', { hint: 'give one of them' });
    }
    const { openLongBenchSample } = await import('../../../datasets/longbench_sample.js');
    return tasks.map((task) => openLongBenchSample(task, limit));
  }
  const { ensureDataset } = await import('../../../datasets/data_cache.js');
  const keys = tasks.map((task) => longBenchKey(task, even));
  const dryRun = settings.flag('dry-run');
  try {
    const { files } = await withTransfer(context, 'LongBench', (transfer) =>
      ensureDataset('longbench', { data, files: keys, dryRun, ...transfer }),
    );
    return tasks.map((task, i) => openLongBenchFile(files.get(keys[i]!)!, task, limit));
  } catch (error) {
    if (!(error instanceof QuestError) || error.code !== 'E_DATA_MISSING') throw error;
    throw new QuestError(error.code, error.message, {
      hint: `${error.hint}. To try the command without data: --sample`,
      exitCode: error.exitCode,
      cause: error,
    });
  }
}

/** Draws a chart per task and, for several, one of all; the plotting libraries are loaded only here. Nothing without a budget. */
async function writeCharts(folder: string, report: LongBenchReport): Promise<boolean> {
  const hasBudgets = report.tasks.some(({ cells }) =>
    cells.some(({ cell }) => cell.budgetTokens !== undefined),
  );
  if (!hasBudgets) return false;
  const [{ allTasksChart, taskChart }, { renderSvg }] = await Promise.all([
    import('../../report/longbench-charts.js'),
    import('../../report/svg.js'),
  ]);
  for (const result of report.tasks)
    writeFileAtomic(join(folder, `${result.task}.svg`), await renderSvg(taskChart(report, result)));
  if (report.tasks.length > 1)
    writeFileAtomic(join(folder, 'figure.svg'), await renderSvg(allTasksChart(report)));
  return true;
}

/** Writes the tables and figures of a scored run, and says which. */
export async function writeReport(folder: string, report: LongBenchReport): Promise<string> {
  writeFileAtomic(join(folder, 'table.csv'), renderCsv(longBenchLongTable(report)));
  writeFileAtomic(join(folder, 'table.md'), renderMarkdown(longBenchWideTable(report)));
  return (await writeCharts(folder, report))
    ? 'tables, figures'
    : 'tables (and no figure: no method here has a budget)';
}

/** The table and its notes on the terminal. */
export async function showReport(context: CommandContext, report: LongBenchReport): Promise<void> {
  const { out, settings } = context;
  const format = settings.string('format') as Format;
  const forReaders = format === 'table' || format === 'md';
  await out.table(forReaders ? longBenchWideTable(report) : longBenchLongTable(report), format);
}

/** Totals of each cell's counters, and seconds of all samples, for the manifest. */
function totals(plan: Plan, grid: RowGrid) {
  const timing = { prefill_s: 0, feed_s: 0, generate_s: 0 };
  // A sample's rows share one prefill, one feed and one generation.
  for (const row of grid)
    for (const key of Object.keys(timing) as (keyof typeof timing)[]) timing[key] += row[0]!.timing[key];
  const cells = plan.cells.map((cell, column) => {
    const counters: Record<string, number> = {};
    for (const row of grid)
      for (const [key, value] of Object.entries(row[column]!.counters))
        counters[key] = (counters[key] ?? 0) + value;
    return { ...cellOptions(cell), counters };
  });
  const rounded = Object.entries(timing).map(([key, value]) => [key, Number(value.toFixed(3))]);
  return { timing: Object.fromEntries(rounded), cells };
}

/** Runs `quest longbench`. */
export async function run(context: CommandContext): Promise<number> {
  const started = new Date();
  const { out } = context;
  const { checkpoint, settings } = await openRun(context);
  const even = settings.flag('e');
  const sample = settings.flag('sample');
  const tasks = resolveTasks(settings.names('task'), even);
  const cells = tableCells(settings, checkpoint);
  const sets = await openSets(context, tasks, even);
  const data: LongBenchData = sample ? (even ? 'sample-e' : 'sample') : even ? 'longbench-e' : 'longbench';
  if (sample) {
    out.note('SAMPLE: a small built-in set, not LongBench; its scores compare with no published number');
    const { UNANSWERABLE } = await import('../../../datasets/longbench_sample.js');
    const beyond = tasks.filter((task) => UNANSWERABLE.includes(task));
    if (beyond.length > 0) out.note(`SAMPLE: quest-tiny cannot answer ${beyond.join(', ')}`);
  }
  const tokenizer = await checkpoint.tokenizer();
  const options: LongBenchOptions = {
    data,
    sets,
    tokenizer,
    chat: settings.string('chat') === 'none' ? undefined : await findChatTemplate(checkpoint),
    maxLength: settings.maybeNumber('max-length'),
    maxContext: checkpoint.spec.maxContext,
    modelName: checkpoint.name,
    cache: await promptCache(context, checkpoint),
  };
  checkMaxLength(options);
  const task = await createLongBenchTask(options);
  const plan: Plan = { model: { name: checkpoint.name, fingerprint: checkpoint.fingerprint }, task, cells };
  const bounds = task.bounds();
  const evaluation: Evaluation = {
    context,
    settings,
    checkpoint,
    tokenizer,
    plan,
    longestTokens: bounds.tokens,
    longestSteps: bounds.steps,
  };
  if (settings.flag('dry-run')) {
    out.data(await describePlan(evaluation, settings.number('threads') || availableParallelism()));
    return 0;
  }

  const predictOnly = settings.flag('predict-only');
  let report: LongBenchReport | undefined;
  let written = '';
  const result = await evaluate(evaluation, async (done) => {
    const { folder, grid, seconds, device, computed, reused } = done;
    const records = await collectPredictions(sets, cells, grid);
    if (predictOnly) for (const record of records) record.score = null;
    writeFileAtomic(join(folder, PREDICTIONS_NAME), renderPredictions(records));
    if (!predictOnly) {
      report = longBenchReport(records, { modelName: checkpoint.name, data });
      written = await writeReport(folder, report);
    }
    const record = { started, seconds, device, rows: { computed, reused } };
    writeManifest(folder, context, settings, checkpoint, record, totals(plan, grid));
  });

  if (report !== undefined) await showReport(context, report);
  const worked =
    result.computed > 0
      ? `${plural(result.computed, 'row')} in ${result.seconds.toFixed(1)} s`
      : 'all rows were there';
  const next = predictOnly
    ? `predictions are in ${result.folder}; quest score ${result.folder} scores them`
    : `predictions, ${written} and manifest are in ${result.folder}`;
  out.note(`${worked}; ${next}`);
  return 0;
}
