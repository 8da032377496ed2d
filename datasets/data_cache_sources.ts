/** Brings datasets into the data folder: from the hub, from PG-19's bucket, or out of an archive that was put there by hand. */
import { rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../src/errors.js';
import { type Checksum, hashFile } from '../src/net/checksum.js';
import { getJson } from '../src/net/documents.js';
import { downloadFile } from '../src/net/download.js';
import { endpointFrom } from '../src/net/env.js';
import { HttpStatusError } from '../src/net/errors.js';
import { explainHub, hubAccess, hubFileUrl, repoInfo } from '../src/net/hub_api.js';
import { createMeter, forEachLimited, type TransferProgress } from '../src/net/parallel.js';
import type { RetryPolicy } from '../src/net/retry.js';
import {
  type Dataset,
  LONGBENCH_ARCHIVE,
  LONGBENCH_REPO,
  PG19_BUCKET,
  PG19_ENDPOINT,
  pg19Url,
} from './catalog.js';
import { type Manifest, readManifest, type Trust, writeManifest } from './data_cache_manifest.js';
import { longbenchArchive } from './data_cache_places.js';
import { unpack } from './data_cache_unzip.js';

export interface PullContext {
  /** The data folder. */
  dir: string;
  env: NodeJS.ProcessEnv;
  signal?: AbortSignal;
  policy?: RetryPolicy;
  stallMs?: number;
  note(text: string): void;
  onProgress(progress: TransferProgress): void;
}

export interface PullSource {
  /** Bytes that would come over the line; undefined when the source does not say. */
  bytes: number | undefined;
  /** Files that the source turned out not to have, by key. */
  absent: string[];
  /** `data.zip, 114 MB, from https://...`; undefined when everything is there. */
  what: string | undefined;
  /** Fetches what was planned. The caller holds the lock of the data folder. */
  fetch(): Promise<void>;
}

const BOOKS_AT_ONCE = 8;
/** LongBench's archive has about a tenth of this, the longest book a thousandth. */
const MAX_ARCHIVE_BYTES = 2 * 2 ** 30;
const MAX_BOOK_BYTES = 64 * 2 ** 20;

const entryName = (dataset: Dataset, key: string): string => `${dataset.folder}/${key}${dataset.extension}`;

/** Plans LongBench: the archive that lies there, else the hub's. */
export async function planLongbench(dataset: Dataset, context: PullContext): Promise<PullSource> {
  const { dir, env } = context;
  const { url, file } = longbenchArchive(dir, env);
  if (await stat(file).catch(() => undefined)) {
    return {
      bytes: 0,
      absent: [],
      what: `unpacking ${file}`,
      fetch: () => unpackLongbench(dataset, context, file, file, 'by-hand'),
    };
  }
  const access = { ...hubAccess(env), ...connection(context) };
  const info = await repoInfo(access, 'dataset', LONGBENCH_REPO, 'main');
  const archive = info.files.find(({ name }) => name === LONGBENCH_ARCHIVE);
  if (archive === undefined) {
    throw new QuestError('E_DATA', `${LONGBENCH_REPO} holds no ${LONGBENCH_ARCHIVE} any more`, {
      hint: `look at ${dataset.home}; put the archive at ${file}`,
      exitCode: 3,
    });
  }
  // The commit, not the branch: what was described is what is fetched.
  const pinned = hubFileUrl(access.endpoint, info, info.commit, LONGBENCH_ARCHIVE);
  return {
    bytes: archive.size,
    absent: [],
    what: `${LONGBENCH_ARCHIVE}, ${megabytes(archive.size)}, from ${url}`,
    fetch: async () => {
      const meter = createMeter(archive.size, context.onProgress);
      await downloadFile({
        url: pinned,
        file,
        size: archive.size,
        checksum: archive.checksum,
        maxBytes: MAX_ARCHIVE_BYTES,
        authorization: access.authorization,
        onProgress: (bytes, _total, fresh) => meter.update(file, bytes, fresh),
        onNote: context.note,
        ...connection(context),
      }).catch((error: unknown) => {
        throw explainHub(error, access, info);
      });
      await unpackLongbench(
        dataset,
        context,
        file,
        pinned,
        archive.checksum === undefined ? 'first-pull' : 'published',
      );
    },
  };
}

/** What a dry run can say without the source: what is missing, about how much that is, and where it would come from. */
export function planOffline(
  dataset: Dataset,
  { dir, env, note }: PullContext,
  missing: readonly string[],
  why: string,
): PullSource {
  note(`${why}, so the source was not asked; nothing can be pulled now`);
  const books = dataset.name === 'pg19';
  const endpoint = endpointFrom('QUEST_PG19_ENDPOINT', PG19_ENDPOINT, env);
  const url = books
    ? pg19Url(endpoint, missing.length === 1 ? missing[0]! : 'ID')
    : longbenchArchive(dir, env).url;
  const size = megabytes(books ? (dataset.aboutBytes * missing.length) / dataset.count : dataset.aboutBytes);
  const what = books ? `${missing.length} ${missing.length === 1 ? 'book' : 'books'}` : LONGBENCH_ARCHIVE;
  return {
    bytes: undefined,
    absent: [],
    what: `${what}, about ${size}, from ${url}`,
    fetch: () => Promise.reject(new Error('a dry run fetches nothing')),
  };
}

async function unpackLongbench(
  dataset: Dataset,
  context: PullContext,
  archive: string,
  source: string,
  trust: Trust,
): Promise<void> {
  const { dir, signal } = context;
  const known = new Set(dataset.keys.map((key) => `${key}${dataset.extension}`));
  const files = await unpack({
    archive,
    folder: path.join(dir, dataset.folder),
    target: (name) => {
      const file = name.startsWith('data/') ? name.slice('data/'.length) : name;
      return known.has(file) ? file : undefined;
    },
    signal,
  });
  if (files.length === 0) {
    throw new QuestError('E_ARCHIVE', `${archive} holds none of LongBench's files`, {
      hint: `it should hold data/qasper.jsonl and so on; get it from ${dataset.home}`,
      exitCode: 3,
    });
  }
  const manifest = await readManifest(dir);
  const pulled_at = new Date().toISOString();
  for (const { name, bytes, sha256 } of files)
    manifest.set(`${dataset.folder}/${name}`, { bytes, sha256, source, trust, pulled_at });
  await writeManifest(dir, manifest);
  // What was put there by hand stays; what we fetched can be fetched again.
  if (trust !== 'by-hand') await rm(archive, { force: true });
}

const megabytes = (bytes: number | undefined): string =>
  bytes === undefined ? 'of unknown size' : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

interface Book {
  id: string;
  size: number | undefined;
  checksum: Checksum | undefined;
}

/** The bucket's own list of the split, or undefined where it cannot be listed. */
async function listBooks(endpoint: string, context: PullContext): Promise<Book[] | undefined> {
  const fields = 'items(name,size,md5Hash)';
  const url = `${endpoint}/storage/v1/b/${PG19_BUCKET}/o?prefix=test/&maxResults=1000&fields=${fields}`;
  let json: unknown;
  try {
    json = await getJson(url, connection(context));
  } catch (error) {
    // Mirrors often have the files without the listing.
    if (error instanceof HttpStatusError || (error instanceof QuestError && error.code === 'E_DOWNLOAD'))
      return undefined;
    throw error;
  }
  const { items } = (json ?? {}) as { items?: unknown };
  if (!Array.isArray(items)) return undefined;
  const books: Book[] = [];
  for (const item of items) {
    const { name, size, md5Hash } = (item ?? {}) as { name?: unknown; size?: unknown; md5Hash?: unknown };
    const id = typeof name === 'string' ? /^test\/(\d{1,9})\.txt$/.exec(name)?.[1] : undefined;
    if (id === undefined) continue;
    const md5 = typeof md5Hash === 'string' ? Buffer.from(md5Hash, 'base64').toString('hex') : '';
    books.push({
      id,
      size: /^\d{1,12}$/.test(String(size)) ? Number(size) : undefined,
      checksum: md5.length === 32 ? { kind: 'md5', hex: md5 } : undefined,
    });
  }
  return books.length === 0 ? undefined : books;
}

/** Plans the books asked for, or all of the split. */
export async function planPg19(
  dataset: Dataset,
  context: PullContext,
  wanted: readonly string[] | undefined,
  isThere: (key: string) => boolean,
): Promise<PullSource> {
  const endpoint = endpointFrom('QUEST_PG19_ENDPOINT', PG19_ENDPOINT, context.env);
  const listed = await listBooks(endpoint, context);
  if (listed === undefined)
    context.note(
      `${endpoint} does not list the split: using the ${dataset.keys.length} known ids of ${dataset.count}, without published checksums`,
    );
  const unlisted = (id: string): Book => ({ id, size: undefined, checksum: undefined });
  const all = new Map((listed ?? dataset.keys.map(unlisted)).map((book) => [book.id, book]));
  const books = (wanted ?? [...all.keys()]).map((id) => all.get(id) ?? unlisted(id));
  const strange = books.find(({ id }) => listed !== undefined && !all.has(id));
  if (strange !== undefined) {
    throw new QuestError('E_DATA', `PG-19's test split has no book ${strange.id}`, {
      hint: `its ${all.size} books are ${[...all.keys()].slice(0, 5).join(', ')}, ...`,
    });
  }
  const missing = books.filter(({ id }) => !isThere(id));
  const sizes = missing.map(({ size }) => size);
  const bytes = sizes.includes(undefined) ? undefined : sizes.reduce<number>((sum, n) => sum + n!, 0);
  const absent: string[] = [];
  return {
    bytes,
    absent,
    what:
      missing.length === 0
        ? undefined
        : `${missing.length} ${missing.length === 1 ? 'book' : 'books'}, ${megabytes(bytes)}, from ${pg19Url(endpoint, missing.length === 1 ? missing[0]!.id : 'ID')}`,
    fetch: () => fetchBooks(dataset, context, endpoint, missing, bytes, absent),
  };
}

async function fetchBooks(
  dataset: Dataset,
  context: PullContext,
  endpoint: string,
  books: readonly Book[],
  total: number | undefined,
  absent: string[],
): Promise<void> {
  const { dir } = context;
  const meter = createMeter(total, context.onProgress);
  const manifest = await readManifest(dir);
  try {
    await forEachLimited(books, BOOKS_AT_ONCE, context.signal, async (book, signal) => {
      const name = entryName(dataset, book.id);
      const file = path.join(dir, name);
      const url = pg19Url(endpoint, book.id);
      try {
        await downloadFile({
          url,
          file,
          size: book.size,
          checksum: book.checksum,
          maxBytes: MAX_BOOK_BYTES,
          onProgress: (bytes, _total, fresh) => meter.update(file, bytes, fresh),
          onNote: context.note,
          ...connection(context),
          signal,
        });
      } catch (error) {
        if (!(error instanceof HttpStatusError && error.status === 404)) throw error;
        absent.push(book.id);
        return;
      }
      await record(manifest, name, file, url, book.checksum === undefined ? 'first-pull' : 'published');
    });
  } finally {
    await writeManifest(dir, manifest);
  }
}

async function record(
  manifest: Manifest,
  name: string,
  file: string,
  source: string,
  trust: Trust,
): Promise<void> {
  const { bytes, sha256 } = await hashFile(file);
  manifest.set(name, { bytes, sha256, source, trust, pulled_at: new Date().toISOString() });
}

const connection = ({ signal, policy, stallMs }: PullContext) => ({ signal, policy, stallMs });
