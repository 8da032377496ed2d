/** quest passkey: the paper's Table 1 on any model. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { PASSKEY_NEW_TOKENS, type PasskeyOptions } from '../../../datasets/passkey.js';
import { aggregateCells, sampleResults } from '../../../eval/aggregate.js';
import { cellOptions } from '../../../eval/methods.js';
import { checkPasskeyOptions, createPasskeyTask } from '../../../eval/passkey.js';
import type { Plan } from '../../../eval/plan.js';
import type { RowGrid } from '../../../eval/runner.js';
import { writeFileAtomic } from '../../report/files.js';
import { paperPasskey } from '../../report/paper.js';
import { type PasskeyReport, passkeyLongTable, passkeyWideTable } from '../../report/passkey.js';
import { type Format, renderCsv, renderMarkdown } from '../../report/table.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import { describePlan, type Evaluation, evaluate } from '../evaluate.js';
import { writeManifest } from '../manifest.js';
import { openRun, promptCache, tableCells } from '../session.js';

/** Draws both figures; the plotting libraries are loaded only here. */
async function figures(
  report: PasskeyReport,
  plan: Plan,
  grid: RowGrid,
): Promise<[name: string, svg: string][]> {
  const [{ accuracyChart, depthChart }, { renderSvg }] = await Promise.all([
    import('../../report/passkey-charts.js'),
    import('../../report/svg.js'),
  ]);
  const drawn: [string, string][] = [
    ['depth.svg', await renderSvg(depthChart(report, sampleResults(plan.cells, grid)))],
  ];
  if (report.cells.some((cell) => cell.budgetTokens !== undefined)) {
    drawn.push(['accuracy.svg', await renderSvg(accuracyChart(report))]);
  }
  return drawn;
}

/** Totals of each cell's counters over all samples. */
function cellCounters(plan: Plan, grid: RowGrid) {
  return plan.cells.map((cell, column) => {
    const counters: Record<string, number> = {};
    for (const row of grid) {
      for (const [key, value] of Object.entries(row[column]!.counters))
        counters[key] = (counters[key] ?? 0) + value;
    }
    return { ...cellOptions(cell), counters };
  });
}

/** Seconds over all samples, whichever run computed them. */
function timing(grid: RowGrid) {
  // A sample's rows share one prefill, one feed and one generation.
  const totals = { prefill_s: 0, feed_s: 0, generate_s: 0 };
  let prefillTokens = 0;
  for (const row of grid) {
    for (const key of Object.keys(totals) as (keyof typeof totals)[]) totals[key] += row[0]!.timing[key];
    prefillTokens += row[0]!.prefill_tokens;
  }
  return {
    ...Object.fromEntries(Object.entries(totals).map(([key, value]) => [key, Number(value.toFixed(3))])),
    prefill_tokens_per_s: totals.prefill_s > 0 ? Math.round(prefillTokens / totals.prefill_s) : undefined,
  };
}

/** Runs `quest passkey`. */
export async function run(context: CommandContext): Promise<number> {
  const started = new Date();
  const { checkpoint, settings } = await openRun(context);
  const options: PasskeyOptions = {
    contextTokens: settings.number('context'),
    samples: settings.number('samples'),
    seed: settings.number('seed'),
    depths: settings.maybeNumbers('depths'),
  };
  checkPasskeyOptions(options, checkpoint.spec.maxContext, checkpoint.name);
  const cells = tableCells(settings, checkpoint);
  const tokenizer = await checkpoint.tokenizer();
  const plan: Plan = {
    model: { name: checkpoint.name, fingerprint: checkpoint.fingerprint },
    task: createPasskeyTask(options, tokenizer, await promptCache(context, checkpoint)),
    cells,
  };
  const first = await plan.task.item(0);
  const evaluation: Evaluation = {
    context,
    settings,
    checkpoint,
    tokenizer,
    plan,
    longestTokens: options.contextTokens + PASSKEY_NEW_TOKENS,
    // The question is always as many characters, so its tokens differ little.
    longestSteps: Math.ceil(1.25 * first.stepIds.length) + PASSKEY_NEW_TOKENS,
  };
  if (settings.flag('dry-run')) {
    context.out.data(await describePlan(evaluation, settings.number('threads') || availableParallelism()));
    return 0;
  }

  let report: PasskeyReport | undefined;
  const result = await evaluate(evaluation, async (done) => {
    report = {
      modelName: checkpoint.name,
      contextTokens: options.contextTokens,
      cells: aggregateCells(cells, done.grid),
      paper: paperPasskey(checkpoint.name, options.contextTokens),
    };
    const { folder, grid } = done;
    writeFileAtomic(join(folder, 'table.csv'), renderCsv(passkeyLongTable(report)));
    writeFileAtomic(join(folder, 'table.md'), renderMarkdown(passkeyWideTable(report)));
    for (const [name, svg] of await figures(report, plan, grid)) writeFileAtomic(join(folder, name), svg);
    const { seconds, device, computed, reused } = done;
    writeManifest(
      folder,
      context,
      settings,
      checkpoint,
      { started, seconds, device, rows: { computed, reused } },
      { timing: timing(grid), cells: cellCounters(plan, grid) },
    );
  });

  const format = settings.string('format') as Format;
  const forReaders = format === 'table' || format === 'md';
  await context.out.table(forReaders ? passkeyWideTable(report!) : passkeyLongTable(report!), format);
  const worked =
    result.computed > 0
      ? `${plural(result.computed, 'row')} in ${result.seconds.toFixed(1)} s`
      : 'all rows were there';
  context.out.note(`${worked}; table, figures and manifest are in ${result.folder}`);
  return 0;
}
