/** quest ppl: running perplexity of long texts through KV methods, the paper's Figure 6 on any model. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { openTexts, type TextRequest, type TextSource } from '../../../datasets/texts.js';
import { type Cell, cellOptions } from '../../../eval/methods.js';
import {
  checkPerplexityOptions,
  createPerplexityTask,
  isSequential,
  type PerplexityOptions,
  runPerplexity,
} from '../../../eval/perplexity.js';
import { bookSeries, totalSeries } from '../../../eval/perplexity_results.js';
import type { Plan } from '../../../eval/plan.js';
import { QuestError } from '../../errors.js';
import type { Checkpoint } from '../../model/index.js';
import { writeFileAtomic } from '../../report/files.js';
import {
  lastPoint,
  type PerplexityReport,
  perplexityLongTable,
  perplexityWideTable,
  pplToken,
} from '../../report/ppl.js';
import { paperPerplexity } from '../../report/ppl-paper.js';
import { type Format, renderCsv, renderMarkdown } from '../../report/table.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import { describePlan, evaluate } from '../evaluate.js';
import { writeManifest } from '../manifest.js';
import { estimateMemory, type MemoryEstimate } from '../memory.js';
import { fitsWithRoom, openRun, promptCache, tableCells } from '../session.js';
import type { Settings } from '../settings.js';
import { withTransfer } from '../transfer.js';

/** The texts that `--dataset`, `--books`, `--text` and `--data` name; books that are not there are pulled, with progress. */
export function openNamedTexts(context: CommandContext, settings: Settings): Promise<TextSource> {
  const books = settings.source('books') === 'default' ? undefined : settings.names('books');
  return withTransfer(context, 'PG-19', (transfer) =>
    openTexts({
      dataset: settings.maybeString('dataset') as TextRequest['dataset'],
      file: settings.maybeString('text'),
      books,
      data: settings.maybeString('data'),
      dryRun: settings.flag('dry-run'),
      ...transfer,
    }),
  );
}

function readOptions(context: CommandContext, settings: Settings, checkpoint: Checkpoint) {
  const { maxContext } = checkpoint.spec;
  const window = settings.maybeNumber('window') ?? maxContext;
  const stride = settings.maybeNumber('stride');
  let tokens = settings.number('tokens');
  if (settings.source('tokens') === 'default' && stride === undefined && tokens > window) {
    tokens = window;
    context.out.note(`${checkpoint.name} reads ${window} tokens at a time, so that many are scored`);
  }
  checkPerplexityOptions({ tokens, window, stride, lockstep: 1 }, maxContext, checkpoint.name);
  return { tokens, window, stride };
}

/** Memory of a run in which `alive` branches, each with its own cache, exist at a time. */
function memoryOf(
  checkpoint: Checkpoint,
  cells: readonly Cell[],
  steps: number,
  alive: number,
): MemoryEstimate {
  return estimateMemory({
    spec: checkpoint.spec,
    weightBytes: checkpoint.weightBytes,
    tokens: 0,
    pageSize: Math.max(...cells.map((cell) => cell.pageSize)),
    branches: alive,
    branchTokens: steps,
    evictors: cells.some(isSequential) ? alive : 0,
  });
}

/** How many evictors may run side by side: as many as fit, since each step of one wastes a pass over the weights. */
function lockstepCells(
  settings: Settings,
  checkpoint: Checkpoint,
  cells: readonly Cell[],
  steps: number,
): number {
  const fits = fitsWithRoom(settings, checkpoint.spec);
  for (let alive = cells.filter(isSequential).length; alive > 1; alive--)
    if (fits(memoryOf(checkpoint, cells, steps, alive))) return alive;
  return 1;
}

const cellRecord = (s: PerplexityReport['total'][number], plan: Plan, index: number) => ({
  ...cellOptions(plan.cells[index]!),
  tokens: lastPoint(s).tokens,
  ppl_token: pplToken(lastPoint(s)),
  kv_read_pct: lastPoint(s).kvReadPct,
});

/** Runs `quest ppl`. */
export async function run(context: CommandContext): Promise<number> {
  const started = new Date();
  const { checkpoint, settings } = await openRun(context);
  if (settings.flag('h2o-prefill')) {
    throw new QuestError(
      'E_USAGE',
      'quest ppl has no prefill that h2o could start from: every token is a step',
      {
        hint: 'leave --h2o-prefill out',
      },
    );
  }
  const { tokens, window, stride } = readOptions(context, settings, checkpoint);
  const cells = tableCells(settings, checkpoint);
  const source = await openNamedTexts(context, settings);
  const tokenizer = await checkpoint.tokenizer();
  const longest = Math.min(tokens, window);
  const lockstep = lockstepCells(settings, checkpoint, cells, longest);
  const options: PerplexityOptions = { tokens, window, stride, lockstep };
  const task = createPerplexityTask(source, options, tokenizer, await promptCache(context, checkpoint));
  const plan: Plan = {
    model: { name: checkpoint.name, fingerprint: checkpoint.fingerprint },
    task,
    cells,
  };
  const evaluation = {
    context,
    settings,
    checkpoint,
    tokenizer,
    plan,
    longestTokens: longest,
    longestSteps: longest,
    memory: memoryOf(checkpoint, cells, longest, cells.some(isSequential) ? lockstep : 1),
    run: runPerplexity,
    unit: 'book',
  };
  if (settings.flag('dry-run')) {
    context.out.data(await describePlan(evaluation, settings.number('threads') || availableParallelism()));
    return 0;
  }

  let report: PerplexityReport | undefined;
  const result = await evaluate(evaluation, async ({ folder, grid, seconds, device, computed, reused }) => {
    report = {
      modelName: checkpoint.name,
      dataset: source.dataset,
      title: source.title,
      textLabel: source.label,
      window: task.params.window === undefined ? undefined : { window, stride: stride! },
      books: source.books.map((book) => book.id),
      series: bookSeries(cells, grid),
      total: totalSeries(cells, grid),
      paper: paperPerplexity(checkpoint.name, source.dataset),
    };
    const [{ perplexityChart }, { renderSvg }] = await Promise.all([
      import('../../report/ppl-charts.js'),
      import('../../report/svg.js'),
    ]);
    writeFileAtomic(join(folder, 'table.csv'), renderCsv(perplexityLongTable(report)));
    writeFileAtomic(join(folder, 'table.md'), renderMarkdown(perplexityWideTable(report)));
    writeFileAtomic(join(folder, 'figure.svg'), await renderSvg(perplexityChart(report)));
    const feed_s = cells.map((_, i) => grid.reduce((total, row) => total + row[i]!.timing.feed_s, 0));
    writeManifest(
      folder,
      context,
      settings,
      checkpoint,
      { started, seconds, device, rows: { computed, reused } },
      {
        text: { dataset: source.dataset, title: source.title, books: report.books },
        cells: report.total.map((s, i) => ({
          ...cellRecord(s, plan, i),
          feed_s: Number(feed_s[i]!.toFixed(3)),
        })),
      },
    );
  });

  for (const [i, { id }] of source.books.entries()) {
    const scored = result.grid[i]![0]!.step_tokens;
    if (scored < tokens && settings.source('tokens') !== 'default')
      context.out.note(`${id} ends before ${tokens} tokens: ${scored} are scored`);
  }
  const format = settings.string('format') as Format;
  const forReaders = format === 'table' || format === 'md';
  await context.out.table(forReaders ? perplexityWideTable(report!) : perplexityLongTable(report!), format);
  const worked =
    result.computed > 0
      ? `${plural(result.computed, 'row')} in ${result.seconds.toFixed(1)} s`
      : 'all rows were there';
  context.out.note(`${worked}; table, figure and manifest are in ${result.folder}`);
  return 0;
}
