/** Writes small safetensors files, e.g. logits for parity work. */
import { randomBytes } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
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

/**
 * Writes fp32, int32 and int64 tensors with string metadata. The file appears whole or not at all: a temporary file in the
 * same folder is written, synced and renamed over `file`. Throws E_WRITE with the system's reason; `file` is then as before.
 */
export async function writeSafetensors(
  file: string,
  tensors: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const header = headerBytes(tensors, metadata);
  const temporary = path.join(
    path.dirname(file),
    `.${path.basename(file)}.${randomBytes(6).toString('hex')}.tmp`,
  );
  try {
    const handle = await open(temporary, 'wx');
    try {
      await handle.writeFile(header);
      for (const { data } of tensors)
        await handle.writeFile(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
    await syncFolder(path.dirname(file));
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined);
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new QuestError('E_WRITE', `cannot write ${file}: ${reason}`, {
      hint: 'choose a folder that exists, is writable and has room',
      exitCode: 3,
      cause,
    });
  }
}

function headerBytes(tensors: readonly TensorToWrite[], metadata: Readonly<Record<string, string>>): Buffer {
  const entries: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0) entries.push(['__metadata__', metadata]);
  let at = 0;
  for (const { name, data, shape } of tensors) {
    if (
      elementCount(shape) !== data.length ||
      name === '__metadata__' ||
      entries.some(([other]) => other === name)
    )
      throw new QuestError(
        'E_WRITE',
        `tensor ${name}: ${data.length} numbers do not fill [${shape.join(', ')}], or its name is taken`,
      );
    entries.push([name, { dtype: dtypeOf(data), shape, data_offsets: [at, at + data.byteLength] }]);
    at += data.byteLength;
  }
  const text = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
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
