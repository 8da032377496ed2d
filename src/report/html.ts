/**
 * The report as one HTML page that needs nothing else: style inline, figures as data, no script.
 * Every text that comes from a run's folder is escaped. Figures are embedded as images, so that nothing in an SVG can
 * run or load anything, and ids of different figures cannot clash.
 */

import { plural } from '../words.js';
import type { TextTable } from './html-csv.js';
import {
  runDevice,
  runFacts,
  runNotes,
  runScope,
  runSeconds,
  runTitles,
  runWarnings,
  setOptions,
} from './html-facts.js';
import type { Figure, ReportRun } from './html-run.js';
import { STYLE } from './html-style.js';
import { isPaperLine } from './paper.js';
import { frontText, type ParetoPanel } from './pareto.js';

export interface ReportPage {
  title: string;
  runs: readonly ReportRun[];
  panels: readonly ParetoPanel[];
  /** The panels as a picture; absent where there are none. */
  paretoSvg: string | undefined;
  /** What was made from several runs; it stands before them. */
  extra: readonly ReportSection[];
}

/** A table that several runs come to: of a sweep, or Figure 11. */
export interface ReportSection {
  title: string;
  lead?: string;
  warnings?: readonly string[];
  command?: string;
  table: TextTable & { right: boolean[] };
  notes: readonly string[];
  figures?: { folder: string; all: readonly Figure[] };
  /** The table for programs. */
  long?: TextTable;
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Text for element content and quoted attributes; control characters, which HTML cannot hold, are shown. */
export function escapeHtml(text: string): string {
  return (
    text
      // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what must not reach the page
      .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g, '\uFFFD')
      .replace(/[&<>"']/g, (c) => ENTITIES[c]!)
  );
}

const isPaperRow = (row: readonly string[]): boolean => row.slice(0, 2).some(isPaperLine);

/** A table; lines that hold the paper's values look different. `right` says which columns are numbers. */
export function htmlTable(table: TextTable & { right?: readonly boolean[] }): string {
  const side = (i: number) => (table.right?.[i] ? ' class="right"' : '');
  const head = table.columns.map((name, i) => `<th scope="col"${side(i)}>${escapeHtml(name)}</th>`);
  const body = table.rows.map((row) => {
    const cells = row.map((cell, i) => {
      const mark = isPaperLine(cell) ? ' class="name"' : side(i);
      return `<td${mark}>${escapeHtml(cell)}</td>`;
    });
    return `<tr${isPaperRow(row) ? ' class="paper"' : ''}>${cells.join('')}</tr>`;
  });
  return `<div class="scroll"><table>\n<thead><tr>${head.join('')}</tr></thead>\n<tbody>\n${body.join('\n')}\n</tbody></table></div>`;
}

function htmlFigure({ name, svg }: Figure, alt: string): string {
  const data = Buffer.from(svg).toString('base64');
  return `<figure><img alt="${escapeHtml(alt)}" src="data:image/svg+xml;base64,${data}"><figcaption>${escapeHtml(name)}</figcaption></figure>`;
}

const WHOLE_RUN = ['figure.svg', 'accuracy.svg', 'depth.svg'];

/** Figures of single tasks are folded away where there is one of all. */
function figures(run: ReportRun, title: string): string {
  if (run.figures.length === 0) return '';
  const show = (list: readonly Figure[]) =>
    list.map((figure) => htmlFigure(figure, `${title}: ${figure.name}`)).join('\n');
  const main = run.figures.filter(({ name }) => WHOLE_RUN.includes(name));
  if (main.length === 0) return `<h3>Figures</h3>\n${show(run.figures)}`;
  const rest = run.figures.filter(({ name }) => !WHOLE_RUN.includes(name));
  const folded =
    rest.length === 0
      ? ''
      : `\n<details><summary>${plural(rest.length, 'figure')} of single tasks</summary>\n${show(rest)}\n</details>`;
  return `<h3>Figures</h3>\n${show(main)}${folded}`;
}

const list = (pairs: readonly (readonly [string, string])[]): string =>
  `<dl>${pairs.map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd>`).join('\n')}</dl>`;

const NUMBER = /^(-?[\d.]+(e[+-]?\d+)?|true|false)?$/;

/** Columns whose every cell is a number. */
const numberColumns = ({ columns, rows }: TextTable): boolean[] =>
  columns.map((_, i) => rows.every((row) => NUMBER.test(row[i] ?? '')));

/** Empty columns tell nothing. */
function withoutEmptyColumns(table: TextTable): TextTable {
  const kept = table.columns.flatMap((_, i) => (table.rows.some((row) => row[i] !== '') ? [i] : []));
  return {
    columns: kept.map((i) => table.columns[i]!),
    rows: table.rows.map((row) => kept.map((i) => row[i]!)),
  };
}

const folded = (table: TextTable): string => {
  const long = withoutEmptyColumns(table);
  return `<details><summary>the table as CSV: ${plural(long.rows.length, 'line')}</summary>${htmlTable({ ...long, right: numberColumns(long) })}</details>`;
};

const warning = (text: string): string => `<p class="warn">${escapeHtml(text)}</p>`;
const soft = (text: string): string => `<p class="soft">${escapeHtml(text)}</p>`;

function sharedSection({ title, lead, warnings = [], command, table, notes, figures, long }: ReportSection) {
  return [
    `<section class="block"><h2>${escapeHtml(title)}</h2>`,
    ...(lead === undefined ? [] : [soft(lead)]),
    ...warnings.map(warning),
    ...(command === undefined ? [] : [`<pre>${escapeHtml(command)}</pre>`]),
    htmlTable(table),
    ...notes.map(soft),
    ...(figures?.all ?? []).map((figure) => htmlFigure(figure, `${title}: ${figure.name}`)),
    ...(long === undefined ? [] : [folded(long)]),
    '</section>',
  ].join('\n');
}

function runSection(run: ReportRun, index: number, title: string): string {
  const scope = [run.manifest.model.name, runScope(run)].filter(Boolean).join(' · ');
  const options = setOptions(run).map(([name, value, source]) => [name, `${value} (${source})`] as const);
  return [
    `<section class="run" id="run-${index + 1}">`,
    `<h2>${escapeHtml(title)}</h2>`,
    soft(scope),
    ...runWarnings(run).map(warning),
    `<pre>${escapeHtml(run.manifest.command)}</pre>`,
    htmlTable(run.wide),
    ...runNotes(run).map(soft),
    figures(run, title),
    `<h3>How it was run</h3>`,
    list(runFacts(run)),
    ...(options.length === 0
      ? []
      : [
          `<details><summary>${plural(options.length, 'option that was set', 'options that were set')}</summary>${list(options)}</details>`,
        ]),
    folded(run.long),
    '</section>',
  ]
    .filter((part) => part !== '')
    .join('\n');
}

function overview(runs: readonly ReportRun[], titles: readonly string[]): string {
  const rows = runs.map((run, i) => {
    const warnings = runWarnings(run).length;
    const cells = [run.manifest.model.name, runScope(run), runDevice(run)].map(
      (text) => `<td class="wrap">${escapeHtml(text)}</td>`,
    );
    return `<tr><td class="wrap"><a href="#run-${i + 1}">${escapeHtml(titles[i]!)}</a></td>${cells.join('')}<td class="right">${runSeconds(run).toFixed(1)}</td><td class="right">${warnings || ''}</td></tr>`;
  });
  return `<div class="block scroll"><table><thead><tr><th>run</th><th>model</th><th>what</th><th>device</th><th class="right">seconds</th><th class="right">warnings</th></tr></thead>
<tbody>${rows.join('\n')}</tbody></table></div>`;
}

function paretoSection({ panels, paretoSvg }: ReportPage): string {
  if (paretoSvg === undefined) return '';
  const fronts = panels.map((panel) => [panel.title, `on the front: ${frontText(panel)}`] as const);
  return `<section class="block" id="pareto"><h2>Score against KV bytes read</h2>
<p class="soft">KV bytes read include Quest's metadata, in percent of what full reads.</p>
${htmlFigure({ name: 'a panel for each model, task, data, number of samples and context: only what was asked the same compares', svg: paretoSvg }, 'score against KV bytes read, with the Pareto front')}
${list(fronts)}</section>`;
}

/** The whole page. The same runs give the same bytes. */
export function renderHtml(page: ReportPage): string {
  const { title, runs, extra } = page;
  const titles = runTitles(runs);
  const paper = runs.some((run) => run.wide.rows.some(isPaperRow));
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>${escapeHtml(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${escapeHtml(title)}</h1>
<p class="soft">Made by quest from ${plural(runs.length, 'run')}.${
    paper
      ? ' Lines named <em>paper</em> hold the values of the Quest paper (ICML 2024, <a href="https://arxiv.org/abs/2406.10774">arXiv 2406.10774</a>).'
      : ''
  }</p>
${[
  ...extra.map(sharedSection),
  overview(runs, titles),
  paretoSection(page),
  ...runs.map((run, i) => runSection(run, i, titles[i]!)),
]
  .filter((part) => part !== '')
  .join('\n')}
</body>
</html>
`;
}
