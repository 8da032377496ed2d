/** What is there of a dataset, and whether it is still what was pulled. Asks nothing of the network. */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { hashFile } from '../src/net/checksum.js';
import { DATASETS, type Dataset, type DatasetName } from './catalog.js';
import { type ManifestEntry, readManifest, type Trust } from './data_cache_manifest.js';
import { checkKeys, dataDir, exists, findFiles, foldersOf } from './data_cache_places.js';

/** The keys that the catalogue knows and those that the manifest adds (the bucket has books that we do not list). */
export async function knownKeys(
  dataset: Dataset,
  dir: string,
  files: readonly string[] | undefined,
): Promise<readonly string[]> {
  if (files !== undefined) return files;
  const prefix = `${dataset.folder}/`;
  const pulled = [...(await readManifest(dir)).keys()]
    .filter((name) => name.startsWith(prefix) && name.endsWith(dataset.extension))
    .map((name) => name.slice(prefix.length, -dataset.extension.length));
  return [...new Set([...dataset.keys, ...pulled])];
}

export interface DatasetState {
  dataset: Dataset;
  dir: string;
  /** Where its files are, or would be. */
  folder: string;
  present: number;
  bytes: number;
  state: 'complete' | 'partial' | 'missing';
}

/** Counts what is there. */
export async function datasetState(
  name: DatasetName,
  options: { data?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<DatasetState> {
  const dataset = DATASETS[name];
  const dir = dataDir(options.data, options.env);
  const files = await findFiles(dataset, dir, await knownKeys(dataset, dir, undefined));
  let bytes = 0;
  for (const file of files.values()) bytes += (await stat(file)).size;
  const present = files.size;
  const state = present === 0 ? 'missing' : present >= dataset.count ? 'complete' : 'partial';
  return { dataset, dir, folder: foldersOf(dataset, dir, files), present, bytes, state };
}

export interface VerifiedFile {
  key: string;
  file: string;
  bytes: number | undefined;
  /** `unrecorded`: there, but no checksum is known. */
  state: 'ok' | 'changed' | 'missing' | 'unrecorded';
  trust: Trust | undefined;
}

export interface VerifyOptions {
  data?: string;
  env?: NodeJS.ProcessEnv;
  files?: readonly string[];
  signal?: AbortSignal;
  onFile?: (done: number, of: number) => void;
}

/** Compares the files that are there, or were pulled, with their recorded checksums. */
export async function verifyDataset(name: DatasetName, options: VerifyOptions = {}): Promise<VerifiedFile[]> {
  const dataset = DATASETS[name];
  const dir = dataDir(options.data, options.env);
  checkKeys(dataset, options.files);
  const manifest = await readManifest(dir);
  const keys = await knownKeys(dataset, dir, options.files);
  const files = await findFiles(dataset, dir, keys);
  const results: VerifiedFile[] = [];
  let done = 0;
  for (const key of keys) {
    options.signal?.throwIfAborted();
    const entry = manifest.get(`${dataset.folder}/${key}${dataset.extension}`);
    const file = files.get(key);
    if (file !== undefined || entry !== undefined || options.files !== undefined)
      results.push(
        await verifyFile(
          key,
          file ?? path.join(dir, dataset.folder, key + dataset.extension),
          entry,
          options.signal,
        ),
      );
    options.onFile?.(++done, keys.length);
  }
  return results;
}

async function verifyFile(
  key: string,
  file: string,
  entry: ManifestEntry | undefined,
  signal: AbortSignal | undefined,
): Promise<VerifiedFile> {
  if (!(await exists(file))) return { key, file, bytes: undefined, state: 'missing', trust: entry?.trust };
  if (entry === undefined)
    return { key, file, bytes: (await stat(file)).size, state: 'unrecorded', trust: undefined };
  const { bytes, sha256 } = await hashFile(file, undefined, signal);
  const same = bytes === entry.bytes && sha256 === entry.sha256;
  return { key, file, bytes, state: same ? 'ok' : 'changed', trust: entry.trust };
}
