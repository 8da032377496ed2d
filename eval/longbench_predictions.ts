/** predictions.jsonl: made from a finished run's journal rows, or read again to be scored anew. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { LongBenchSet } from '../datasets/longbench.js';
import { TASK_NAMES } from '../datasets/longbench_tasks.js';
import { QuestError } from '../src/errors.js';
import { Fields, isObject, type JsonObject } from '../src/model/fields.js';
import { readTextFile } from '../src/reading.js';
import { metricOf, scoresFirstLine } from './longbench_protocol.js';
import { type Cell, cellOptions, methodDefinition } from './methods.js';
import { createScore, type Score } from './metrics/index.js';
import type { RowGrid } from './runner.js';

export const PREDICTIONS_NAME = 'predictions.jsonl';

/** One line of predictions.jsonl: an item through one cell, with all that scoring and reports need. */
export interface Prediction {
  task: string;
  row: number;
  row_id: string;
  /** Method, budget and the options that matter to it. */
  cell: Record<string, string | number | boolean>;
  prompt_sha256: string;
  prompt_tokens: number;
  step_tokens: number;
  output_tokens: number;
  truncated: boolean;
  length: number;
  prediction: string;
  answers: string[];
  all_classes: string[] | null;
  /** 0 to 1; null until it is scored. */
  score: number | null;
  kv_read_bytes: number;
  kv_dense_bytes: number;
  kv_read_pct: number;
  /** No step attended fewer tokens than the cache held. */
  never_sparse: boolean;
}

/** Scores of tasks, made once each. */
export function createScorer(): (record: Prediction) => Promise<number> {
  const scores = new Map<string, Promise<Score>>();
  return async ({ task, prediction, answers, all_classes }) => {
    let score = scores.get(task);
    score ??= createScore(metricOf(task), { firstLineOnly: scoresFirstLine(task) });
    scores.set(task, score);
    return (await score)(prediction, { answers, classes: all_classes ?? [] });
  };
}

/** All predictions of a finished run, item by item in plan order. */
export async function collectPredictions(
  sets: readonly LongBenchSet[],
  cells: readonly Cell[],
  grid: RowGrid,
): Promise<Prediction[]> {
  const score = createScorer();
  const records: Prediction[] = [];
  let item = 0;
  for (const set of sets) {
    for (let index = 0; index < set.count; index++, item++) {
      const { id, length, answers, classes } = set.row(index);
      for (const [column, cell] of cells.entries()) {
        const row = grid[item]![column]!;
        const { kvBytes, metadataBytes, denseKvBytes, sparseSteps } = row.counters;
        const read = kvBytes + metadataBytes;
        const record: Prediction = {
          task: set.task,
          row: index,
          row_id: id,
          cell: cellOptions(cell),
          prompt_sha256: String(row.fields.prompt_sha256),
          prompt_tokens: row.prefill_tokens + row.step_tokens,
          step_tokens: row.step_tokens,
          output_tokens: row.output_ids.length,
          truncated: row.fields.truncated === 1,
          length,
          prediction: row.output,
          answers,
          all_classes: classes.length === 0 ? null : classes,
          score: row.score,
          kv_read_bytes: read,
          kv_dense_bytes: denseKvBytes,
          kv_read_pct: percent(read, denseKvBytes),
          never_sparse: methodDefinition(cell.method.method).kind !== 'dense' && sparseSteps === 0,
        };
        // Two rows with one prompt share a line of the journal, which was scored by the first one's answers.
        if (row.fields.task !== set.task || row.fields.row !== index) record.score = await score(record);
        records.push(record);
      }
    }
  }
  return records;
}

/** With four digits; everything was read where there was nothing to read. */
export function percent(part: number, whole: number): number {
  return whole === 0 ? 100 : Number(((100 * part) / whole).toFixed(4));
}

/** The file's text. */
export function renderPredictions(records: readonly Prediction[]): string {
  return records.map((record) => `${JSON.stringify(record)}\n`).join('');
}

function parsePrediction(value: unknown, where: string): Prediction {
  if (!isObject(value)) throw new Fields(where, { value: value as string }).error('value', 'an object');
  const fields = new Fields(where, value);
  const texts = (key: string, optional: boolean): string[] | null => {
    const found = value[key];
    if (optional && (found ?? null) === null) return null;
    if (!Array.isArray(found) || found.some((text) => typeof text !== 'string'))
      throw fields.error(key, 'a list of texts');
    return found as string[];
  };
  const text = (key: string): string => {
    const found = value[key];
    if (typeof found !== 'string') throw fields.error(key, 'text');
    return found;
  };
  const most = Number.MAX_SAFE_INTEGER;
  const task = text('task');
  if (!TASK_NAMES.includes(task)) throw fields.error('task', `one of ${TASK_NAMES.join(', ')}`);
  const cell = fields.object('cell')?.values as JsonObject | undefined;
  if (typeof cell?.method !== 'string') throw fields.error('cell', 'an object with a method');
  methodDefinition(cell.method);
  return {
    ...(value as unknown as Prediction),
    task,
    row: fields.integer('row', 0, most),
    length: fields.integer('length', 0, most),
    prediction: text('prediction'),
    answers: texts('answers', false)!,
    all_classes: texts('all_classes', true),
    kv_read_bytes: fields.number('kv_read_bytes', 0, most),
    kv_dense_bytes: fields.number('kv_dense_bytes', 0, most),
    truncated: fields.boolean('truncated', false),
    never_sparse: fields.boolean('never_sparse', false),
  };
}

/** Reads a folder's predictions, each line checked. */
export function readPredictions(folder: string): Prediction[] {
  const path = join(folder, PREDICTIONS_NAME);
  if (!existsSync(path)) {
    throw new QuestError('E_INPUT', `there is no ${PREDICTIONS_NAME} in ${folder}`, {
      hint: 'give the --out folder of a finished quest longbench run',
    });
  }
  const hint = 'run quest longbench again to write it anew';
  const lines = readTextFile(path, { code: 'E_INPUT', hint, exitCode: 3 }).split('\n');
  if (lines.at(-1) === '') lines.pop();
  if (lines.length === 0)
    throw new QuestError('E_INPUT', `${path} is empty`, { hint: 'run quest longbench again' });
  const changed = (message: string, cause?: unknown) =>
    new QuestError('E_INPUT', message, {
      hint: 'the file was changed; run quest longbench again to write it anew',
      cause,
    });
  const records = lines.map((line, i) => {
    const where = `${path}, line ${i + 1}`;
    try {
      return parsePrediction(JSON.parse(line), where);
    } catch (cause) {
      if (cause instanceof SyntaxError) throw changed(`${where}: not JSON (${cause.message})`, cause);
      if (cause instanceof QuestError) throw changed(cause.message, cause);
      throw cause;
    }
  });
  const incomplete = firstIncomplete(records);
  if (incomplete !== undefined) throw changed(`${path} lacks a prediction of ${incomplete}`);
  return records;
}

/** A row that not every cell of its run has answered: means over different rows compare nothing. */
function firstIncomplete(records: readonly Prediction[]): string | undefined {
  const cells = new Set(records.map(({ cell }) => JSON.stringify(cell)));
  const answers = new Map<string, Set<string>>();
  for (const { task, row, cell } of records) {
    const name = `${task}, row ${row}`;
    answers.set(name, (answers.get(name) ?? new Set()).add(JSON.stringify(cell)));
  }
  return [...answers].find(([, own]) => own.size < cells.size)?.[0];
}
