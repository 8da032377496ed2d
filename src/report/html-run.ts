/** A finished run, read back from its folder. Every problem is one error that names the file. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { QuestError } from '../errors.js';
import { readReason } from '../reading.js';
import { benchSubject, benchTables, benchWide } from './bench-run.js';
import { parseCsv, parseMarkdownTable, type TextTable } from './html-csv.js';

const environmentSchema = z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()]));

const manifestSchema = z.looseObject({
  command: z.string(),
  options: z.record(z.string(), z.looseObject({ value: z.unknown(), source: z.string() })),
  /** What was computed with; benchmarks have none in their file, and what they timed stands here. */
  model: z.looseObject({ name: z.string(), fingerprint: z.string().optional() }),
  runs: z
    .array(
      z.looseObject({
        started: z.string(),
        seconds: z.number(),
        rows: z.looseObject({ computed: z.number(), reused: z.number() }),
        environment: environmentSchema,
      }),
    )
    .min(1),
  text: z.looseObject({ dataset: z.string(), title: z.string() }).optional(),
});

const benchSchema = manifestSchema.omit({ model: true }).extend({ bench: z.string() });

const planSchema = z.looseObject({ task: z.string(), params: z.record(z.string(), z.unknown()) });

export type Manifest = z.infer<typeof manifestSchema>;

export interface Figure {
  name: string;
  svg: string;
}

export interface ReportRun {
  folder: string;
  /** `passkey`, `longbench`, `ppl`, `sparsity`, `recall`, `bench kernels`, `bench e2e`, `bench compare`, or what came later. */
  task: string;
  params: Readonly<Record<string, unknown>>;
  manifest: Manifest;
  /** table.csv, or a benchmark's: one line per cell. */
  long: TextTable;
  /** table.md: the shape of the paper's table, its values beneath ours. */
  wide: TextTable & { right: boolean[] };
  /** What stands below the table in table.md. */
  notes: string[];
  figures: Figure[];
}

const MAX_BYTES = 64 * 2 ** 20;

/** Figures that a report has made itself; they are nobody's results. */
export const REPORT_FIGURE = /-pareto\.svg$/;

function bad(path: string, what: string, hint: string, cause?: unknown): QuestError {
  return new QuestError('E_REPORT', `${path} ${what}`, { hint, cause });
}

const AGAIN = 'the same command as before writes it again; finished samples are kept';

function readText(path: string, missing: string): string {
  let size: number;
  try {
    const stat = statSync(path);
    if (!stat.isFile()) throw bad(path, 'is no file', 'give the folder of a finished run');
    size = stat.size;
    if (size <= MAX_BYTES) return readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof QuestError) throw error;
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') throw bad(path, 'is missing', missing, error);
    throw bad(path, `cannot be read: ${readReason(error)}`, 'check the permissions of the folder', error);
  }
  throw bad(path, `has ${size} bytes, which no run writes`, 'give the folder of a finished run');
}

export function readJson<T>(path: string, schema: z.ZodType<T>, missing: string): T {
  const text = readText(path, missing);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw bad(path, 'is not JSON', AGAIN, cause);
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw bad(path, `is not what a run writes: ${issue.path.join('.') || 'the file'}: ${issue.message}`, AGAIN);
}

/** The most telling figure first, single tasks after the one of all. */
const ORDER = ['figure.svg', 'accuracy.svg', 'depth.svg'];
const rank = (name: string): number => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);

export function readFigures(folder: string): Figure[] {
  const names = readdirSync(folder).filter((name) => name.endsWith('.svg') && !name.startsWith('.'));
  return names
    .filter((name) => !REPORT_FIGURE.test(name))
    .sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1))
    .map((name) => {
      const path = join(folder, name);
      const svg = readText(path, AGAIN).trim();
      if (!/^(<\?xml[^>]*>\s*)?<svg[\s>]/.test(svg) || !svg.endsWith('</svg>'))
        throw bad(path, 'is not an SVG figure', AGAIN);
      return { name, svg };
    });
}

const unfinished = 'the run has not finished: the same command goes on from where it stopped';

export function readTable(path: string, missing: string): TextTable {
  const table = parseCsv(readText(path, missing));
  if (table !== undefined && table.rows.length > 0) return table;
  throw bad(path, 'is not the table of a run: lines and columns do not fit', AGAIN);
}

/** A table.md with the notes beneath it. */
export function readWideTable(
  path: string,
  missing: string,
): { table: TextTable & { right: boolean[] }; notes: string[] } {
  const text = readText(path, missing);
  const table = parseMarkdownTable(text);
  if (table === undefined) throw bad(path, 'holds no Markdown table', AGAIN);
  return { table, notes: text.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('|')) };
}

/** The benchmark that a folder holds, by its manifest; benchmarks have no plan.json. */
function benchOf(folder: string): string | undefined {
  const path = join(folder, 'manifest.json');
  if (existsSync(join(folder, 'plan.json')) || !existsSync(path)) return undefined;
  return readJson(path, z.looseObject({ bench: z.string().optional() }), unfinished).bench;
}

function readBench(folder: string, bench: string): ReportRun {
  const manifestPath = join(folder, 'manifest.json');
  const manifest = readJson(manifestPath, benchSchema, unfinished);
  const tables = benchTables(bench);
  if (tables === undefined)
    throw bad(manifestPath, `names a benchmark "${bench}" that is unknown here`, AGAIN);
  const table = tables.find(({ file }) => existsSync(join(folder, file))) ?? tables[0]!;
  const long = readTable(join(folder, table.file), unfinished);
  const get = cellReader(long);
  return {
    folder,
    task: `bench ${bench}`,
    params: {},
    manifest: { ...manifest, model: { name: benchSubject(table, long, get) } },
    long,
    wide: benchWide(table, long, get),
    notes: [],
    figures: readFigures(folder),
  };
}

/** Reads a run's folder, an evaluation's or a benchmark's. */
export function readRun(folder: string): ReportRun {
  const bench = benchOf(folder);
  if (bench !== undefined) return readBench(folder, bench);
  const plan = readJson(
    join(folder, 'plan.json'),
    planSchema,
    'give the --out folder of passkey, longbench, ppl or analyze',
  );
  const manifest = readJson(join(folder, 'manifest.json'), manifestSchema, unfinished);
  const noTable =
    plan.task === 'longbench' ? `quest score ${folder} makes it from the predictions` : unfinished;
  const long = readTable(join(folder, 'table.csv'), noTable);
  const { table: wide, notes } = readWideTable(join(folder, 'table.md'), noTable);
  return {
    folder,
    task: plan.task,
    params: plan.params,
    manifest,
    long,
    wide,
    notes,
    figures: readFigures(folder),
  };
}

/** The column of a run's table by name, for reading single lines. */
export function cellReader(table: TextTable): (row: readonly string[], column: string) => string {
  const places = new Map(table.columns.map((name, i) => [name, i]));
  return (row, column) => row[places.get(column) ?? -1] ?? '';
}
