/** Where a zip archive keeps its stored (uncompressed) entries. Nothing is unpacked. */
import type { Entry, ZipFile } from 'yauzl';
import { QuestError } from '../errors.js';
import { base, show } from './fields.js';

export interface ZipEntry {
  name: string;
  bytes: number;
  /** Position of the entry's first byte in the archive's file. Throws when the entry is compressed or out of bounds. */
  offset(): Promise<number>;
  /** The entry's content, at most `limit` bytes of it are allowed. */
  read(limit: number): Promise<Buffer>;
}

/** More entries than any checkpoint has; keeps a lying directory from filling memory. */
const MAX_ENTRIES = 200_000;

export function brokenZip(file: string, what: string, cause?: unknown): QuestError {
  return new QuestError('E_TORCH_FILE', `${base(file)}: ${what}`, {
    hint: `the file is damaged or was not written by torch.save; fetch ${file} again, or convert it to safetensors`,
    cause,
  });
}

/** Opens a zip archive (zip64 too), gives its entries by name to `use`, and closes it afterwards. Throws E_TORCH_FILE. */
export async function withZip<T>(
  file: string,
  use: (entries: Map<string, ZipEntry>) => Promise<T>,
): Promise<T> {
  const { openPromise } = await yauzl();
  let zip: ZipFile;
  try {
    zip = await openPromise(file, { autoClose: false, validateEntrySizes: true });
  } catch (cause) {
    throw brokenZip(file, `is not a readable zip archive (${reasonOf(cause)})`, cause);
  }
  try {
    return await use(await listEntries(file, zip));
  } finally {
    zip.close();
  }
}

async function yauzl(): Promise<typeof import('yauzl')> {
  const module = await import('yauzl');
  return (module as unknown as { default?: typeof import('yauzl') }).default ?? module;
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function listEntries(file: string, zip: ZipFile): Promise<Map<string, ZipEntry>> {
  if (zip.entryCount > MAX_ENTRIES)
    throw brokenZip(file, `states ${zip.entryCount} zip entries; at most ${MAX_ENTRIES} are read`);
  const entries = new Map<string, ZipEntry>();
  const headers: number[] = [];
  // From each local header to the one behind it: no entry's data may reach that far, whatever its own header says.
  const following = new Map<number, number>();
  try {
    for await (const entry of zip.eachEntry()) {
      if (entries.has(entry.fileName))
        throw brokenZip(file, `holds the zip entry ${show(entry.fileName)} twice`);
      entries.set(entry.fileName, describe(file, zip, entry, following));
      headers.push(entry.relativeOffsetOfLocalHeader);
    }
    headers.sort((a, b) => a - b);
    headers.forEach((start, i) => void following.set(start, headers[i + 1] ?? Number.POSITIVE_INFINITY));
  } catch (cause) {
    if (cause instanceof QuestError) throw cause;
    throw brokenZip(file, `has a broken zip directory (${reasonOf(cause)})`, cause);
  }
  return entries;
}

function describe(file: string, zip: ZipFile, entry: Entry, following: Map<number, number>): ZipEntry {
  const name = entry.fileName;
  const offset = async () => {
    if (entry.compressionMethod !== 0)
      throw brokenZip(
        file,
        `zip entry ${show(name)} is compressed (method ${entry.compressionMethod}); supported: stored entries, as torch.save writes them`,
      );
    if (entry.isEncrypted()) throw brokenZip(file, `zip entry ${show(name)} is encrypted`);
    let start: number;
    try {
      // Also checks that the entry ends before the archive does.
      start = (await zip.readLocalFileHeaderPromise(entry, { minimal: true })).fileDataStart;
    } catch (cause) {
      throw brokenZip(file, `zip entry ${show(name)} has a broken header (${reasonOf(cause)})`, cause);
    }
    if (start + entry.uncompressedSize > (following.get(entry.relativeOffsetOfLocalHeader) ?? 0))
      throw brokenZip(file, `zip entry ${show(name)} reaches into the next entry`);
    return start;
  };
  const read = async (limit: number) => {
    if (entry.uncompressedSize > limit)
      throw brokenZip(
        file,
        `zip entry ${show(name)} has ${entry.uncompressedSize} bytes; at most ${limit} are read`,
      );
    await offset();
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of await zip.openReadStreamPromise(entry)) chunks.push(chunk as Buffer);
    } catch (cause) {
      throw brokenZip(file, `zip entry ${show(name)} cannot be read (${reasonOf(cause)})`, cause);
    }
    return Buffer.concat(chunks);
  };
  return { name, bytes: entry.uncompressedSize, offset, read };
}
