/** Perplexity over positions as tables: long form for files, and the shape of the paper's Figure 6 for readers. */
import type { PaperPerplexity } from './ppl-paper.js';
import { manyReadsNote } from './rows.js';
import { columnsOf, fixed, type Table } from './table.js';

/** Sums over the predicted text up to a point. */
export interface PerplexityPoint {
  /** Place in the text (in each book, where several are taken together); absent at the end of books of unequal length. */
  position: number | undefined;
  tokens: number;
  words: number;
  /** Nats. */
  nll: number;
  /** KV and metadata bytes read, as a share of what `full` reads. */
  kvReadPct: number;
}

/** One cell on one book, or on all of them. */
export interface PerplexitySeries {
  book: string;
  method: string;
  label: string;
  budgetTokens: number | undefined;
  points: PerplexityPoint[];
  /** A sparse method that never attended fewer tokens than the cache held. */
  neverSparse: boolean;
  /** The method's other options, by column name. */
  options: Readonly<Record<string, string | number | boolean>>;
}

export interface PerplexityReport {
  modelName: string;
  dataset: string;
  title: string;
  /** Short form of the title. */
  textLabel: string;
  /** Longer texts were scored in windows. */
  window: { window: number; stride: number } | undefined;
  books: string[];
  /** Per book and cell, in plan order. */
  series: PerplexitySeries[];
  /** Per cell, over all books; the same as `series` for one book. */
  total: PerplexitySeries[];
  paper: PaperPerplexity | undefined;
}

export const pplToken = (point: PerplexityPoint): number => Math.exp(point.nll / point.tokens);
export const pplWord = (point: PerplexityPoint): number => Math.exp(point.nll / Math.max(1, point.words));
export const lastPoint = (series: PerplexitySeries): PerplexityPoint => series.points.at(-1)!;

/** Word-level values grow without bound on weak models: four digits after the point, or an exponent. */
const show = (value: number): string => (value < 1e7 ? value.toFixed(4) : value.toExponential(4));
const SHOW = { ppl_token: show, ppl_word: show, nll: fixed(4), kv_read_pct: fixed(2) };

const seriesOf = (report: PerplexityReport): PerplexitySeries[] =>
  report.books.length > 1 ? [...report.series, ...report.total] : report.series;

/** One row per book, cell and point: `table.csv`. No times, so that a resumed run gives the same bytes. */
export function perplexityLongTable(report: PerplexityReport): Table {
  const keys = [
    'dataset',
    'book',
    'method',
    'budget_tokens',
    'position',
    'tokens',
    'words',
    'ppl_token',
    'ppl_word',
  ];
  const options = ['skip_layers', 'page_size', 'group', 'sinks'];
  const rest = ['nll', 'kv_read_pct', 'never_sparse', ...options, 'window', 'stride', 'model', 'paper_ppl'];
  return {
    columns: columnsOf([...keys, ...rest], SHOW),
    rows: seriesOf(report).flatMap((s) =>
      s.points.map((point) => [
        report.textLabel,
        s.book,
        s.method,
        s.budgetTokens,
        point.position,
        point.tokens,
        point.words,
        pplToken(point),
        pplWord(point),
        point.nll,
        point.kvReadPct,
        s.neverSparse,
        ...options.map((key) => s.options[key]),
        report.window?.window,
        report.window?.stride,
        report.modelName,
        point.position === undefined
          ? undefined
          : report.paper?.ppl(s.method, s.budgetTokens, point.position),
      ]),
    ),
    notes: perplexityNotes(report),
  };
}

/** At most eight positions, evenly spread, the end among them. */
function shownPositions(report: PerplexityReport): number[] {
  const all = report.total[0]!.points.flatMap((p) => p.position ?? []);
  const paper = all.filter((at) => report.paper?.tokens.some((t) => Math.abs(t - at) <= 1));
  if (paper.length > 1) return paper;
  const every = Math.ceil(all.length / 8);
  return all.filter((_, i) => (all.length - 1 - i) % every === 0);
}

const cellTitle = (s: PerplexitySeries): string =>
  s.budgetTokens === undefined ? s.label : `${s.label} ${s.budgetTokens}`;

/** Cells as rows, positions as columns, then the whole text: token and word level, and how much was read. */
export function perplexityWideTable(report: PerplexityReport): Table {
  const positions = shownPositions(report);
  const rows: Table['rows'] = [];
  for (const s of report.total) {
    const at = (position: number) => s.points.find((p) => p.position === position);
    const end = lastPoint(s);
    rows.push([
      cellTitle(s),
      ...positions.map((p) => pplToken(at(p)!).toFixed(3)),
      pplToken(end).toFixed(3),
      pplWord(end) < 1e5 ? pplWord(end).toFixed(1) : pplWord(end).toExponential(2),
      `${end.kvReadPct.toFixed(1)}${s.neverSparse ? '*' : ''}`,
    ]);
    const paper = positions.map((p) => report.paper?.ppl(s.method, s.budgetTokens, p));
    if (paper.some((value) => value !== undefined)) {
      rows.push(['  paper', ...paper.map((value) => value?.toFixed(3)), undefined, undefined, undefined]);
    }
  }
  const numbers = [...positions.map((p) => String(p)), 'all', 'per_word', 'kv_read_pct'];
  return {
    columns: [
      { key: 'method', title: `${report.textLabel}: perplexity, tokens:` },
      ...numbers.map((key) => ({ key, title: key.replaceAll('_', ' '), align: 'right' as const })),
    ],
    rows,
    notes: perplexityNotes(report),
  };
}

/** `pg19 book 860`, or the name that makes clear what the text is. */
export function describeTexts(report: PerplexityReport): string {
  if (report.dataset !== 'pg19') return report.title;
  return `${report.title}, ${report.books.length === 1 ? 'book' : 'books'} ${report.books.join(', ')}`;
}

/** What a reader of the table must know. */
export function perplexityNotes(report: PerplexityReport): string[] {
  const notes = [`text: ${describeTexts(report)}`];
  if (report.window !== undefined) {
    const { window, stride } = report.window;
    notes.push(
      `windows of ${window} tokens that advance by ${stride}: after the first window a token has at least ${window - stride} before it`,
    );
  }
  for (const s of report.series.filter((one) => one.neverSparse)) {
    notes.push(
      `* ${cellTitle(s)} never attended fewer tokens than the cache held on ${s.book}: it was the same as full there`,
    );
  }
  notes.push(...manyReadsNote(report.total.filter((s) => lastPoint(s).kvReadPct > 100).map(cellTitle)));
  if (report.paper !== undefined) notes.push(`paper: ${report.paper.title}`);
  return notes;
}
