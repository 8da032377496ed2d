/** Tables as data, and their renderings: aligned text, Markdown, CSV, JSON. */
import { stringify } from 'csv-stringify/sync';

export type Format = 'table' | 'csv' | 'json' | 'md';
export type CellValue = string | number | boolean | undefined;

export interface Column {
  key: string;
  title?: string;
  align?: 'left' | 'right';
  /** How its numbers are written; absent: as they are. */
  show?: ((value: number) => string) | undefined;
}

export interface Table {
  columns: Column[];
  rows: CellValue[][];
  /** What a reader must know, marks in cells among it: beneath the table, where the format has room for it. */
  notes?: string[];
}

export const fixed =
  (digits: number) =>
  (value: number): string =>
    value.toFixed(digits);

/** Columns by key; `show` says how the numbers of some of them are written. */
export const columnsOf = (
  keys: readonly string[],
  show: Readonly<Record<string, (value: number) => string>> = {},
): Column[] => keys.map((key) => ({ key, show: show[key] }));

function text(value: CellValue, { show }: Column): string {
  if (value === undefined) return '';
  return typeof value === 'number' && show !== undefined ? show(value) : String(value);
}

const texts = (table: Table): string[][] =>
  table.rows.map((row) => row.map((value, i) => text(value, table.columns[i]!)));

// Wide enough for what we print; combining marks and East Asian wide characters do not occur in our tables.
const width = (value: string): number => [...value].length;

function pad(value: string, size: number, align: 'left' | 'right'): string {
  const space = ' '.repeat(Math.max(0, size - width(value)));
  return align === 'right' ? space + value : value + space;
}

function aligned(table: Table, edge: string, between: string, rule: (sizes: number[]) => string): string {
  const header = table.columns.map((c) => c.title ?? c.key);
  const body = texts(table);
  const sizes = header.map((title, i) =>
    Math.max(3, width(title), ...body.map((row) => width(row[i] ?? ''))),
  );
  const line = (cells: string[]) =>
    `${edge}${cells.map((cell, i) => pad(cell, sizes[i]!, table.columns[i]!.align ?? 'left')).join(between)}${edge}`.trimEnd();
  const notes = (table.notes ?? []).map((note) => `\n${note}\n`).join('');
  return `${[line(header), rule(sizes), ...body.map(line)].join('\n')}\n${notes}`;
}

/** Text with aligned columns for a terminal. */
export function renderText(table: Table): string {
  return aligned(table, '', '  ', (sizes) => sizes.map((n) => '-'.repeat(n)).join('  '));
}

/** A GitHub-style Markdown table. */
export function renderMarkdown(table: Table): string {
  const escaped = { ...table, rows: texts(table).map((row) => row.map((v) => v.replaceAll('|', '\\|'))) };
  const dashes = (n: number, i: number) =>
    table.columns[i]!.align === 'right' ? `${'-'.repeat(n - 1)}:` : '-'.repeat(n);
  return aligned(escaped, '|', '|', (sizes) => `|${sizes.map(dashes).join('|')}|`);
}

/** RFC 4180 with a header line and `\n` line ends. */
export function renderCsv(table: Table): string {
  return stringify([table.columns.map((c) => c.key), ...texts(table)]);
}

/** An array of objects, one per row, with numbers as numbers; empty cells are left out. */
export function renderJson(table: Table): string {
  const rounded = (value: CellValue, column: Column): CellValue =>
    typeof value === 'number' ? Number(text(value, column)) : value;
  const objects = table.rows.map((row) =>
    Object.fromEntries(
      table.columns.map((c, i) => [c.key, rounded(row[i], c)]).filter(([, value]) => value !== undefined),
    ),
  );
  return `${JSON.stringify(objects, null, 2)}\n`;
}

/** Renders for `--format`. */
export function renderTable(table: Table, format: Format): string {
  const renderers = { table: renderText, md: renderMarkdown, csv: renderCsv, json: renderJson };
  return renderers[format](table);
}
