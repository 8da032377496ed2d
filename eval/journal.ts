/**
 * The journal of a run: one JSON line per sample and cell, appended and synced as soon as the sample is done.
 * It is the only state of a run. Lines are never changed; a line torn by a crash is moved aside and computed again.
 */
import {
  appendFileSync,
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { QuestError } from '../src/errors.js';
import { readError } from '../src/reading.js';
import { outputError, syncFolder, writeAll } from '../src/report/files.js';
import type { Counters } from '../src/runtime/addon.js';

export const JOURNAL_NAME = 'journal.jsonl';
const VERSION = 1;

export interface JournalRow {
  v: number;
  /** Hash of model, prompt tokens, method with its options, and generation options; see plan.ts. */
  key: string;
  item: string;
  sample: number;
  /** Method, budget and the options that matter to it. */
  cell: Record<string, string | number | boolean>;
  prefill_tokens: number;
  step_tokens: number;
  fields: Record<string, string | number>;
  output: string;
  output_ids: number[];
  score: number;
  counters: Counters;
  /** Wall-clock seconds: the prefill is shared by all cells, feeding and generating by all branches of one call. */
  timing: { prefill_s: number; feed_s: number; generate_s: number; branches: number };
  device: string;
}

const count = z.number().nonnegative();

/** What every row holds; tasks may ask for more, and further fields are kept. */
const ROW_SHAPE = {
  v: z.literal(VERSION),
  key: z.string(),
  item: z.string(),
  sample: count,
  cell: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  prefill_tokens: count,
  step_tokens: count,
  fields: z.record(z.string(), z.union([z.string(), z.number()])),
  output: z.string(),
  output_ids: z.array(count),
  score: z.number(),
  counters: z.looseObject({
    decodeSteps: count,
    sparseSteps: count,
    tokensAttended: count,
    tokensAvailable: count,
    pagesAttended: count,
    pagesAvailable: count,
    kvBytes: count,
    metadataBytes: count,
    denseKvBytes: count,
  } satisfies Record<keyof Counters, z.ZodType>),
  timing: z.looseObject({ prefill_s: count, feed_s: count, generate_s: count, branches: count }),
  device: z.string(),
} satisfies Record<keyof JournalRow, z.ZodType>;

/** What a journal of any kind keeps: rows with a key. */
interface KeyedRow {
  key: string;
}

interface Parsed<Row> {
  rows: Row[];
  /** Bytes of whole, valid lines. */
  validBytes: number;
  torn: Buffer | undefined;
}

function refuseLine(path: string, line: number, what: string): never {
  throw new QuestError('E_JOURNAL', `line ${line} of ${path} is not a row of this journal${what}`, {
    hint: 'a crash can only tear the last line; this file was changed by something else. Restore it, or use another --out. Nothing was changed',
    exitCode: 3,
  });
}

const rowSchema = (extra: z.ZodRawShape = {}): z.ZodType => z.looseObject({ ...ROW_SHAPE, ...extra });

function parseJournal<Row extends KeyedRow>(bytes: Buffer, path: string, schema: z.ZodType): Parsed<Row> {
  const rows: Row[] = [];
  let start = 0;
  let line = 1;
  for (; start < bytes.length; line++) {
    const end = bytes.indexOf(0x0a, start);
    if (end < 0) break;
    let row: unknown;
    try {
      row = JSON.parse(bytes.toString('utf8', start, end));
    } catch {
      if (end === bytes.length - 1) break; // torn, although its newline reached the disk
      refuseLine(path, line, '');
    }
    const { error } = schema.safeParse(row);
    const issue = error?.issues[0];
    if (issue !== undefined) refuseLine(path, line, `: ${issue.path.join('.') || 'it'}: ${issue.message}`);
    rows.push(row as Row);
    start = end + 1;
  }
  return { rows, validBytes: start, torn: start < bytes.length ? bytes.subarray(start) : undefined };
}

/** Reads the rows of a folder's journal without changing anything; a torn last line is left out. `extra` as in {@link openJournal}. */
export function readJournal(folder: string, extra?: z.ZodRawShape): JournalRow[] {
  const path = join(folder, JOURNAL_NAME);
  if (!existsSync(path)) return [];
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw readError(cause, path, {
      code: 'E_OUTPUT',
      hint: 'check the permissions of the folder',
      exitCode: 3,
    });
  }
  return parseJournal<JournalRow>(bytes, path, rowSchema(extra)).rows;
}

/** Whether anything was appended yet, a torn line included. */
export function journalStarted(folder: string): boolean {
  const path = join(folder, JOURNAL_NAME);
  try {
    return (statSync(path, { throwIfNoEntry: false })?.size ?? 0) > 0;
  } catch (error) {
    throw outputError(error, path);
  }
}

/** An open journal of rows of one kind. */
export interface RowJournal<Row extends KeyedRow> extends Disposable {
  readonly path: string;
  get(key: string): Row | undefined;
  readonly size: number;
  /** All rows, the oldest first. */
  rows(): Row[];
  /** Appends the rows in one write and syncs them to the disk. */
  append(rows: readonly Row[]): void;
}

export type Journal = RowJournal<JournalRow>;

/** Opens (or starts) a folder's journal. The caller holds the folder's lock. `note` hears about a torn line, `extra` is what the task's rows hold beside the usual. */
export const openJournal = (folder: string, note: (text: string) => void, extra?: z.ZodRawShape): Journal =>
  openRows<JournalRow>(folder, note, rowSchema(extra));

/** Like {@link openJournal}, for rows that `schema` describes. */
export function openRows<Row extends KeyedRow>(
  folder: string,
  note: (text: string) => void,
  schema: z.ZodType,
): RowJournal<Row> {
  const path = join(folder, JOURNAL_NAME);
  const rows = new Map<string, Row>();
  let fd: number;
  try {
    const fresh = !existsSync(path);
    fd = openSync(path, 'a+');
    if (fresh) syncFolder(dirname(path));
  } catch (error) {
    throw outputError(error, path);
  }
  try {
    if (!fstatSync(fd).isFile()) {
      throw new QuestError('E_OUTPUT', `${path} is not a regular file`, {
        hint: 'use another --out',
        exitCode: 3,
      });
    }
    const parsed = parseJournal<Row>(readFileSync(path), path, schema);
    if (parsed.torn !== undefined) {
      const aside = `${path}.torn`;
      appendFileSync(aside, Buffer.concat([parsed.torn, Buffer.from('\n')]));
      ftruncateSync(fd, parsed.validBytes);
      fsyncSync(fd);
      note(
        `the last line of ${path} was torn (${parsed.torn.length} bytes, moved to ${aside}); that row is computed again`,
      );
    }
    for (const row of parsed.rows) if (!rows.has(row.key)) rows.set(row.key, row);
  } catch (error) {
    closeSync(fd);
    throw outputError(error, path);
  }
  return {
    path,
    get: (key) => rows.get(key),
    get size() {
      return rows.size;
    },
    rows: () => [...rows.values()],
    append(added) {
      const size = fstatSync(fd).size;
      try {
        writeAll(fd, Buffer.from(added.map((row) => `${JSON.stringify(row)}\n`).join('')));
        fsyncSync(fd);
      } catch (error) {
        try {
          ftruncateSync(fd, size); // leave no half line behind
        } catch {
          // the next run moves it aside
        }
        throw outputError(error, path);
      }
      for (const row of added) if (!rows.has(row.key)) rows.set(row.key, row);
    },
    [Symbol.dispose]() {
      closeSync(fd);
    },
  };
}

/** The version that new rows carry. */
export const JOURNAL_VERSION = VERSION;
