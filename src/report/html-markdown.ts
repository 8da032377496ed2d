/** The report as Markdown, with links to the figures where they are. */
import { relative } from 'node:path';
import type { ReportPage } from './html.js';
import type { TextTable } from './html-csv.js';
import { runFacts, runNotes, runScope, runTitles, runWarnings } from './html-facts.js';
import type { ReportRun } from './html-run.js';
import { isPaperLine } from './paper.js';
import { frontText } from './pareto.js';
import { renderMarkdown } from './table.js';

/** Text that must not become markup, in one line. */
const plain = (text: string): string =>
  text
    .replace(/\s+/g, ' ')
    .replace(/[\\`*_[\]<>&]/g, (c) =>
      c === '<' ? '&lt;' : c === '>' ? '&gt;' : c === '&' ? '&amp;' : `\\${c}`,
    );

/** A block of code whose text cannot end it. */
function code(text: string): string {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length));
  const fence = '`'.repeat(longest + 1);
  return `${fence}sh\n${text.replace(/\s+/g, ' ')}\n${fence}`;
}

function table({ columns, rows, right }: TextTable & { right: boolean[] }): string {
  return renderMarkdown({
    columns: columns.map((name, i) => ({
      key: plain(name).replaceAll('|', '\\|'),
      align: right[i] ? 'right' : 'left',
    })),
    rows: rows.map((row) => row.map((cell) => (isPaperLine(cell) ? `*${plain(cell)}*` : plain(cell)))),
  }).trimEnd();
}

/** A path from the report's folder, as a link wants it. */
const link = (from: string, path: string): string =>
  encodeURI(relative(from, path).replaceAll('\\', '/')).replace(
    /[()#?]/g,
    (c) => `%${c.charCodeAt(0).toString(16)}`,
  );

const figure = (name: string, from: string, folder: string): string =>
  `![${plain(name)}](${link(from, `${folder}/${name}`)})`;

function runPart(run: ReportRun, from: string, title: string): string[] {
  return [
    `## ${plain(title)}`,
    [plain(run.manifest.model.name), plain(runScope(run))].filter(Boolean).join(' · '),
    ...runWarnings(run).map((text) => `> **${plain(text)}**`),
    code(run.manifest.command),
    table(run.wide),
    ...runNotes(run).map(plain),
    ...run.figures.map(({ name }) => figure(name, from, run.folder)),
    runFacts(run)
      .map(([name, value]) => `- ${plain(name)}: ${plain(value)}`)
      .join('\n'),
  ];
}

/** `from`: the folder that the Markdown file will stand in; `paretoFile`: the picture's path, where there is one. */
export function renderReportMarkdown(page: ReportPage, from: string, paretoFile: string | undefined): string {
  const { title, runs, panels, extra } = page;
  const pareto =
    paretoFile === undefined
      ? []
      : [
          '## Score against KV bytes read',
          `![Pareto front](${link(from, paretoFile)})`,
          panels
            .map((panel) => `- ${plain(panel.title)}: on the front ${plain(frontText(panel))}`)
            .join('\n'),
        ];
  const tables = extra.flatMap((one) => [
    `## ${plain(one.title)}`,
    ...(one.lead === undefined ? [] : [plain(one.lead)]),
    ...(one.warnings ?? []).map((text) => `> **${plain(text)}**`),
    ...(one.command === undefined ? [] : [code(one.command)]),
    table(one.table),
    ...one.notes.map(plain),
    ...(one.figures?.all ?? []).map(({ name }) => figure(name, from, one.figures!.folder)),
  ]);
  const titles = runTitles(runs);
  const each = runs.flatMap((run, i) => runPart(run, from, titles[i]!));
  const parts = [`# ${plain(title)}`, ...tables, ...pareto, ...each];
  return `${parts.filter((part) => part !== '').join('\n\n')}\n`;
}
