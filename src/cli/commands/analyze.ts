/** quest analyze sparsity|recall: the paper's Figures 3 and 4 on any model. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { createRecallTask, runRecall } from '../../../eval/analysis_recall.js';
import { recallCells, sparsityCells } from '../../../eval/analysis_results.js';
import { checkSparsityOptions, createSparsityTask, runSparsity } from '../../../eval/analysis_sparsity.js';
import {
  type Cell,
  cellOptions,
  checkSkipLayers,
  makeCell,
  makeCells,
  methodDefinition,
} from '../../../eval/methods.js';
import { checkPasskeyOptions, createPasskeyTask } from '../../../eval/passkey.js';
import type { RowGrid } from '../../../eval/runner.js';
import { QuestError } from '../../errors.js';
import {
  type RecallReport,
  recallLongTable,
  recallWideTable,
  type SparsityReport,
  sparsityLongTable,
  sparsityWideTable,
} from '../../report/analysis.js';
import { writeFileAtomic } from '../../report/files.js';
import { type Format, renderCsv, renderMarkdown, type Table } from '../../report/table.js';
import type { MethodName } from '../../runtime/addon.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import { describePlan, type Evaluation, evaluate } from '../evaluate.js';
import { writeManifest } from '../manifest.js';
import { estimateMemory } from '../memory.js';
import { methodSettings, openRun, promptCache } from '../session.js';
import type { Settings } from '../settings.js';
import { openNamedTexts } from './ppl.js';

const ANALYSES = ['sparsity', 'recall'] as const;
type Analysis = (typeof ANALYSES)[number];

/** Options that matter to one of the two only. */
const ONLY: Readonly<Record<Analysis, readonly string[]>> = {
  sparsity: ['dataset', 'books', 'text', 'data', 'tokens', 'scored', 'tolerance'],
  recall: ['context', 'samples', 'top', 'budget'],
};
const DEFAULT_METHODS: Readonly<Record<Analysis, readonly MethodName[]>> = {
  sparsity: ['oracle', 'quest'],
  recall: ['full', 'quest', 'streaming', 'h2o', 'tova'],
};

function whichAnalysis(args: readonly string[], settings: Settings): Analysis {
  const name = ANALYSES.find((one) => one === args[0]);
  if (name === undefined) {
    throw new QuestError(
      'E_USAGE',
      args[0] === undefined ? 'there is no analysis' : `there is no analysis "${args[0]}"`,
      {
        hint: 'quest analyze sparsity (Figure 3) or quest analyze recall (Figure 4)',
      },
    );
  }
  const other = name === 'sparsity' ? 'recall' : 'sparsity';
  const misplaced = ONLY[other].find((option) =>
    ['command line', 'config file'].includes(settings.source(option)),
  );
  if (misplaced !== undefined) {
    throw new QuestError('E_USAGE', `--${misplaced} belongs to quest analyze ${other}`, {
      hint: 'leave it out',
    });
  }
  return name;
}

const methodsOf = (settings: Settings, analysis: Analysis): MethodName[] =>
  settings.source('method') === 'default'
    ? [...DEFAULT_METHODS[analysis]]
    : (settings.names('method') as MethodName[]);

interface Finished {
  long: Table;
  wide: Table;
  figure: () => Promise<string>;
  cells: unknown[];
}

/** Runs the plan, writes its files and prints its table. */
async function finishRun(
  context: CommandContext,
  evaluation: Evaluation,
  started: Date,
  describe: (grid: RowGrid) => Finished,
): Promise<number> {
  const { settings, checkpoint } = evaluation;
  if (settings.flag('dry-run')) {
    context.out.data(await describePlan(evaluation, settings.number('threads') || availableParallelism()));
    return 0;
  }
  let finished: Finished | undefined;
  const result = await evaluate(evaluation, async ({ folder, grid, seconds, device, computed, reused }) => {
    finished = describe(grid);
    writeFileAtomic(join(folder, 'table.csv'), renderCsv(finished.long));
    writeFileAtomic(join(folder, 'table.md'), renderMarkdown(finished.wide));
    writeFileAtomic(join(folder, 'figure.svg'), await finished.figure());
    const run = { started, seconds, device, rows: { computed, reused } };
    writeManifest(folder, context, settings, checkpoint, run, { cells: finished.cells });
  });
  const format = settings.string('format') as Format;
  await context.out.table(format === 'table' || format === 'md' ? finished!.wide : finished!.long, format);
  const worked =
    result.computed > 0
      ? `${plural(result.computed, 'row')} in ${result.seconds.toFixed(1)} s`
      : 'all rows were there';
  context.out.note(`${worked}; table, figure and manifest are in ${result.folder}`);
  return 0;
}

async function sparsity(context: CommandContext): Promise<number> {
  const started = new Date();
  const { checkpoint, settings } = await openRun(context);
  const { spec } = checkpoint;
  const options = {
    tokens: Math.min(
      settings.number('tokens'),
      settings.source('tokens') === 'default' ? spec.maxContext : Number.POSITIVE_INFINITY,
    ),
    scored: settings.number('scored'),
    tolerance: settings.number('tolerance'),
    nLayers: spec.nLayers,
  };
  checkSparsityOptions(options, spec.maxContext, checkpoint.name);
  // The budget is what is looked for, and every layer acts in its turn.
  const cells = methodsOf(settings, 'sparsity').map((name): Cell => {
    if (methodDefinition(name).kind !== 'selector') {
      throw new QuestError('E_METHOD', `${name} selects nothing whose budget could be searched per layer`, {
        hint: 'use --method oracle,quest or quest-paper',
      });
    }
    return makeCell(name, options.tokens, { ...methodSettings(settings), skipLayers: 0 });
  });
  const source = await openNamedTexts(context, settings);
  const tokenizer = await checkpoint.tokenizer();
  const evaluation = {
    context,
    settings,
    checkpoint,
    tokenizer,
    plan: {
      model: { name: checkpoint.name, fingerprint: checkpoint.fingerprint },
      task: createSparsityTask(source, options, tokenizer),
      cells,
    },
    longestTokens: options.tokens,
    longestSteps: options.scored,
    memory: estimateMemory({
      spec,
      weightBytes: checkpoint.weightBytes,
      tokens: options.tokens * source.books.length,
      pageSize: settings.number('page-size'),
      branches: 1,
      branchTokens: options.scored,
      evictors: 0,
    }),
    run: runSparsity,
    unit: 'layer',
  };
  const text =
    source.dataset === 'pg19' ? `${source.title}, ${source.books.map((b) => b.id).join(', ')}` : source.title;
  return finishRun(context, evaluation, started, (grid) => {
    const report: SparsityReport = {
      modelName: checkpoint.name,
      text,
      tokens: options.tokens,
      scored: options.scored,
      tolerance: options.tolerance,
      pageSize: settings.number('page-size'),
      cells: sparsityCells(cells, grid),
    };
    return {
      long: sparsityLongTable(report),
      wide: sparsityWideTable(report),
      figure: async () => {
        const { sparsityChart } = await import('../../report/analysis-charts.js');
        return (await import('../../report/svg.js')).renderSvg(sparsityChart(report));
      },
      cells: report.cells,
    };
  });
}

async function recall(context: CommandContext): Promise<number> {
  const started = new Date();
  const { checkpoint, settings } = await openRun(context);
  const passkey = {
    contextTokens: settings.number('context'),
    samples: settings.number('samples'),
    seed: settings.number('seed'),
  };
  checkPasskeyOptions(passkey, checkpoint.spec.maxContext, checkpoint.name);
  const cells = makeCells(
    methodsOf(settings, 'recall'),
    settings.numbers('budget'),
    methodSettings(settings),
  );
  checkSkipLayers(cells, checkpoint.spec.nLayers);
  const tokenizer = await checkpoint.tokenizer();
  const task = createRecallTask(
    createPasskeyTask(passkey, tokenizer, await promptCache(context, checkpoint)),
    settings.number('top'),
  );
  const evaluation = {
    context,
    settings,
    checkpoint,
    tokenizer,
    plan: { model: { name: checkpoint.name, fingerprint: checkpoint.fingerprint }, task, cells },
    longestTokens: passkey.contextTokens,
    longestSteps: Math.ceil(1.25 * (await task.item(0)).stepIds.length),
    run: runRecall,
  };
  return finishRun(context, evaluation, started, (grid) => {
    const report: RecallReport = {
      modelName: checkpoint.name,
      contextTokens: passkey.contextTokens,
      top: task.top,
      skipLayers: settings.number('skip-layers'),
      cells: recallCells(cells, grid),
    };
    return {
      long: recallLongTable(report),
      wide: recallWideTable(report),
      figure: async () => {
        const { recallChart } = await import('../../report/analysis-charts.js');
        return (await import('../../report/svg.js')).renderSvg(recallChart(report));
      },
      cells: report.cells.map((cell, i) => ({ ...cellOptions(cells[i]!), recall: cell.recall })),
    };
  });
}

/** Runs `quest analyze`. */
export async function run(context: CommandContext): Promise<number> {
  const analysis = whichAnalysis(context.args, context.settings);
  return analysis === 'sparsity' ? sparsity(context) : recall(context);
}
