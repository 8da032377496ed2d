/**
 * LongBench's own JSONL files, one per task. Every row of a file is checked when it is opened; rows are kept on disk and
 * read again when they are needed, so that a run over all tasks holds one document at a time.
 */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { QuestError } from '../src/errors.js';
import { isObject, show } from '../src/model/fields.js';
import { readError } from '../src/reading.js';
import { PAPER_TASKS, TASK_NAMES, taskKind } from './longbench_tasks.js';

export interface LongBenchRow {
  /** The question; empty where the task has none. */
  input: string;
  context: string;
  answers: string[];
  /** Words of the document (characters for Chinese), as the benchmark counted them. */
  length: number;
  language: string;
  /** The classes of a classification task, empty elsewhere. */
  classes: string[];
  id: string;
}

/** The rows of one task. */
export interface LongBenchSet {
  task: string;
  count: number;
  /** Sixteen hex digits over all rows. */
  hash: string;
  /** Index of the row with the most text. */
  longest: number;
  row(index: number): LongBenchRow;
}

const strictUtf8 = new TextDecoder('utf-8', { fatal: true });

function broken(file: string, line: number, what: string): QuestError {
  return new QuestError('E_DATA', `${file}, line ${line}: ${what}`, {
    hint: 'the file is not what the benchmark published; fetch it again',
    exitCode: 3,
  });
}

/** Checks one line and takes what is needed of it. */
export function parseRow(bytes: Uint8Array, task: string, file: string, line: number): LongBenchRow {
  let value: unknown;
  try {
    value = JSON.parse(strictUtf8.decode(bytes));
  } catch (error) {
    const reason = error instanceof SyntaxError ? `not JSON (${error.message})` : 'not UTF-8';
    throw broken(file, line, reason);
  }
  if (!isObject(value)) throw broken(file, line, `${show(value)} is no JSON object`);
  const wrong = (field: string, wanted: string) =>
    broken(file, line, `${field} is ${show(value[field])}; wanted: ${wanted}`);
  const text = (field: string): string => {
    const found = value[field];
    if (typeof found !== 'string') throw wrong(field, 'text');
    return found;
  };
  const texts = (field: string): string[] => {
    const found = value[field];
    if (!Array.isArray(found) || found.length === 0 || found.some((item) => typeof item !== 'string'))
      throw wrong(field, 'a list of texts, at least one');
    return found as string[];
  };
  const { length, dataset } = value;
  if (typeof length !== 'number' || !Number.isInteger(length) || length < 0)
    throw wrong('length', 'a whole number from 0');
  if (dataset !== task && dataset !== `${task}_e`) throw wrong('dataset', JSON.stringify(task));
  const classified = task === 'trec' || task === 'lsht';
  return {
    input: text('input'),
    context: text('context'),
    answers: texts('answers'),
    length,
    language: text('language'),
    classes: !classified && (value.all_classes ?? null) === null ? [] : texts('all_classes'),
    id: text('_id'),
  };
}

/** The lines of a file that are not blank, as [start, end) in bytes with their numbers. */
function lines(bytes: Buffer): { start: number; end: number; number: number }[] {
  const found: { start: number; end: number; number: number }[] = [];
  const bom = bytes.length >= 3 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
  for (let start = bom ? 3 : 0, number = 1; start < bytes.length; number++) {
    const newline = bytes.indexOf(0x0a, start);
    const end = newline < 0 ? bytes.length : newline;
    const blank = bytes.subarray(start, end).every((byte) => byte === 0x20 || byte === 0x0d || byte === 0x09);
    if (!blank) found.push({ start, end, number });
    start = end + 1;
  }
  return found;
}

/** Opens one task's file and checks all its rows; `limit` keeps the first ones. */
export function openLongBenchFile(file: string, task: string, limit?: number): LongBenchSet {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (cause) {
    const hint = 'check the path and its permissions';
    throw readError(cause, file, { code: 'E_DATA', hint, exitCode: 3 });
  }
  const all = lines(bytes);
  if (all.length === 0) throw broken(file, 1, 'the file has no rows');
  for (const { start, end, number } of all) parseRow(bytes.subarray(start, end), task, file, number);
  const kept = all.slice(0, limit);
  const hash = createHash('sha256');
  for (const { start, end } of kept) hash.update(bytes.subarray(start, end)).update('\n');
  return {
    task,
    count: kept.length,
    hash: hash.digest('hex').slice(0, 16),
    longest: kept.reduce(
      (best, { start, end }, i) => (end - start > kept[best]!.end - kept[best]!.start ? i : best),
      0,
    ),
    row(index) {
      const { start, end, number } = kept[index]!;
      const line = Buffer.alloc(end - start);
      const fd = openSync(file, 'r');
      try {
        readSync(fd, line, 0, line.length, start);
      } finally {
        closeSync(fd);
      }
      return parseRow(line, task, file, number);
    },
  };
}

/** The name of a task's file, without its ending. */
export const longBenchKey = (task: string, even: boolean): string => (even ? `${task}_e` : task);

/** The tasks that `--task` names: names, `paper` or `all`, each once. LongBench-E has only some of them. */
export function resolveTasks(words: readonly string[], even: boolean): string[] {
  const groups: Record<string, readonly string[]> = { all: TASK_NAMES, paper: PAPER_TASKS };
  const absent = words.find((word) => groups[word] === undefined && even && !taskKind(word).even);
  if (absent !== undefined) {
    throw new QuestError('E_TASK', `${absent} is not part of LongBench-E`, {
      hint: `its tasks are ${TASK_NAMES.filter((name) => taskKind(name).even).join(', ')}; or leave --e out`,
    });
  }
  const names = words.flatMap((word) => groups[word] ?? [word]);
  return [...new Set(names)].filter((name) => !even || taskKind(name).even);
}
