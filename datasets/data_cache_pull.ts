/** Pulls datasets into the data folder, one process at a time. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../src/errors.js';
import { offlineSwitch } from '../src/net/env.js';
import { lockFile } from '../src/net/lock.js';
import type { TransferProgress } from '../src/net/parallel.js';
import type { RetryPolicy } from '../src/net/retry.js';
import { DATASETS, type Dataset, type DatasetName } from './catalog.js';
import { readManifest, writeManifest } from './data_cache_manifest.js';
import {
  checkKeys,
  dataDir,
  exists,
  findFiles,
  longbenchArchive,
  missingError,
} from './data_cache_places.js';
import {
  type PullContext,
  type PullSource,
  planLongbench,
  planOffline,
  planPg19,
} from './data_cache_sources.js';
import { knownKeys } from './data_cache_state.js';

export interface PullOptions {
  /** `--data`. */
  data?: string;
  env?: NodeJS.ProcessEnv;
  /** Tasks or book ids; all of the dataset when left out. */
  files?: readonly string[];
  /** Fetch again what is there. */
  force?: boolean;
  /** Only say how much it would be. */
  dryRun?: boolean;
  signal?: AbortSignal;
  policy?: RetryPolicy;
  stallMs?: number;
  /** For people: how much will be pulled, who is waited for, what is tried again. */
  note?: (text: string) => void;
  onProgress?: (progress: TransferProgress) => void;
}

export interface PullResult {
  /** The data folder. */
  dir: string;
  /** Path of each file, by task or book id. */
  files: Map<string, string>;
  /** Files that were not there before. */
  fetched: number;
  /** Bytes that came (or would come) over the line; undefined when the source did not say. */
  bytes: number | undefined;
  /** Files that the source does not have. */
  absent: string[];
}

/** Pulls what is missing of a dataset, under the data folder's lock. */
export async function pullDataset(name: DatasetName, options: PullOptions = {}): Promise<PullResult> {
  const { files: wanted, signal, note = () => {}, force = false, dryRun = false } = options;
  const env = options.env ?? process.env;
  const dataset = DATASETS[name];
  const dir = dataDir(options.data, env);
  checkKeys(dataset, wanted);
  // A dry run writes nothing, no lock either.
  const unlock = dryRun
    ? async () => {}
    : await lockFile(path.join(dir, '.lock'), {
        signal,
        onWait: (holder) => note(`${holder} is pulling into ${dir}; waiting for it`),
      });
  try {
    const there = force ? new Map<string, string>() : await findFiles(dataset, dir, wanted ?? dataset.keys);
    // Only the bucket itself knows all of PG-19's books.
    const all = wanted ?? (name === 'longbench' ? dataset.keys : undefined);
    if (all?.every((key) => there.has(key))) return { dir, files: there, fetched: 0, bytes: 0, absent: [] };
    const { policy, stallMs, onProgress = () => {} } = options;
    const context: PullContext = { dir, env, signal, policy, stallMs, note, onProgress };
    const source = await plan(dataset, context, wanted, there, dryRun);
    if (source.what !== undefined) note(`${dataset.title}: ${source.what}; into ${dir}`);
    if (!dryRun) {
      if (force) await removeFiles(dataset, dir, wanted);
      await source.fetch();
    }
    const files = await findFiles(dataset, dir, await knownKeys(dataset, dir, wanted));
    const fetched = [...files.keys()].filter((key) => !there.has(key)).length;
    const lacking = (wanted ?? []).filter((key) => !files.has(key) && !source.absent.includes(key));
    const absent = dryRun ? [] : [...source.absent, ...lacking];
    return { dir, files, fetched: dryRun ? 0 : fetched, bytes: source.bytes, absent };
  } finally {
    await unlock();
  }
}

/** A plan, or the error that says what to do without a network. */
async function plan(
  dataset: Dataset,
  context: PullContext,
  files: readonly string[] | undefined,
  found: Map<string, string>,
  dryRun: boolean,
): Promise<PullSource> {
  const { dir, env } = context;
  const missing = (files ?? dataset.keys).filter((key) => !found.has(key));
  const archive = dataset.name === 'longbench' && (await exists(longbenchArchive(dir, env).file));
  const offline = archive ? undefined : offlineSwitch(env);
  if (offline !== undefined && dryRun) return planOffline(dataset, context, missing, `${offline} is set`);
  if (offline !== undefined) throw missingError(dataset, dir, missing, env, `${offline} is set`);
  try {
    return dataset.name === 'longbench'
      ? await planLongbench(dataset, context)
      : await planPg19(dataset, context, files, (key) => found.has(key));
  } catch (error) {
    if (!(error instanceof QuestError) || (error.code !== 'E_OFFLINE' && error.code !== 'E_TLS')) throw error;
    if (dryRun) return planOffline(dataset, context, missing, error.message);
    throw missingError(dataset, dir, missing, env, error.message, error);
  }
}

/** Forgets pulled files, so that they are fetched again. Only in the dataset's own folder. */
async function removeFiles(
  dataset: Dataset,
  dir: string,
  files: readonly string[] | undefined,
): Promise<void> {
  const manifest = await readManifest(dir);
  for (const key of await knownKeys(dataset, dir, files)) {
    const name = `${dataset.folder}/${key}${dataset.extension}`;
    await rm(path.join(dir, name), { force: true });
    manifest.delete(name);
  }
  await writeManifest(dir, manifest);
}
