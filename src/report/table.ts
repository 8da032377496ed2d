/** Tables as data, and their renderings: aligned text, Markdown, CSV, JSON. */
import { stringify } from 'csv-stringify/sync';

export type Format = 'table' | 'csv' | 'json' | 'md';
export type CellValue = string | number | boolean | undefined;

export interface Table {
  columns: { key: string; title?: string; align?: 'left' | 'right' }[];
  rows: CellValue[][];
}

const text = (value: CellValue): string => (value === undefined ? '' : String(value));

// Wide enough for what we print; combining marks and East Asian wide characters do not occur in our tables.
const width = (value: string): number => [...value].length;

function pad(value: string, size: number, align: 'left' | 'right'): string {
  const space = ' '.repeat(Math.max(0, size - width(value)));
  return align === 'right' ? space + value : value + space;
}

function aligned(table: Table, edge: string, between: string, rule: (sizes: number[]) => string): string {
  const header = table.columns.map((c) => c.title ?? c.key);
  const body = table.rows.map((row) => row.map(text));
  const sizes = header.map((title, i) =>
    Math.max(3, width(title), ...body.map((row) => width(row[i] ?? ''))),
  );
  const line = (cells: string[]) =>
    `${edge}${cells.map((cell, i) => pad(cell, sizes[i]!, table.columns[i]!.align ?? 'left')).join(between)}${edge}`.trimEnd();
  return `${[line(header), rule(sizes), ...body.map(line)].join('\n')}\n`;
}

/** Text with aligned columns for a terminal. */
export function renderText(table: Table): string {
  return aligned(table, '', '  ', (sizes) => sizes.map((n) => '-'.repeat(n)).join('  '));
}

/** A GitHub-style Markdown table. */
export function renderMarkdown(table: Table): string {
  const escaped = { ...table, rows: table.rows.map((row) => row.map((v) => text(v).replaceAll('|', '\\|'))) };
  const dashes = (n: number, i: number) =>
    table.columns[i]!.align === 'right' ? `${'-'.repeat(n - 1)}:` : '-'.repeat(n);
  return aligned(escaped, '|', '|', (sizes) => `|${sizes.map(dashes).join('|')}|`);
}

/** RFC 4180 with a header line and `\n` line ends. */
export function renderCsv(table: Table): string {
  return stringify([table.columns.map((c) => c.key), ...table.rows.map((row) => row.map(text))]);
}

/** An array of objects, one per row; empty cells are left out. */
export function renderJson(table: Table): string {
  const objects = table.rows.map((row) =>
    Object.fromEntries(
      table.columns.map((c, i) => [c.key, row[i]]).filter(([, value]) => value !== undefined),
    ),
  );
  return `${JSON.stringify(objects, null, 2)}\n`;
}

/** Renders for `--format`. */
export function renderTable(table: Table, format: Format): string {
  const renderers = { table: renderText, md: renderMarkdown, csv: renderCsv, json: renderJson };
  return renderers[format](table);
}
