/** Writes safetensors files: small ones at once, e.g. logits for parity work, and large ones piece by piece. */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../errors.js';
import { elementCount } from './safetensors.js';

export interface TensorToWrite {
  name: string;
  /** Row-major; its length is the product of `shape`. */
  data: Float32Array | Int32Array | BigInt64Array;
  shape: readonly number[];
}

function dtypeOf(data: TensorToWrite['data']): string {
  if (data instanceof Float32Array) return 'F32';
  return data instanceof Int32Array ? 'I32' : 'I64';
}

/** A tensor of a file being written: the format's own name of its dtype, and how many bytes follow. */
export interface TensorEntry {
  name: string;
  dtype: string;
  shape: readonly number[];
  bytes: number;
}

/** A safetensors file that is written piece by piece and appears whole or not at all. */
export interface SafetensorsWriter {
  /** The next bytes of the tensors, in the order of the entries. */
  write(bytes: Uint8Array): Promise<void>;
  /** Syncs the file and gives it its name; every byte must have been written. */
  finish(): Promise<void>;
  /** Removes what was written; nothing after `finish`. */
  abort(): Promise<void>;
}

/**
 * Begins a safetensors file: a temporary one in the same folder, renamed over `file` at the end. Throws E_WRITE with the system's
 * reason, here and in the writer's calls; `file` is then as before.
 */
export async function createSafetensors(
  file: string,
  entries: readonly TensorEntry[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<SafetensorsWriter> {
  const header = headerBytes(entries, metadata);
  let left = entries.reduce((sum, { bytes }) => sum + bytes, 0);
  const temporary = path.join(
    path.dirname(file),
    `.${path.basename(file)}.${randomBytes(6).toString('hex')}.tmp`,
  );
  let handle: FileHandle | undefined;
  const abort = async () => {
    if (handle === undefined) return;
    await handle.close().catch(() => undefined);
    handle = undefined;
    await rm(temporary, { force: true }).catch(() => undefined);
  };
  const guarded = async (work: () => Promise<void>) => {
    try {
      await work();
    } catch (cause) {
      await abort();
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new QuestError('E_WRITE', `cannot write ${file}: ${reason}`, {
        hint: 'choose a folder that exists, is writable and has room',
        exitCode: 3,
        cause,
      });
    }
  };
  await guarded(async () => {
    handle = await open(temporary, 'wx');
    await handle.writeFile(header);
  });
  return {
    write: (bytes) =>
      guarded(async () => {
        left -= bytes.byteLength;
        await handle!.writeFile(bytes);
      }),
    finish: () =>
      guarded(async () => {
        if (left !== 0) throw new Error(`its tensors and its header differ by ${Math.abs(left)} bytes`);
        await handle!.sync();
        await handle!.close();
        await rename(temporary, file);
        handle = undefined;
        await syncFolder(path.dirname(file));
      }),
    abort,
  };
}

/** Writes fp32, int32 and int64 tensors with string metadata, as {@link createSafetensors} does. */
export async function writeSafetensors(
  file: string,
  tensors: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const entries = tensors.map(({ name, data, shape }) => {
    if (elementCount(shape) !== data.length)
      throw new QuestError(
        'E_WRITE',
        `tensor ${name}: ${data.length} numbers do not fill [${shape.join(', ')}]`,
      );
    return { name, dtype: dtypeOf(data), shape, bytes: data.byteLength };
  });
  const writer = await createSafetensors(file, entries, metadata);
  for (const { data } of tensors)
    await writer.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  await writer.finish();
}

function headerBytes(entries: readonly TensorEntry[], metadata: Readonly<Record<string, string>>): Buffer {
  const members = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) members.set('__metadata__', metadata);
  let at = 0;
  for (const { name, dtype, shape, bytes } of entries) {
    if (name === '__metadata__' || members.has(name))
      throw new QuestError('E_WRITE', `tensor ${name}: its name is taken`);
    members.set(name, { dtype, shape, data_offsets: [at, at + bytes] });
    at += bytes;
  }
  const text = Buffer.from(JSON.stringify(Object.fromEntries(members)));
  // Spaces up to a multiple of 8, so that a mapped file has aligned tensors.
  const padded = Math.ceil(text.length / 8) * 8;
  const header = Buffer.alloc(8 + padded, ' ');
  header.writeBigUInt64LE(BigInt(padded), 0);
  text.copy(header, 8);
  return header;
}

/** Makes the rename itself survive a power cut, where the system lets a folder be opened. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r').catch(() => undefined);
  await handle?.sync().catch(() => undefined);
  await handle?.close();
}
