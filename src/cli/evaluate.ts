/** Runs a plan in its output folder: lock, plan check, journal, progress, resume. Shared by all evaluations. */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { journalStarted, openJournal, readJournal } from '../../eval/journal.js';
import { budgetNotes, type Cell, estimatedReadShare, methodDefinition } from '../../eval/methods.js';
import {
  checkFolderPlan,
  describeCells,
  measurePlan,
  type Plan,
  type PlanSize,
  planHash,
  writePlan,
} from '../../eval/plan.js';
import { type RowGrid, runPlan } from '../../eval/runner.js';
import { QuestError } from '../errors.js';
import type { Checkpoint, Tokenizer } from '../model/index.js';
import { outputError } from '../report/files.js';
import type { DeviceInfo, Model } from '../runtime/index.js';
import { plural } from '../words.js';
import type { CommandContext } from './commands.js';
import { MANIFEST_NAME } from './manifest.js';
import { describeMemory, estimateMemory, type MemoryEstimate } from './memory.js';
import { clock, type Progress, startProgress } from './progress.js';
import { kvTokenBytes, prefillFlops, roughRates } from './rough.js';
import { holdRunFolder } from './run_folder.js';
import { checkRunMemory, loadModel, presetNote, runDevice } from './session.js';
import type { Settings } from './settings.js';
import { refuseSweepFolder } from './sweep/store.js';

export interface Evaluation {
  context: CommandContext;
  settings: Settings;
  checkpoint: Checkpoint;
  tokenizer: Tokenizer;
  plan: Plan;
  /** Tokens of the longest item with its decode steps, and the steps of one branch. */
  longestTokens: number;
  longestSteps: number;
  /** What runs the plan where items are not answered by generating; absent: {@link runPlan}. */
  run?: typeof runPlan;
  /** Memory, where not all branches of an item are alive at once. */
  memory?: MemoryEstimate;
  /** What an item is called. */
  unit?: string;
}

export interface EvaluationResult {
  folder: string;
  grid: RowGrid;
  /** Rows computed now, and rows that were there already. */
  computed: number;
  reused: number;
  seconds: number;
  device: DeviceInfo | undefined;
}

/** `--out`, or a folder named after the plan, so that the same command finds its rows again. */
export function outputFolder(settings: Settings, plan: Plan): string {
  return settings.maybeString('out') ?? join('runs', `${plan.task.name}-${planHash(plan)}`);
}

/** Memory for the plan's longest item with all its branches. */
export function planMemory(evaluation: Evaluation): MemoryEstimate {
  const { checkpoint, plan, longestTokens, longestSteps, memory } = evaluation;
  if (memory !== undefined) return memory;
  const budgeted = (cell: Cell) => methodDefinition(cell.method.method).kind === 'evictor';
  return estimateMemory({
    spec: checkpoint.spec,
    weightBytes: checkpoint.weightBytes,
    tokens: longestTokens,
    pageSize: Math.max(...plan.cells.map((cell) => cell.pageSize)),
    branches: plan.cells.length,
    branchTokens: longestSteps,
    evictors: plan.cells.filter(budgeted).length,
  });
}

/** A folder that cannot be written to is found before hours of work. See {@link holdRunFolder} for what is returned. */
function openFolder(folder: string): (failure?: unknown) => void {
  try {
    if (existsSync(folder) && !statSync(folder).isDirectory()) {
      throw new QuestError('E_OUTPUT', `${folder} is a file, not a folder`, {
        hint: 'choose another --out',
        exitCode: 3,
      });
    }
  } catch (error) {
    throw outputError(error, folder);
  }
  refuseSweepFolder(folder);
  return holdRunFolder(folder);
}

/** Whether the folder has rows or results that must not be mixed with another plan's. */
const hasResults = (folder: string, rows: number): boolean =>
  rows > 0 || existsSync(join(folder, MANIFEST_NAME));

/** Computes what is missing and returns all rows. The folder is locked meanwhile; `finish` runs under the same lock. */
export async function evaluate(
  evaluation: Evaluation,
  finish: (result: EvaluationResult) => Promise<void>,
): Promise<EvaluationResult> {
  const { context, settings, checkpoint, tokenizer, plan, run = runPlan, unit = 'sample' } = evaluation;
  const { out, signal } = context;
  const folder = outputFolder(settings, plan);
  const memory = planMemory(evaluation);
  // Refused before anything is written. A finished run needs none; one that goes on is checked when it loads the model.
  if (!journalStarted(folder)) checkRunMemory(settings, checkpoint.spec, memory);
  const giveBack = openFolder(folder);
  let model: Model | undefined;
  let failure: unknown;
  try {
    const rows = readJournal(folder, plan.task.rowShape).length;
    checkFolderPlan(folder, plan, hasResults(folder, rows));
    using journal = openJournal(folder, out.note, plan.task.rowShape);
    const before = journal.size;
    out.note(
      `${plan.task.name}: ${plural(plan.task.count, unit)} x ${plural(plan.cells.length, 'cell')} (${describeCells(plan.cells)}) -> ${folder}`,
    );
    for (const note of budgetNotes(plan.cells)) out.note(note);
    if (before > 0) out.note(`resuming: the journal has ${plural(before, 'row')}`);
    const started = performance.now();
    let progress: Progress | undefined;
    let grid: RowGrid;
    try {
      grid = await run({
        plan,
        journal,
        tokenizer,
        eosIds: checkpoint.eosIds,
        signal,
        loadModel: async () => {
          model = await loadModel(context, settings, checkpoint, memory);
          writePlan(folder, plan); // from the first row on, and not when the model was refused
          progress = await startProgress(out, plan.task.name); // after the notes of loading
          return model;
        },
        onProgress: ({ items, fraction, total, phase, label }) => {
          const text = label ?? `sample ${items + 1} of ${total}: ${phase}`;
          progress?.update((items + fraction) / total, phase === 'reuse' ? 'reuse' : text);
        },
      });
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    } finally {
      progress?.stop();
    }
    if (model === undefined) writePlan(folder, plan); // all rows were there, its plan may not be
    const seconds = (performance.now() - started) / 1000;
    const computed = journal.size - before;
    const result = {
      folder,
      grid,
      computed,
      reused: plan.task.count * plan.cells.length - computed,
      seconds,
      device: model?.info,
    };
    await finish(result);
    return result;
  } catch (error) {
    failure = error;
    if (error instanceof QuestError && error.code === 'E_INTERRUPTED' && error.hint === undefined) {
      throw new QuestError(error.code, `interrupted; finished samples are kept in ${folder}`, {
        hint: 'the same command goes on from there',
        exitCode: 130,
        cause: error,
      });
    }
    throw error;
  } finally {
    model?.dispose();
    giveBack(failure);
  }
}

function roughSeconds(
  checkpoint: Checkpoint,
  plan: Plan,
  size: PlanSize,
  device: string,
  cores: number,
): { prefill: number; decode: number } {
  const { spec } = checkpoint;
  const rates = roughRates(device, cores);
  const kv = size.longestTokens * kvTokenBytes(spec, device);
  // Branches share each step's pass over the weights and read their own part of the KV cache.
  const calls = size.decodeSteps / Math.max(1, plan.cells.length);
  const shares = plan.cells.map((cell) => estimatedReadShare(cell, size.longestTokens, spec.nLayers));
  const bytes = calls * (checkpoint.weightBytes + kv * shares.reduce((a, b) => a + b, 0));
  return {
    prefill: prefillFlops(spec, size.prefillTokens, size.longestTokens) / rates.flopsPerS,
    decode: bytes / rates.bytesPerS,
  };
}

/** `--dry-run`: the plan, its size, memory and rough time. Loads no weights and writes nothing. */
export async function describePlan(evaluation: Evaluation, cores: number): Promise<string> {
  const { settings, checkpoint, plan, unit = 'sample' } = evaluation;
  const folder = outputFolder(settings, plan);
  const have = new Set(readJournal(folder, plan.task.rowShape).map((row) => row.key));
  checkFolderPlan(folder, plan, hasResults(folder, have.size));
  const size = await measurePlan(plan, (key) => have.has(key));
  const memory = checkRunMemory(settings, checkpoint.spec, planMemory(evaluation));
  const time = roughSeconds(checkpoint, plan, size, runDevice(settings, checkpoint.spec), cores);
  const n = (value: number) => value.toLocaleString('en-US');
  const lines: [string, string][] = [
    [
      'plan',
      `${plan.task.name} on ${checkpoint.name}, ${plural(plan.task.count, unit)} x ${plural(plan.cells.length, 'cell')}`,
    ],
    ['cells', describeCells(plan.cells)],
    ...budgetNotes(plan.cells).map((note): [string, string] => ['', note]),
    ['preset', presetNote(settings) ?? 'none'],
    ['rows', `${n(size.rows)}${size.done > 0 ? `, of which ${n(size.done)} are in the journal` : ''}`],
    ['prefill', `${n(size.prefillTokens)} tokens, once per sample for all cells`],
    ['decode', `at most ${plural(size.decodeSteps, 'step')} over all branches`],
    ['memory', `about ${describeMemory(memory)}`],
    [
      'time',
      `roughly ${clock(time.prefill + time.decode)} (prefill ${clock(time.prefill)}, decode ${clock(time.decode)})`,
    ],
    ['output', folder],
  ];
  return lines.map(([name, value]) => `${name.padEnd(8)} ${value}\n`).join('');
}
