/** From the folders of finished and failed units to the rows of the sweep. */
import { type JournalRow, readJournal } from '../../../eval/journal.js';
import { scoredCells } from '../../report/cells.js';
import { readRun } from '../../report/html-run.js';
import type { SweepCell } from '../../report/sweep.js';
import { failureOf, isDone, unitFolder } from './store.js';
import type { Unit } from './units.js';

/** Branches that ran together share their time evenly, so that a column adds up to the time of the whole. */
function secondsOf(rows: readonly JournalRow[], method: string, budget: number | undefined): number {
  const own = rows.filter(({ cell }) => cell.method === method && cell.budget_tokens === budget);
  return own.reduce((total, { timing: { prefill_s, feed_s, generate_s, branches } }) => {
    return total + (prefill_s + feed_s + generate_s) / Math.max(1, branches);
  }, 0);
}

function finishedCells(folder: string, unit: Unit): SweepCell[] {
  const own = unitFolder(folder, unit);
  const rows = readJournal(own);
  const run = readRun(own);
  return scoredCells(run).map((cell) => {
    const part = cell.task.slice(unit.task.length + 1); // one book of several
    const timed =
      part === '' || part === 'all' ? rows : rows.filter(({ fields }) => String(fields.book) === part);
    return {
      ...cell,
      model: run.manifest.model.name,
      contextTokens: unit.contextTokens,
      seed: unit.seed,
      seconds: secondsOf(timed, cell.method, cell.budgetTokens),
      unit: unit.id,
      error: undefined,
    };
  });
}

/** Rows of all units in the order of the plan; a unit that failed has its cells with the error. */
export function mergeUnits(folder: string, units: readonly Unit[]): SweepCell[] {
  return units.flatMap((unit) => {
    if (isDone(folder, unit)) return finishedCells(folder, unit);
    const error = failureOf(folder, unit)?.message ?? 'not computed';
    return unit.cells.map((cell) => ({
      ...cell,
      task: unit.task,
      data: undefined,
      model: unit.model,
      contextTokens: unit.contextTokens,
      seed: unit.seed,
      samples: undefined,
      score: undefined,
      metric: undefined,
      lowerIsBetter: false,
      bestScore: undefined,
      kvReadPct: undefined,
      neverSparse: false,
      seconds: undefined,
      unit: unit.id,
      error,
    }));
  });
}
