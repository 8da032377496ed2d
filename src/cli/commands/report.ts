/** quest report: finished runs on one page. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { QuestError } from '../../errors.js';
import { ensureFolder, writeFileAtomic } from '../../report/files.js';
import { type ReportPage, type ReportSection, renderHtml } from '../../report/html.js';
import { renderReportMarkdown } from '../../report/html-markdown.js';
import { type ReportRun, readRun } from '../../report/html-run.js';
import { readSweep } from '../../report/html-sweep.js';
import { paretoPanels } from '../../report/pareto.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import { PLAN_NAME as SWEEP_PLAN, UNITS as SWEEP_UNITS } from '../sweep/store.js';

const isFolder = (path: string): boolean => existsSync(path) && statSync(path).isDirectory();
const isRun = (path: string): boolean =>
  ['plan.json', 'manifest.json', 'table.csv'].some((name) => existsSync(join(path, name)));

/** A folder of runs, or of a sweep, stands for the finished ones in it. */
function runFolders(folder: string, note: (text: string) => void): string[] {
  if (!isFolder(folder)) {
    throw new QuestError('E_INPUT', `${folder} is no folder`, {
      hint: 'give the --out folders of finished runs',
    });
  }
  const sweep = existsSync(join(folder, SWEEP_PLAN));
  if (isRun(folder) && !sweep) return [folder];
  const place = sweep ? join(folder, SWEEP_UNITS) : folder;
  const inside = (existsSync(place) ? readdirSync(place) : [])
    .sort()
    .map((name) => join(place, name))
    .filter((path) => isFolder(path) && isRun(path));
  const finished = inside.filter((path) => existsSync(join(path, 'manifest.json')));
  for (const path of inside.filter((one) => !finished.includes(one)))
    note(`${path} is left out: the run has not finished`);
  if (finished.length > 0) return finished;
  throw new QuestError('E_INPUT', `${folder} holds no finished run`, {
    hint: 'give the --out folder of passkey, longbench, ppl or analyze, or a folder of such folders',
  });
}

/** `report.html` gives `report.md` and `report-pareto.svg` beside it. */
function outputPaths(html: string): { html: string; markdown: string; pareto: string } {
  const stem = /^(.+)\.html?$/i.exec(html)?.[1];
  if (stem === undefined) {
    throw new QuestError('E_OPTION', `--out wants a file that ends in .html, got "${html}"`, {
      hint: 'e.g. --out report.html; the Markdown is written beside it',
    });
  }
  return { html, markdown: `${stem}.md`, pareto: `${stem}-pareto.svg` };
}

/** The page with folders whose place does not depend on where it is read. */
const absolute = (page: ReportPage): ReportPage => ({
  ...page,
  runs: page.runs.map((run) => ({ ...run, folder: resolve(run.folder) })),
  extra: page.extra.map((one) =>
    one.figures === undefined
      ? one
      : { ...one, figures: { ...one.figures, folder: resolve(one.figures.folder) } },
  ),
});

/** Writes the page, its Markdown and the Pareto picture, and returns the paths. */
export async function writeReportPage(
  runs: readonly ReportRun[],
  out: string,
  title: string,
  extra: ReportPage['extra'] = [],
): Promise<{ html: string; markdown: string; pareto: string | undefined }> {
  const paths = outputPaths(out);
  const panels = paretoPanels(runs);
  let paretoSvg: string | undefined;
  if (panels.length > 0) {
    const [{ paretoChart }, { renderSvg }] = await Promise.all([
      import('../../report/pareto-chart.js'),
      import('../../report/svg.js'),
    ]);
    paretoSvg = await renderSvg(paretoChart(panels));
  }
  const page: ReportPage = { title, runs, panels, paretoSvg, extra };
  const folder = dirname(resolve(paths.html));
  ensureFolder(folder);
  const pareto = paretoSvg === undefined ? undefined : paths.pareto;
  if (paretoSvg !== undefined) writeFileAtomic(paths.pareto, paretoSvg);
  const markdown = renderReportMarkdown(absolute(page), folder, pareto && resolve(pareto));
  writeFileAtomic(paths.markdown, markdown);
  writeFileAtomic(paths.html, renderHtml(page));
  return { html: paths.html, markdown: paths.markdown, pareto };
}

/** Reads all folders, each once. */
export function readRuns(folders: readonly string[], note: (text: string) => void): ReportRun[] {
  const found = new Map<string, string>();
  for (const folder of folders.flatMap((one) => runFolders(one, note))) {
    if (!found.has(resolve(folder))) found.set(resolve(folder), folder);
  }
  return [...found.values()].map(readRun);
}

/** What sweeps among the folders come to. */
function readSweeps(folders: readonly string[], note: (text: string) => void): ReportSection[] {
  const sweeps = new Map(
    folders.filter((one) => existsSync(join(one, SWEEP_PLAN))).map((one) => [resolve(one), one]),
  );
  return [...sweeps.values()].flatMap((folder) => {
    const section = readSweep(folder);
    if (section === undefined) note(`${folder}: the sweep has not finished, so there is no merged table`);
    return section ?? [];
  });
}

/** Runs `quest report`. */
export async function run(context: CommandContext): Promise<number> {
  const { settings, args, out } = context;
  const target = settings.string('out');
  outputPaths(target); // before anything is read
  const runs = readRuns(args, out.note);
  const written = await writeReportPage(runs, target, 'Quest report', readSweeps(args, out.note));
  out.data(`${written.html}\n`);
  out.note(`${plural(runs.length, 'run')} on one page; as Markdown in ${written.markdown}`);
  return 0;
}
