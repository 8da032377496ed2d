/** `<file>.quest.incomplete`: what has arrived so far, with its running checksums, and what it takes to go on from there. */
import {
  type FileHandle,
  mkdir,
  open,
  readFile,
  rename,
  rm,
  stat,
  statfs,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../errors.js';
import { type Checksum, createHasher, type Hasher, hashPrefix } from './checksum.js';
import { diskError } from './errors.js';

/** Strong validator of the bytes in a partial file, kept beside it for the next process. */
interface Origin {
  url: string;
  etag: string;
}

export interface PartialFile {
  readonly path: string;
  /** Bytes that are here. */
  readonly bytes: number;
  /** Of those, bytes that an earlier process left. */
  readonly inherited: number;
  /** ETag that the bytes belong to, if a strong one is known. */
  readonly etag: string | undefined;
  append(chunk: Uint8Array): Promise<void>;
  /** Forgets what is here: the next byte is the file's first. */
  restart(): Promise<void>;
  /** Remembers which version of the file the bytes are of; weak ETags and none at all are not remembered. */
  belongsTo(url: string, etag: string | null): Promise<void>;
  checksums(): { sha256: string; wanted: string | undefined };
  /** To the disk, and in one step to its place. */
  finish(): Promise<void>;
  /** Closes it and leaves it for later. */
  keep(): Promise<void>;
  /** Closes and deletes it. */
  discard(): Promise<void>;
}

export interface PartialRequest {
  url: string;
  file: string;
  size?: number;
  checksum?: Checksum;
  signal?: AbortSignal;
}

/** A name of our own: some versions of Python's tools append to `<file>.incomplete`, whatever another process does with it. */
export const partialPath = (file: string): string => `${file}.quest.incomplete`;
const originPath = (file: string): string => `${partialPath(file)}.json`;

const isStrong = (etag: string | null): etag is string => etag !== null && /^"[^"]*"$/.test(etag);

async function readOrigin(file: string, url: string): Promise<string | undefined> {
  try {
    const origin = JSON.parse(await readFile(originPath(file), 'utf8')) as Partial<Origin>;
    return origin.url === url && typeof origin.etag === 'string' && isStrong(origin.etag)
      ? origin.etag
      : undefined;
  } catch {
    return undefined;
  }
}

/** Makes a rename durable; not every system can sync a folder. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r').catch(() => undefined);
  await handle?.sync().catch(() => {});
  await handle?.close();
}

/** Refuses what the disk has no room for. `what` names it in the message. */
export async function checkDisk(folder: string, bytes: number, what: string): Promise<void> {
  const { bavail, bsize } = await statfs(folder).catch((error) => {
    throw diskError(error, folder);
  });
  const free = bavail * bsize;
  if (bytes <= free) return;
  const gigabytes = (n: number) => `${(n / 1e9).toFixed(1)} GB`;
  throw new QuestError(
    'E_DISK',
    `${what} needs ${gigabytes(bytes)} more; ${folder} has ${gigabytes(free)} free`,
    { hint: 'free some space or choose another folder', exitCode: 3 },
  );
}

/** Opens what an earlier process left, if the next bytes can be asked for safely; else starts an empty file. */
export async function openPartial(request: PartialRequest): Promise<PartialFile> {
  try {
    return await start(request);
  } catch (error) {
    request.signal?.throwIfAborted();
    throw diskError(error, partialPath(request.file));
  }
}

async function start({ url, file, size, checksum, signal }: PartialRequest): Promise<PartialFile> {
  const place = partialPath(file);
  await mkdir(path.dirname(file), { recursive: true });
  const fresh = () => createHasher(checksum?.kind, size);
  let hasher: Hasher = fresh();
  let etag = await readOrigin(file, url);
  let bytes = (await stat(place).catch(() => undefined))?.size ?? 0;
  // Without a checksum to judge the whole and without a validator for If-Range, the rest could be of another version.
  const usable = (checksum !== undefined || etag !== undefined) && (size === undefined || bytes <= size);
  if (bytes > 0 && !(usable && (await hashPrefix(place, bytes, hasher, signal)))) {
    bytes = 0;
    hasher = fresh();
  }
  if (bytes === 0) etag = undefined;
  const handle: FileHandle = await open(place, bytes > 0 ? 'r+' : 'w');
  let inherited = bytes;
  const forgetOrigin = () => rm(originPath(file), { force: true });
  return {
    path: place,
    get bytes() {
      return bytes;
    },
    get inherited() {
      return inherited;
    },
    get etag() {
      return etag;
    },
    async append(chunk) {
      try {
        for (let done = 0; done < chunk.length; ) {
          const { bytesWritten } = await handle.write(chunk, done, chunk.length - done, bytes + done);
          done += bytesWritten;
        }
      } catch (error) {
        throw diskError(error, place);
      }
      hasher.update(chunk);
      bytes += chunk.length;
    },
    async restart() {
      await handle.truncate(0);
      await forgetOrigin();
      hasher = fresh();
      bytes = 0;
      inherited = 0;
      etag = undefined;
    },
    async belongsTo(from, value) {
      const strong = isStrong(value) ? value : undefined;
      if (strong === etag) return;
      etag = strong;
      // A checksum decides anyway.
      if (checksum !== undefined) return;
      if (strong === undefined) await forgetOrigin();
      else await writeFile(originPath(file), JSON.stringify({ url: from, etag: strong } satisfies Origin));
    },
    checksums: () => hasher.finish(),
    async finish() {
      try {
        await handle.truncate(bytes);
        await handle.sync();
        await handle.close();
        await rename(place, file);
        await syncFolder(path.dirname(file));
        await forgetOrigin();
      } catch (error) {
        throw diskError(error, file);
      }
    },
    keep: () => handle.close(),
    async discard() {
      await handle.close();
      await rm(place, { force: true });
      await forgetOrigin();
    },
  };
}
