/** Unpacks an archive that may be hostile: known names only, sizes checked before a byte is written, checksums verified. */
import { createHash } from 'node:crypto';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import * as zlib from 'node:zlib';
import type { Entry, ZipFile } from 'yauzl';
import { QuestError } from '../src/errors.js';
import { diskError } from '../src/net/errors.js';
import { checkDisk } from '../src/net/partial.js';

export interface UnpackRequest {
  archive: string;
  folder: string;
  /** The file's name below `folder` for an entry of the archive; undefined leaves the entry out. */
  target(entryName: string): string | undefined;
  signal?: AbortSignal;
  onProgress?: (bytes: number, total: number) => void;
}

export interface UnpackedFile {
  name: string;
  bytes: number;
  sha256: string;
}

const MAX_ENTRIES = 10_000;
const MAX_FILE_BYTES = 2 ** 30;
const MAX_TOTAL_BYTES = 8 * 2 ** 30;
/** Text shrinks to a quarter or so; only made-up archives shrink a hundredfold. */
const MAX_RATIO = 100;
const SYMLINK = 0o120000;

function broken(archive: string, what: string, cause?: unknown): QuestError {
  return new QuestError('E_ARCHIVE', `${path.basename(archive)}: ${what}`, {
    hint: `nothing of it is used; delete ${archive} and pull again`,
    exitCode: 3,
    cause,
  });
}

const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error));

async function openZip(archive: string): Promise<ZipFile> {
  const module = await import('yauzl');
  const yauzl = (module as unknown as { default?: typeof import('yauzl') }).default ?? module;
  try {
    return await yauzl.openPromise(archive, { autoClose: false, validateEntrySizes: true });
  } catch (cause) {
    throw broken(archive, `is not a readable zip archive (${reason(cause)})`, cause);
  }
}

/** The entries to unpack, by target, after everything that can be judged from the directory has been judged. */
async function selectEntries(zip: ZipFile, request: UnpackRequest): Promise<Map<string, Entry>> {
  const { archive, target } = request;
  if (zip.entryCount > MAX_ENTRIES)
    throw broken(archive, `has ${zip.entryCount} entries; at most ${MAX_ENTRIES} are read`);
  const chosen = new Map<string, Entry>();
  const seen = new Set<string>();
  let total = 0;
  try {
    for await (const entry of zip.eachEntry()) {
      const name = entry.fileName;
      const shown = JSON.stringify(name);
      if (seen.has(name)) throw broken(archive, `holds ${shown} twice`);
      seen.add(name);
      // The library refuses absolute names and `..`; links could still lead out.
      if (((entry.externalFileAttributes >>> 16) & 0o170000) === SYMLINK)
        throw broken(archive, `${shown} is a symbolic link`);
      const file = target(name);
      if (file === undefined) continue;
      if (chosen.has(file)) throw broken(archive, `holds ${file} twice`);
      if (entry.isEncrypted()) throw broken(archive, `${shown} is encrypted`);
      const { uncompressedSize: size, compressedSize: packed } = entry;
      if (size > MAX_FILE_BYTES)
        throw broken(archive, `${shown} claims ${size} bytes; at most ${MAX_FILE_BYTES} are unpacked`);
      if (size > 2 ** 20 && size > packed * MAX_RATIO)
        throw broken(archive, `${shown} would grow from ${packed} to ${size} bytes: a zip bomb`);
      total += size;
      if (total > MAX_TOTAL_BYTES)
        throw broken(archive, `claims more than ${MAX_TOTAL_BYTES} bytes in all: a zip bomb`);
      chosen.set(file, entry);
    }
  } catch (cause) {
    if (cause instanceof QuestError) throw cause;
    throw broken(archive, `has a broken or hostile directory (${reason(cause)})`, cause);
  }
  return chosen;
}

// Since Node 20.15; before, the sizes and the archive's own checksum must do.
const crc32 = (zlib as { crc32?: (data: Uint8Array, value?: number) => number }).crc32;

async function unpackEntry(
  zip: ZipFile,
  entry: Entry,
  file: string,
  archive: string,
  arrived: (bytes: number) => void,
): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256');
  let crc = 0;
  let bytes = 0;
  await mkdir(path.dirname(file), { recursive: true });
  const temporary = `${file}.unpacking`;
  const handle = await open(temporary, 'w');
  try {
    try {
      for await (const part of await zip.openReadStreamPromise(entry)) {
        const chunk = part as Buffer;
        bytes += chunk.length;
        hash.update(chunk);
        if (crc32 !== undefined) crc = crc32(chunk, crc);
        await handle.writeFile(chunk); // goes on from where the last one ended
        arrived(chunk.length);
      }
    } catch (cause) {
      if (cause instanceof Error && (cause as NodeJS.ErrnoException).syscall === 'write') throw cause;
      if (cause instanceof QuestError || (cause as Error).name === 'AbortError') throw cause;
      throw broken(archive, `${JSON.stringify(entry.fileName)} cannot be unpacked (${reason(cause)})`, cause);
    }
    if (crc32 !== undefined && crc !== entry.crc32)
      throw broken(archive, `${JSON.stringify(entry.fileName)} is damaged (its CRC-32 is wrong)`);
    await handle.sync();
    await handle.close();
    await rename(temporary, file);
    return { bytes, sha256: hash.digest('hex') };
  } catch (error) {
    await handle.close().catch(() => {});
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Unpacks the wanted entries; each file appears whole or not at all. */
export async function unpack(request: UnpackRequest): Promise<UnpackedFile[]> {
  const { archive, folder, signal, onProgress } = request;
  const zip = await openZip(archive);
  try {
    const entries = await selectEntries(zip, request);
    const total = [...entries.values()].reduce((sum, entry) => sum + entry.uncompressedSize, 0);
    await stat(folder).catch(() => mkdir(folder, { recursive: true }));
    await checkDisk(folder, total, path.basename(archive));
    const files: UnpackedFile[] = [];
    let done = 0;
    for (const [name, entry] of entries) {
      const file = await unpackEntry(zip, entry, path.join(folder, name), archive, (bytes) => {
        signal?.throwIfAborted();
        done += bytes;
        onProgress?.(done, total);
      });
      files.push({ name, ...file });
    }
    return files;
  } catch (error) {
    signal?.throwIfAborted();
    throw error instanceof QuestError ? error : diskError(error, folder);
  } finally {
    zip.close();
  }
}
