/** Where datasets lie, which of their files are there, and what to say when they are not. */
import { stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { QuestError } from '../src/errors.js';
import { endpointFrom } from '../src/net/env.js';
import { hubAccess, hubFileUrl } from '../src/net/hub_api.js';
import { type Dataset, LONGBENCH_ARCHIVE, LONGBENCH_REPO, PG19_ENDPOINT, pg19Url } from './catalog.js';

type Env = NodeJS.ProcessEnv;

/** `--data`, else QUEST_DATA, else `quest/data` in the user's cache folder. */
export function dataDir(option?: string, env: Env = process.env): string {
  const home = env.HOME || homedir();
  const expand = (dir: string) => path.resolve(dir.replace(/^~(?=\/|$)/, home));
  if (option) return expand(option);
  if (env.QUEST_DATA) return expand(env.QUEST_DATA);
  return path.join(expand(env.XDG_CACHE_HOME || '~/.cache'), 'quest', 'data');
}

/** Whether a file is there and not empty. */
export const exists = (file: string): Promise<boolean> =>
  stat(file).then(
    (info) => info.isFile() && info.size > 0,
    () => false,
  );

/** Where a dataset's files are now; also where people keep them who downloaded them in another way. */
export async function findFiles(
  dataset: Dataset,
  dir: string,
  keys: readonly string[],
): Promise<Map<string, string>> {
  if ((await stat(dir).catch(() => undefined))?.isFile())
    throw new QuestError('E_DATA', `${dir} is a file, not a folder of datasets`, {
      hint: 'give --data (or QUEST_DATA) the folder that holds them',
    });
  const found = new Map<string, string>();
  for (const key of keys) {
    for (const folder of [dataset.folder, ...dataset.alsoIn]) {
      const file = path.join(dir, folder, key + dataset.extension);
      if (!(await exists(file))) continue;
      found.set(key, file);
      break;
    }
  }
  return found;
}

/** The folders that files were found in, or the one that they would be pulled into. */
export function foldersOf(dataset: Dataset, dir: string, files: ReadonlyMap<string, string>): string {
  const folders = new Set([...files.values()].map((file) => path.dirname(file)));
  return folders.size === 0 ? path.join(dir, dataset.folder) : [...folders].join(', ');
}

/** Where LongBench's archive comes from and where it may be put by hand. */
export function longbenchArchive(dir: string, env: NodeJS.ProcessEnv): { url: string; file: string } {
  const { endpoint } = hubAccess(env);
  return {
    url: hubFileUrl(endpoint, { kind: 'dataset', id: LONGBENCH_REPO }, 'main', LONGBENCH_ARCHIVE),
    file: path.join(dir, 'longbench', LONGBENCH_ARCHIVE),
  };
}

/** Says exactly what to fetch by hand, from where, and where to put it. */
function byHand(dataset: Dataset, dir: string, missing: readonly string[], env: Env): string {
  if (dataset.name === 'longbench') {
    const { url, file } = longbenchArchive(dir, env);
    return `download ${url} and put it at ${file} (it is unpacked from there)`;
  }
  const endpoint = endpointFrom('QUEST_PG19_ENDPOINT', PG19_ENDPOINT, env);
  const place = (id: string) => path.join(dir, dataset.folder, `${id}.txt`);
  const [first = 'ID'] = missing;
  return missing.length === 1
    ? `download ${pg19Url(endpoint, first)} and put it at ${place(first)}`
    : `download ${pg19Url(endpoint, 'ID')} for ID in ${list(missing)} and put each at ${place('ID')}`;
}

const list = (items: readonly string[]): string =>
  items.length > 8 ? `${items.slice(0, 8).join(', ')} and ${items.length - 8} more` : items.join(', ');

/** What is missing, why it was not fetched, and how to get it. */
export function missingError(
  dataset: Dataset,
  dir: string,
  missing: readonly string[],
  env: Env,
  why: string,
  cause?: unknown,
): QuestError {
  const what = missing.length === 0 ? dataset.title : `${dataset.title} (${list(missing)})`;
  return new QuestError('E_DATA_MISSING', `${what} is not in ${dir}, and ${why}`, {
    hint: `${byHand(dataset, dir, missing, env)}; or run \`quest data pull ${dataset.name}\` where there is a network, and give that folder with --data`,
    exitCode: 3,
    cause,
  });
}

/** A book or task that cannot exist is a typing mistake, found before anything is asked of the network. */
export function checkKeys(dataset: Dataset, files: readonly string[] | undefined): void {
  const pattern = dataset.name === 'pg19' ? /^\d{1,9}$/ : undefined;
  const bad = files?.find((key) =>
    pattern === undefined ? !dataset.keys.includes(key) : !pattern.test(key),
  );
  if (bad === undefined) return;
  throw new QuestError('E_DATA', `${dataset.title} has no ${dataset.unit} ${JSON.stringify(bad)}`, {
    hint:
      dataset.name === 'pg19'
        ? 'books are named by number, e.g. 10146'
        : `its files: ${dataset.keys.join(', ')}`,
  });
}
