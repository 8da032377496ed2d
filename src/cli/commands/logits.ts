/** quest logits: the logits of decode steps for given ids, and the pages that selectors read. */
import { closeSync, openSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { cellName, cellOptions, methodDefinition, pageBudget } from '../../../eval/methods.js';
import { QuestError } from '../../errors.js';
import { type ModelSpec, writeSafetensors } from '../../model/index.js';
import { outputError } from '../../report/files.js';
import { manyReadsNote } from '../../report/rows.js';
import { columnsOf, type Format, fixed } from '../../report/table.js';
import type { MethodOptions } from '../../runtime/addon.js';
import type { CommandContext } from '../commands.js';
import { parseIds, readText } from '../input.js';
import { describeMemory, estimateMemory } from '../memory.js';
import { checkRunMemory, loadModel, openRun, singleCell } from '../session.js';
import type { Settings } from '../settings.js';

async function readIds(
  settings: Settings,
  vocab: number,
  maxContext: number,
): Promise<{ prompt: Int32Array; steps: Int32Array }> {
  const file = settings.string('ids');
  const ids = parseIds(await readText(file, '--ids'), vocab, file);
  const promptLength = settings.number('prompt-len');
  if (promptLength >= ids.length) {
    throw new QuestError(
      'E_IDS',
      `--prompt-len ${promptLength} leaves no decode steps of the ${ids.length} ids in ${file}`,
      {
        hint:
          ids.length > 1
            ? `use --prompt-len ${ids.length - 1} or less`
            : 'give at least two ids: one to prefill and one to feed as a decode step',
      },
    );
  }
  if (ids.length > maxContext) {
    throw new QuestError('E_CONTEXT', `${ids.length} ids exceed the model's context of ${maxContext}`, {
      hint: 'use fewer ids or a model with a longer context',
    });
  }
  return { prompt: ids.subarray(0, promptLength), steps: ids.subarray(promptLength) };
}

/** The pages of every step, sparse layer and query head: natively, and as they come back. */
function pageTraceBytes(
  tokens: number,
  steps: number,
  spec: ModelSpec,
  method: MethodOptions,
  pageSize: number,
): number {
  const most = Math.max(pageBudget(method, pageSize), Math.ceil(method.budgetTokens / pageSize));
  const width = Math.min(most, Math.ceil(tokens / pageSize));
  return 2 * steps * (spec.nLayers - method.skipLayers) * spec.nHeads * width * 4;
}

/** A place that cannot be written to is found before the model runs. */
function checkTarget(file: string): void {
  const target = statSync(file, { throwIfNoEntry: false });
  if (target?.isDirectory()) {
    throw outputError(Object.assign(new Error('a folder'), { code: 'EISDIR' }), file);
  }
  if (target !== undefined && !target.isFile()) {
    throw new QuestError('E_OUTPUT', `${file} is not a regular file, and would be replaced by one`, {
      hint: 'give --out the name of a file',
      exitCode: 3,
    });
  }
  const probe = join(dirname(file), `.${basename(file)}.${process.pid}.tmp`);
  try {
    closeSync(openSync(probe, 'wx'));
    rmSync(probe);
  } catch (error) {
    throw outputError(error, file);
  }
}

/** Runs `quest logits`. */
export async function run(context: CommandContext): Promise<number> {
  const { checkpoint, settings } = await openRun(context);
  const { spec } = checkpoint;
  const { prompt, steps } = await readIds(settings, spec.vocab, spec.maxContext);
  const cell = singleCell(settings, checkpoint, settings.string('method'));
  const def = methodDefinition(cell.method.method);
  const file = settings.string('out');
  checkTarget(file);
  const selector = def.kind === 'selector' && def.fields.includes('page_size');
  const memory = estimateMemory({
    spec,
    weightBytes: checkpoint.weightBytes,
    tokens: prompt.length + steps.length,
    pageSize: cell.pageSize,
    branches: 1,
    branchTokens: steps.length,
    evictors: def.kind === 'evictor' ? 1 : 0,
    extraBytes:
      2 * steps.length * spec.vocab * 4 +
      (selector
        ? pageTraceBytes(prompt.length + steps.length, steps.length, spec, cell.method, cell.pageSize)
        : 0),
  });
  if (settings.flag('dry-run')) {
    context.out.data(
      `prefill ${prompt.length} tokens, then ${steps.length} decode steps through ${cellName(cell)}\n`,
    );
    const needed = checkRunMemory(settings, checkpoint.spec, memory);
    context.out.data(`memory  about ${describeMemory(needed)}\n`);
    return 0;
  }

  using model = await loadModel(context, settings, checkpoint, memory);
  using base = model.createSequence(cell.pageSize);
  const { signal } = context;
  await base.prefill(prompt, { signal, h2oPrefill: cell.method.h2oPrefill });
  using branch = base.fork(cell.method);
  const [result] = await model.feed([{ sequence: branch, ids: steps, logits: 'all', pages: selector }], {
    signal,
  });
  const logits = result?.logits;
  if (logits === undefined)
    throw new QuestError('E_NATIVE', 'the runtime returned no logits', { exitCode: 3 });
  const pages = selector ? result?.pages : undefined;
  const width = result?.pagesWidth ?? 0;
  try {
    await writeSafetensors(
      file,
      [
        { name: 'logits', shape: [steps.length, spec.vocab], data: logits },
        ...(pages !== undefined && width > 0
          ? [
              {
                name: 'pages',
                shape: [pages.length / (spec.nHeads * width), spec.nHeads, width],
                data: pages,
              },
            ]
          : []),
      ],
      {
        model: checkpoint.name,
        model_fingerprint: checkpoint.fingerprint,
        prompt_len: String(prompt.length),
        ...Object.fromEntries(Object.entries(cellOptions(cell)).map(([key, value]) => [key, String(value)])),
      },
    );
  } catch (error) {
    // The cause's own words name the temporary file.
    throw outputError(error instanceof QuestError ? (error.cause ?? error) : error, file);
  }
  const counters = branch.counters();
  const read = (100 * (counters.kvBytes + counters.metadataBytes)) / Math.max(1, counters.denseKvBytes);
  await context.out.table(
    {
      columns: columnsOf(['method', 'budget_tokens', 'steps', 'vocab', 'pages', 'kv_read_pct', 'out'], {
        kv_read_pct: fixed(2),
      }),
      notes: read > 100 ? manyReadsNote([cellName(cell)]) : [],
      rows: [
        [
          cell.method.method,
          def.minBudget === undefined ? undefined : cell.method.budgetTokens,
          steps.length,
          spec.vocab,
          pages === undefined ? undefined : width,
          read,
          file,
        ],
      ],
    },
    settings.string('format') as Format,
  );
  if (def.kind !== 'dense' && counters.sparseSteps === 0) {
    context.out.note(
      `${cellName(cell)} never attended fewer tokens than the cache held: it was the same as full`,
    );
  }
  return 0;
}
