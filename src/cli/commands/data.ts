/** quest data: what datasets there are, pulling them, and checking what was pulled. */
import { DATASET_NAMES, DATASETS, type DatasetName } from '../../../datasets/catalog.js';
import { dataDir, foldersOf } from '../../../datasets/data_cache_places.js';
import { pullDataset } from '../../../datasets/data_cache_pull.js';
import { datasetState, verifyDataset } from '../../../datasets/data_cache_state.js';
import { QuestError } from '../../errors.js';
import type { Format, Table } from '../../report/table.js';
import { chooseAction } from '../actions.js';
import type { CommandContext } from '../commands.js';
import { nearest } from '../suggest.js';
import { sizeCell, withTransfer } from '../transfer.js';

const ACTIONS = ['list', 'pull', 'verify'] as const;

interface Wanted {
  name: DatasetName;
  /** Undefined: all files. */
  files: string[] | undefined;
}

/** `pg19` is the whole dataset, `pg19/860` or `longbench/qasper` one file of it. */
function parseNames(words: readonly string[]): Wanted[] {
  const wanted = new Map<DatasetName, string[] | undefined>();
  for (const word of words) {
    const slash = word.indexOf('/');
    const head = slash < 0 ? word : word.slice(0, slash);
    const name = DATASET_NAMES.find((known) => known === head);
    if (name === undefined) {
      const near = nearest(head, DATASET_NAMES);
      throw new QuestError('E_USAGE', `there is no dataset "${head}"`, {
        hint: near === undefined ? `the datasets are ${DATASET_NAMES.join(', ')}` : `did you mean ${near}?`,
      });
    }
    if (slash < 0) wanted.set(name, undefined);
    else if (!(wanted.has(name) && wanted.get(name) === undefined))
      wanted.set(name, [...(wanted.get(name) ?? []), word.slice(slash + 1)]);
  }
  return words.length === 0
    ? DATASET_NAMES.map((name) => ({ name, files: undefined }))
    : [...wanted].map(([name, files]) => ({ name, files }));
}

async function list({ settings, out }: CommandContext, wanted: Wanted[], format: Format): Promise<number> {
  const rows: Table['rows'] = [];
  const forPrograms = format === 'csv' || format === 'json';
  for (const { name } of wanted) {
    const { dataset, folder, present, bytes, state } = await datasetState(name, {
      data: settings.maybeString('data'),
    });
    const row = [name, state, present, dataset.count, sizeCell(bytes, format), folder];
    rows.push(forPrograms ? [...row, dataset.home, dataset.licence] : row);
  }
  const columns = ['dataset', 'state', 'files', 'of', 'bytes', 'folder'];
  if (forPrograms) columns.push('source', 'licence');
  const right = new Set(['files', 'of', 'bytes']);
  await out.table(
    { columns: columns.map((key) => ({ key, align: right.has(key) ? 'right' : 'left' })), rows },
    format,
  );
  return 0;
}

async function pull(context: CommandContext, wanted: Wanted[], format: Format): Promise<number> {
  const { settings, out } = context;
  const rows: Table['rows'] = [];
  let incomplete = false;
  for (const { name, files } of wanted) {
    const dataset = DATASETS[name];
    const result = await withTransfer(context, name, (transfer) =>
      pullDataset(name, {
        ...transfer,
        data: settings.maybeString('data'),
        files,
        force: settings.flag('force'),
        dryRun: settings.flag('dry-run'),
      }),
    );
    const { absent, bytes, fetched, files: found } = result;
    if (absent.length > 0) {
      out.note(`${dataset.title}: its source does not have ${absent.join(', ')}`);
      // Ids that we only believe in are no failure; what was asked for by name is.
      incomplete ||= files !== undefined;
    }
    const folder = foldersOf(dataset, result.dir, found);
    rows.push([name, fetched, found.size, sizeCell(bytes, format), folder]);
  }
  const columns = ['dataset', 'fetched', 'files', 'downloaded', 'folder'];
  await out.table(
    {
      columns: columns.map((key) => ({ key, align: /fetch|files|down/.test(key) ? 'right' : 'left' })),
      rows,
    },
    format,
  );
  return incomplete ? 1 : 0;
}

async function verify(context: CommandContext, wanted: Wanted[], format: Format): Promise<number> {
  const { settings, out, signal } = context;
  const rows: Table['rows'] = [];
  const counts = { ok: 0, changed: 0, missing: 0, unrecorded: 0 };
  const data = settings.maybeString('data');
  const absent: DatasetName[] = [];
  for (const { name, files } of wanted) {
    const before = rows.length;
    for (const { key, file, bytes, state, trust } of await verifyDataset(name, { data, files, signal })) {
      counts[state]++;
      rows.push([name, key, state, trust, sizeCell(bytes, format), file]);
    }
    if (rows.length === before) absent.push(name);
  }
  const pullThem = absent.map((name) => `\`quest data pull ${name}\``).join(' and ');
  if (rows.length === 0)
    throw new QuestError('E_DATA_MISSING', `there is nothing of ${absent.join(' or ')} in ${dataDir(data)}`, {
      hint: `fetch it with ${pullThem}, or give the folder that holds it with --data`,
      exitCode: 3,
    });
  const columns = ['dataset', 'file', 'state', 'checksum', 'bytes', 'path'];
  await out.table(
    { columns: columns.map((key) => ({ key, align: key === 'bytes' ? 'right' : 'left' })), rows },
    format,
  );
  const { ok, changed, missing, unrecorded } = counts;
  out.note(`${ok} ok, ${changed} changed, ${missing} missing, ${unrecorded} without a recorded checksum`);
  if (rows.some(([, , , trust]) => trust !== undefined && trust !== 'published'))
    out.note(
      'first-pull and by-hand: their source published no checksum; the recorded one shows only that they are as they came',
    );
  if (changed + missing > 0) out.note('fetch them again with `quest data pull NAME --force`');
  // Without a name, what is there is verified; a name asks for it.
  const lacking = context.args.length > 1 && absent.length > 0;
  if (lacking) out.note(`there is nothing of ${absent.join(' and ')}: fetch it with ${pullThem}`);
  return changed + missing > 0 || lacking ? 1 : 0;
}

/** Runs `quest data`. */
export async function run(context: CommandContext): Promise<number> {
  const [first, ...words] = context.args;
  const action = chooseAction('data', first, ACTIONS);
  const wanted = parseNames(words);
  const format = context.settings.string('format') as Format;
  return { list, pull, verify }[action](context, wanted, format);
}
