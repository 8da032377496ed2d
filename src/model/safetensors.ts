/**
 * safetensors headers: 8 bytes little-endian length N, N bytes of JSON, then the tensors' bytes.
 * Only headers are read here. The format's own rules are enforced in full, so that a header cannot lie.
 */
import { open } from 'node:fs/promises';
import { QuestError } from '../errors.js';
import { base, isObject, type JsonObject, printable, show, unreadable } from './fields.js';
import { duplicateKey } from './jsonkeys.js';

/** Bits per element of the dtypes that the format defines. Only F32, F16 and BF16 can be weights here. */
const DTYPE_BITS: Readonly<Record<string, number>> = {
  BOOL: 8,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F4: 4,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  I64: 64,
  U64: 64,
  F64: 64,
  C64: 64,
};

/** The format's own limit. */
const MAX_HEADER_BYTES = 100_000_000;

export interface StoredTensor {
  /** The file's own name for its dtype, e.g. `BF16`. */
  dtype: string;
  shape: number[];
  /** From the start of the file. */
  offset: number;
  bytes: number;
}

export interface StoredFile {
  tensors: Map<string, StoredTensor>;
  metadata: Record<string, string>;
}

function broken(file: string, what: string): QuestError {
  return new QuestError('E_SAFETENSORS', `${base(file)}: ${what}`, {
    hint: `the file is damaged or incomplete; fetch ${file} again`,
  });
}

/** Reads and checks the header of a safetensors file. Throws E_SAFETENSORS that says which rule is broken. */
export async function readSafetensorsHeader(file: string): Promise<StoredFile> {
  let handle: Awaited<ReturnType<typeof open>>;
  try {
    handle = await open(file, 'r');
  } catch (cause) {
    throw unreadable(file, cause);
  }
  try {
    const { size } = await handle.stat();
    if (size < 8) throw broken(file, `has ${size} bytes; a safetensors file has at least 8`);
    const prefix = Buffer.alloc(8);
    await readFully(handle, prefix, 0, file);
    const length = prefix.readBigUInt64LE();
    if (length > BigInt(MAX_HEADER_BYTES))
      throw broken(file, `states a header of ${length} bytes; at most ${MAX_HEADER_BYTES} are allowed`);
    const headerBytes = Number(length);
    if (8 + headerBytes > size)
      throw broken(file, `states a header of ${headerBytes} bytes but has only ${size - 8} after its length`);
    const header = Buffer.alloc(headerBytes);
    await readFully(handle, header, 8, file);
    return parseHeader(file, header, size - 8 - headerBytes);
  } finally {
    await handle.close();
  }
}

async function readFully(
  handle: Awaited<ReturnType<typeof open>>,
  into: Buffer,
  position: number,
  file: string,
): Promise<void> {
  for (let done = 0; done < into.length; ) {
    const { bytesRead } = await handle.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) throw broken(file, 'ended while its header was read');
    done += bytesRead;
  }
}

function parseHeader(file: string, header: Buffer, dataBytes: number): StoredFile {
  if (header[0] !== 0x7b) throw broken(file, 'its header does not start with {');
  let text: string;
  let json: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(header);
    json = JSON.parse(text);
  } catch (cause) {
    throw broken(file, `its header is not valid JSON (${printable((cause as Error).message)})`);
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) throw broken(file, `its header holds the key ${show(twice)} twice`);

  const dataStart = 8 + header.length;
  const tensors = new Map<string, StoredTensor>();
  let metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(json as JsonObject)) {
    if (name === '__metadata__') metadata = checkMetadata(file, entry);
    else tensors.set(name, checkEntry(file, name, entry, dataStart, dataBytes));
  }
  checkLayout(file, tensors, dataStart, dataBytes);
  return { tensors, metadata };
}

function checkMetadata(file: string, entry: unknown): Record<string, string> {
  if (!isObject(entry) || Object.values(entry).some((value) => typeof value !== 'string'))
    throw broken(file, '__metadata__ is not an object of strings');
  return entry as Record<string, string>;
}

function checkEntry(
  file: string,
  name: string,
  entry: unknown,
  dataStart: number,
  dataBytes: number,
): StoredTensor {
  const of = `tensor ${show(name)}`;
  if (!isObject(entry)) throw broken(file, `${of} is ${show(entry)}, not an object`);
  const { dtype, shape, data_offsets: offsets } = entry;
  const bits = typeof dtype === 'string' && Object.hasOwn(DTYPE_BITS, dtype) ? DTYPE_BITS[dtype] : undefined;
  if (bits === undefined)
    throw broken(file, `${of} has dtype ${show(dtype)}, which the format does not know`);
  const elements = elementCount(shape);
  if (elements === undefined || !Number.isSafeInteger(elements * bits))
    throw broken(file, `${of} has a shape that is not a list of sizes, or whose product is too large`);
  if (
    !Array.isArray(offsets) ||
    offsets.length !== 2 ||
    !offsets.every((n) => Number.isSafeInteger(n) && n >= 0)
  )
    throw broken(file, `${of} has data_offsets that are not two byte positions`);
  const [begin, end] = offsets as [number, number];
  if (end < begin || end > dataBytes)
    throw broken(
      file,
      `${of} claims bytes ${begin} to ${end}, but the file holds ${dataBytes} bytes of tensors`,
    );
  if ((elements * bits) % 8 !== 0 || end - begin !== (elements * bits) / 8)
    throw broken(
      file,
      `${of} claims ${end - begin} bytes, but ${dtype} [${(shape as number[]).join(', ')}] takes ${(elements * bits) / 8}`,
    );
  return { dtype: dtype as string, shape: shape as number[], offset: dataStart + begin, bytes: end - begin };
}

/** The product of a shape's sizes; undefined when it is no list of sizes or the product is not exact. */
export function elementCount(shape: unknown): number | undefined {
  if (!Array.isArray(shape) || shape.length > 32) return undefined;
  let product = 1;
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || size < 0) return undefined;
    product *= size;
    if (!Number.isSafeInteger(product)) return undefined;
  }
  return product;
}

/** Tensors must tile the data: the format allows neither holes nor overlaps. */
function checkLayout(
  file: string,
  tensors: Map<string, StoredTensor>,
  dataStart: number,
  dataBytes: number,
): void {
  const ordered = [...tensors].sort(([, a], [, b]) => a.offset - b.offset || a.bytes - b.bytes);
  let at = dataStart;
  for (const [name, tensor] of ordered) {
    if (tensor.offset !== at) {
      const [what, bytes] =
        tensor.offset < at
          ? ['overlaps the one before it', at - tensor.offset]
          : ['follows a hole', tensor.offset - at];
      throw broken(file, `tensor ${show(name)} ${what} (${bytes} bytes)`);
    }
    at += tensor.bytes;
  }
  if (at !== dataStart + dataBytes)
    throw broken(file, `${dataStart + dataBytes - at} bytes at its end belong to no tensor`);
}
