/** quest iso: from LongBench runs, the smallest lossless budget per method and task, the paper's Figure 11. */
import { type IsoRow, type IsoScore, isoLongTable, isoRows, isoWideTable } from '../../../eval/iso.js';
import { attentionTimes, fileTimes } from '../../../eval/iso_attention.js';
import { PAPER_ISO_TITLE } from '../../../eval/iso_paper.js';
import { readPredictions } from '../../../eval/longbench_predictions.js';
import { QuestError } from '../../errors.js';
import { readTextFile } from '../../reading.js';
import { parseCsv } from '../../report/html-csv.js';
import { cellReader, type ReportRun } from '../../report/html-run.js';
import type { Format, Table } from '../../report/table.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import { type Attention, measureAttention } from './iso_measure.js';
import { readRuns } from './report.js';

const HINT = 'give the --out folders of quest longbench runs of one model';

function checkRuns(runs: readonly ReportRun[]): { model: string; data: string } {
  const [first] = runs;
  const facts = (run: ReportRun) => ({
    model: run.manifest.model.name,
    data: String(run.params.data ?? 'longbench'),
  });
  const { model, data } = facts(first!);
  for (const run of runs) {
    if (run.task !== 'longbench')
      throw new QuestError('E_INPUT', `${run.folder} holds a run of ${run.task}, not of longbench`, {
        hint: HINT,
      });
    const own = facts(run);
    const fingerprints = [run, first!].map((one) => one.manifest.model.fingerprint);
    if (own.model !== model || own.data !== data || fingerprints[0] !== fingerprints[1]) {
      throw new QuestError(
        'E_INPUT',
        `${run.folder} is ${own.model} on ${own.data}, ${first!.folder} is ${model} on ${data}: not one experiment`,
        { hint: HINT },
      );
    }
  }
  return { model, data };
}

/** The cells of all runs; the same one twice must agree, for nobody could say which counts. */
function collectScores(runs: readonly ReportRun[]): IsoScore[] {
  const found = new Map<string, { folder: string; score: IsoScore }>();
  for (const run of runs) {
    const get = cellReader(run.long);
    for (const row of run.long.rows.filter((one) => get(one, 'bucket') === 'all')) {
      const number = (name: string): number | undefined => {
        const text = get(row, name);
        if (text === '' || Number.isFinite(Number(text))) return text === '' ? undefined : Number(text);
        throw new QuestError('E_INPUT', `${name} is "${text}" in the table.csv of ${run.folder}`, {
          hint: 'quest score writes it again from the predictions',
        });
      };
      const score: IsoScore = {
        task: get(row, 'task'),
        method: get(row, 'method'),
        budgetTokens: number('budget_tokens'),
        score: number('score') ?? Number.NaN,
        kvReadPct: number('kv_read_pct') ?? Number.NaN,
        samples: number('samples') ?? 0,
        neverSparse: number('never_sparse_samples') ?? 0,
        pageSize: number('page_size'),
      };
      const key = JSON.stringify([score.task, score.method, score.budgetTokens]);
      const before = found.get(key);
      if (before !== undefined && JSON.stringify(before.score) !== JSON.stringify(score)) {
        throw new QuestError(
          'E_INPUT',
          `${before.folder} and ${run.folder} disagree about ${score.method} ${score.budgetTokens ?? ''} on ${score.task}`,
          { hint: 'give runs with the same samples and method options' },
        );
      }
      found.set(key, { folder: run.folder, score });
    }
  }
  return [...found.values()].map(({ score }) => score);
}

/** Mean prompt length of each task. */
function meanContexts(runs: readonly ReportRun[]): Map<string, number> {
  const lengths = new Map<string, Map<number, number>>();
  for (const { task, row, prompt_tokens } of runs.flatMap(({ folder }) => readPredictions(folder))) {
    const own = lengths.get(task) ?? new Map<number, number>();
    lengths.set(task, own.set(row, prompt_tokens));
  }
  return new Map(
    [...lengths].map(([task, own]) => [task, [...own.values()].reduce((a, b) => a + b, 0) / own.size]),
  );
}

function readTimes(file: string, heads: string): Attention {
  const table = parseCsv(readTextFile(file, { code: 'E_INPUT', hint: 'check the path after --attention' }));
  if (table === undefined)
    throw new QuestError('E_INPUT', `${file} is not a CSV table`, {
      hint: "give a kernel benchmark's attention.csv",
    });
  return {
    time: fileTimes(attentionTimes(table, file, heads)),
    note: `attention: one decode step at the mean context with ${heads} heads, between measured contexts in proportion; empty outside of what was measured`,
  };
}

export interface IsoTables {
  wide: Table;
  long: Table;
  notes: string[];
}

/** Where the attention times come from: nowhere, a file, or measured on this device when it is known what is asked for. */
export type AttentionSource = (rows: readonly IsoRow[]) => Promise<Attention> | Attention | undefined;

const NO_TIMES =
  'attention times are empty: --measure takes them now, --attention attention.csv from a kernel benchmark';

/** The tables of finished LongBench runs, and what a reader must know. */
export async function isoTables(
  runs: readonly ReportRun[],
  tolerance: number,
  source: AttentionSource,
): Promise<IsoTables> {
  const { model, data } = checkRuns(runs);
  const [scores, contexts] = [collectScores(runs), meanContexts(runs)];
  const attention = await source(isoRows(scores, contexts, tolerance, undefined));
  const rows = isoRows(scores, contexts, tolerance, attention?.time);
  if (rows.length === 0) {
    throw new QuestError('E_INPUT', 'no task has scores of full, with which the others are compared', {
      hint: 'add full to --method of quest longbench',
    });
  }
  const run = { model, data, tolerance };
  const notes = [
    `lossless: at least full's score minus ${plural(tolerance, 'point')} (--tolerance)`,
    attention?.note ?? NO_TIMES,
  ];
  const idle = rows.filter(({ saysNothing }) => saysNothing).map(({ task }) => task);
  if (idle.length > 0)
    notes.push(
      `${idle.join(', ')}: full scores no more than the tolerance, so every budget would be lossless; this says nothing about the methods, which are left out`,
    );
  if (data.startsWith('sample'))
    notes.push(
      'SAMPLE: small documents made for this tool, not LongBench; nothing here compares with the paper',
    );
  else if (data === 'longbench') notes.push(`paper: ${PAPER_ISO_TITLE}`);
  if (rows.some(({ lossless }) => (lossless?.neverSparse ?? 0) > 0))
    notes.push(
      '* never attended fewer tokens than the cache held in some or all samples: there it was the same as full',
    );
  return { wide: isoWideTable(rows, run), long: isoLongTable(rows, run), notes };
}

function sourceOf(context: CommandContext): AttentionSource {
  const { settings } = context;
  const [file, heads] = [settings.maybeString('attention'), settings.string('heads')];
  if (!settings.flag('measure')) {
    for (const option of ['heads', 'device', 'threads']) {
      const given = ['command line', 'config file'].includes(settings.source(option));
      if (!given || (option === 'heads' && file !== undefined)) continue;
      throw new QuestError('E_USAGE', `--${option} was given, but no attention times are asked for`, {
        hint: `add --measure, ${option === 'heads' ? 'or --attention FILE, ' : ''}or leave --${option} out`,
      });
    }
  }
  if (!settings.flag('measure')) {
    const times = file === undefined ? undefined : readTimes(file, heads);
    return () => times;
  }
  if (file !== undefined)
    throw new QuestError('E_USAGE', '--attention and --measure name two sources of the same times', {
      hint: 'leave one of them out',
    });
  return (rows) => measureAttention(context, rows, heads);
}

/** Runs `quest iso`. */
export async function run(context: CommandContext): Promise<number> {
  const { settings, args, out } = context;
  const source = sourceOf(context);
  const tables = await isoTables(readRuns(args, out.note), settings.number('tolerance'), source);
  const format = settings.string('format') as Format;
  await out.table(format === 'table' || format === 'md' ? tables.wide : tables.long, format);
  for (const note of tables.notes) out.note(note);
  return 0;
}
