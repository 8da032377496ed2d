/** A sweep's folder: `sweep.json` (the plan), `units/ID/` (an ordinary run each), and how far each unit is. */
import { existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { JOURNAL_NAME } from '../../../eval/journal.js';
import { PLAN_NAME as RUN_PLAN_NAME } from '../../../eval/plan.js';
import { QuestError } from '../../errors.js';
import { ensureFolder, writeFileAtomic } from '../../report/files.js';
import type { Unit } from './units.js';

export const PLAN_NAME = 'sweep.json';
/** Folder of the units' own folders. */
export const UNITS = 'units';
const DONE_NAME = 'unit.json';
const ERROR_NAME = 'error.json';
/** What a unit's command said, appended by every attempt. */
export const LOG_NAME = 'unit.log';

const unitSchema = z.object({
  id: z.string().regex(/^[a-z0-9][a-z0-9.-]*$/),
  task: z.string(),
  model: z.string(),
  contextTokens: z.number().optional(),
  seed: z.number().optional(),
  argv: z.array(z.string()).min(1),
  cells: z.array(z.object({ method: z.string(), budgetTokens: z.number().optional() })).min(1),
  tokens: z.number(),
  hash: z.string(),
});
const planSchema = z.object({ version: z.literal(1), units: z.array(unitSchema).min(1) });
const doneSchema = z.object({ hash: z.string() });
const errorSchema = z.object({ hash: z.string(), message: z.string(), hint: z.string().optional() });

export type UnitError = z.infer<typeof errorSchema>;

export const unitFolder = (folder: string, unit: Pick<Unit, 'id'>): string => join(folder, UNITS, unit.id);

/** JSON of that shape; nothing for a file that is missing or was torn or changed. */
function readJson<T>(path: string, schema: z.ZodType<T>): T | undefined {
  try {
    return schema.safeParse(JSON.parse(readFileSync(path, 'utf8'))).data;
  } catch {
    return undefined;
  }
}

/** The plan that a folder has. */
export function readUnits(folder: string): Unit[] | undefined {
  const path = join(folder, PLAN_NAME);
  if (!existsSync(path)) return undefined;
  const plan = readJson(path, planSchema);
  if (plan === undefined)
    throw new QuestError('E_SWEEP', `${path} is not the plan of a sweep`, {
      hint: 'something else has changed it; use another --out. Nothing was changed',
      exitCode: 3,
    });
  return plan.units as Unit[];
}

/** Refuses a sweep's folder to a single run, whose table would take the place of the merged one. */
export function refuseSweepFolder(folder: string): void {
  if (!existsSync(join(folder, PLAN_NAME))) return;
  throw new QuestError('E_PLAN', `${folder} holds a sweep`, { hint: 'use another --out' });
}

/** Refuses a folder that holds a single run, or another sweep. One that only grows, by units, methods or budgets, is welcome. */
export function checkSweepFolder(folder: string, units: readonly Unit[]): void {
  const before = readUnits(folder) ?? [];
  const run = [RUN_PLAN_NAME, JOURNAL_NAME].find((name) => existsSync(join(folder, name)));
  if (run !== undefined)
    throw new QuestError('E_PLAN', `${folder} holds a run of its own (${run})`, {
      hint: 'use another --out',
    });
  const now = new Map(units.map((unit) => [unit.id, unit]));
  const cell = (c: Unit['cells'][number]) => `${c.method} ${c.budgetTokens ?? ''}`.trimEnd();
  for (const unit of before) {
    const own = now.get(unit.id)?.cells.map(cell);
    const lost = own === undefined ? undefined : unit.cells.map(cell).find((one) => !own.includes(one));
    if (own !== undefined && lost === undefined) continue;
    throw new QuestError(
      'E_PLAN',
      `${folder} holds another sweep: ${lost ?? unit.id} is no longer part of ${lost === undefined ? 'it' : unit.id}`,
      { hint: 'use another --out, or keep what that sweep had (more may be added)' },
    );
  }
}

/** Leaves the plan for later runs and for the jobs of a cluster. */
export function writeUnits(folder: string, units: readonly Unit[]): void {
  writeFileAtomic(join(folder, PLAN_NAME), `${JSON.stringify({ version: 1, units }, null, 2)}\n`);
}

/** Whether the unit has finished as it is now. */
export function isDone(folder: string, unit: Unit): boolean {
  return readJson(join(unitFolder(folder, unit), DONE_NAME), doneSchema)?.hash === unit.hash;
}

/** Why the unit failed, if it did. */
export function failureOf(folder: string, unit: Unit): UnitError | undefined {
  const error = readJson(join(unitFolder(folder, unit), ERROR_NAME), errorSchema);
  return error?.hash === unit.hash ? error : undefined;
}

/** Forgets a failure, so that the unit is tried again. */
export function clearFailure(folder: string, unit: Unit): void {
  rmSync(join(unitFolder(folder, unit), ERROR_NAME), { force: true });
}

export function markDone(folder: string, unit: Unit): void {
  clearFailure(folder, unit);
  const { hash, argv } = unit;
  writeFileAtomic(
    join(unitFolder(folder, unit), DONE_NAME),
    `${JSON.stringify({ hash, command: ['quest', ...argv].join(' ') })}\n`,
  );
}

export function markFailed(folder: string, unit: Unit, error: Omit<UnitError, 'hash'>): void {
  const own = unitFolder(folder, unit);
  ensureFolder(own);
  writeFileAtomic(join(own, ERROR_NAME), `${JSON.stringify({ hash: unit.hash, ...error })}\n`);
}

/** Bytes of the unit's journal: whether an attempt has got anywhere. */
export function journalBytes(folder: string, unit: Unit): number {
  return statSync(join(unitFolder(folder, unit), JOURNAL_NAME), { throwIfNoEntry: false })?.size ?? 0;
}

/** The device of the rows that the unit has already. */
export function journalDevice(folder: string, unit: Unit): string | undefined {
  const path = join(unitFolder(folder, unit), JOURNAL_NAME);
  if (!existsSync(path)) return undefined;
  const text = readFileSync(path, 'utf8');
  const first = readJsonLine(text.slice(0, text.indexOf('\n')));
  return typeof first?.device === 'string' ? first.device : undefined;
}

function readJsonLine(line: string): { device?: unknown } | undefined {
  try {
    return JSON.parse(line) as { device?: unknown };
  } catch {
    return undefined;
  }
}
