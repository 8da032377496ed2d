/** A plan says what a run will compute before anything is loaded: cells x items, and the keys under which rows are kept. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { QuestError } from '../src/errors.js';
import { readTextFile } from '../src/reading.js';
import { writeFileAtomic } from '../src/report/files.js';
import { type Cell, cellName, cellOptions } from './methods.js';
import type { Task, TaskItem } from './task.js';

export const PLAN_NAME = 'plan.json';

export interface Plan {
  model: { name: string; fingerprint: string };
  task: Task;
  cells: Cell[];
}

const scalar = z.union([z.string(), z.number(), z.boolean()]);
const planSchema = z.object({
  task: z.string(),
  model: z.string(),
  model_fingerprint: z.string(),
  params: z.record(z.string(), z.union([scalar, z.array(z.union([z.string(), z.number()]))])),
  cells: z.array(z.record(z.string(), scalar)),
});

/** The plan as data: what plan.json holds and what the default folder's name is a hash of. */
export interface PlanRecord {
  task: string;
  model: string;
  model_fingerprint: string;
  params: Task['params'];
  cells: Record<string, string | number | boolean>[];
}

const sha256 = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex');

/** The plan as plain data, in a stable order. */
export function planRecord(plan: Plan): PlanRecord {
  return {
    task: plan.task.name,
    model: plan.model.name,
    model_fingerprint: plan.model.fingerprint,
    params: plan.task.params,
    cells: plan.cells.map(cellOptions),
  };
}

/**
 * Eight hex digits that name the plan, so that the same command finds its folder again. The model's place and the order
 * of methods and budgets do not count.
 */
export function planHash(plan: Plan): string {
  const { model: _, cells, ...rest } = planRecord(plan);
  const sorted = cells.map((cell) => JSON.stringify(cell)).sort();
  return sha256(JSON.stringify({ ...rest, cells: sorted })).slice(0, 8);
}

const idsHash = (ids: Int32Array): string =>
  sha256(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength));

/** Hashes an item's tokens once for all its cells; the result makes the key of one row. */
export function rowKeys(plan: Plan, item: TaskItem): (cell: Cell) => string {
  const common = {
    v: 1,
    task: plan.task.name,
    model: plan.model.fingerprint,
    prefill: idsHash(item.prefillIds),
    steps: idsHash(item.stepIds),
    generate: {
      max_new_tokens: item.maxNewTokens,
      temperature: 0,
      ...(item.stopIds && { stop_ids: item.stopIds }),
    },
  };
  return (cell) => sha256(JSON.stringify({ ...common, cell: cellOptions(cell) })).slice(0, 24);
}

/** What keeps a folder from going on with this plan; empty when it only adds cells. */
export function planDifferences(before: PlanRecord, now: PlanRecord): string[] {
  const differences: string[] = [];
  const compare = (name: string, a: unknown, b: unknown) => {
    const [was, is] = [JSON.stringify(a) ?? 'absent', JSON.stringify(b) ?? 'absent'];
    if (was !== is) differences.push(`${name} was ${was}, now ${is}`);
  };
  compare('task', before.task, now.task);
  compare('model fingerprint', before.model_fingerprint, now.model_fingerprint);
  for (const key of new Set([...Object.keys(before.params), ...Object.keys(now.params)])) {
    compare(key, before.params[key], now.params[key]);
  }
  const have = new Set(now.cells.map((cell) => JSON.stringify(cell)));
  for (const cell of before.cells) {
    const text = JSON.stringify(cell);
    if (!have.has(text)) differences.push(`${text} is no longer part of the table`);
  }
  return differences;
}

/** Reads a folder's plan, if it has one. */
export function readPlan(folder: string): PlanRecord | undefined {
  const path = join(folder, PLAN_NAME);
  if (!existsSync(path)) return undefined;
  const hint = 'give another folder; nothing was changed';
  const text = readTextFile(path, { code: 'E_PLAN', hint, exitCode: 3 });
  let problem = 'it is not JSON';
  try {
    const { data, error } = planSchema.safeParse(JSON.parse(text));
    if (data !== undefined) return data;
    const issue = error.issues[0]!;
    problem = `${issue.path.join('.') || 'it'}: ${issue.message}`;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  throw new QuestError('E_PLAN', `${path} is not a plan (${problem})`, { hint, exitCode: 3 });
}

/**
 * Refuses a folder that belongs to another plan. A plan that only adds methods or budgets is welcome, and a plan that
 * nothing was computed for (`started` is false) binds nobody.
 */
export function checkFolderPlan(folder: string, plan: Plan, started: boolean): void {
  const before = readPlan(folder);
  if (before === undefined || !started) return;
  const differences = planDifferences(before, planRecord(plan));
  if (differences.length === 0) return;
  throw new QuestError('E_PLAN', `${folder} holds another run: ${differences.join('; ')}`, {
    hint: 'use another --out, or repeat the options of that run (more methods or budgets may be added)',
  });
}

/** Leaves the plan in the folder, for later runs to compare with. */
export function writePlan(folder: string, plan: Plan): void {
  writeFileAtomic(join(folder, PLAN_NAME), `${JSON.stringify(planRecord(plan), null, 2)}\n`);
}

/** What the run amounts to, for --dry-run and progress. */
export interface PlanSize {
  rows: number;
  prefillTokens: number;
  /** Fed and generated tokens of all branches, at most. */
  decodeSteps: number;
  longestTokens: number;
  /** Tokens fed and generated by one branch of the longest item. */
  longestSteps: number;
  /** Rows that the journal has already. */
  done: number;
}

/** Adds up the plan's items. `has` tells which rows are there already. */
export async function measurePlan(plan: Plan, has: (key: string) => boolean): Promise<PlanSize> {
  const size: PlanSize = {
    rows: 0,
    prefillTokens: 0,
    decodeSteps: 0,
    longestTokens: 0,
    longestSteps: 0,
    done: 0,
  };
  for (let index = 0; index < plan.task.count; index++) {
    const item = await plan.task.item(index);
    const keyOf = rowKeys(plan, item);
    const steps = item.stepIds.length + item.maxNewTokens;
    const done = plan.cells.filter((cell) => has(keyOf(cell))).length;
    const open = plan.cells.length - done;
    size.rows += plan.cells.length;
    size.done += done;
    size.prefillTokens += open > 0 ? item.prefillIds.length : 0;
    size.decodeSteps += open * steps;
    size.longestTokens = Math.max(size.longestTokens, item.prefillIds.length + steps);
    size.longestSteps = Math.max(size.longestSteps, steps);
  }
  return size;
}

/** `full, quest 64, quest 128, ...` */
export function describeCells(cells: readonly Cell[]): string {
  return cells.map(cellName).join(', ');
}
