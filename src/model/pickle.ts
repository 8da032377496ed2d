/**
 * Reads the pickle inside a torch checkpoint as data. No global of the pickle is ever looked up, called or imported:
 * a fixed list of names stands for plain records, any other name is refused by name.
 */
import { QuestError } from '../errors.js';
import { show } from './fields.js';

export interface TorchStorage {
  /** e.g. `HalfStorage`. */
  type: string;
  /** Zip entry `data/<key>`. */
  key: string;
  elements: number;
}

export interface TorchTensor {
  storage: TorchStorage;
  /** In elements. */
  offset: number;
  shape: number[];
  stride: number[];
}

/** Bytes per element of torch's typed storages. */
export const STORAGE_BYTES: Readonly<Record<string, number>> = {
  DoubleStorage: 8,
  FloatStorage: 4,
  HalfStorage: 2,
  BFloat16Storage: 2,
  LongStorage: 8,
  IntStorage: 4,
  ShortStorage: 2,
  CharStorage: 1,
  ByteStorage: 1,
  BoolStorage: 1,
};

/** What torch.save's pickles are made of. INST and NEWOBJ are let through so that their globals are refused by name. */
const OPCODES = new Set([
  ...'(.0GJKMNQRTUXabceghijqrstu])}'.split('').map((char) => char.charCodeAt(0)),
  0x80,
  0x81,
  0x85,
  0x86,
  0x87,
  0x88,
  0x89,
  0x8a,
  0x8c,
  0x8d,
  0x93,
  0x94,
  0x95,
]);

const BUILD = 0x62;
const POP = 0x30;
const MAX_STRING_BYTES = 1 << 16;

class PickleProblem extends Error {}

/** pickleparser's reader interface over a buffer, with every length checked and every opcode on the list. */
class CheckedReader {
  private position = 0;
  private atOpcode = false;

  constructor(private readonly buffer: Buffer) {}

  /** The parser asks this once before each opcode, so the next byte() is an opcode. */
  hasNext(): boolean {
    this.atOpcode = true;
    return this.position < this.buffer.length;
  }

  private take(bytes: number): number {
    const start = this.position;
    if (!Number.isSafeInteger(bytes) || bytes < 0 || bytes > this.buffer.length - start)
      throw new PickleProblem('it ends in the middle of a value');
    this.position = start + bytes;
    return start;
  }

  byte(): number {
    const at = this.take(1);
    const value = this.buffer.readUInt8(at);
    if (this.atOpcode && !OPCODES.has(value))
      throw new PickleProblem(
        `it uses opcode 0x${value.toString(16)} at byte ${at}, which torch.save never writes`,
      );
    // BUILD would set attributes (an OrderedDict's _metadata). They are not needed, so the state is popped instead.
    const discard = this.atOpcode && value === BUILD;
    this.atOpcode = false;
    return discard ? POP : value;
  }

  bytes(length: number): Uint8Array {
    const start = this.take(length);
    const value = this.buffer.subarray(start, start + length);
    // Only integers arrive here (sizes above 2^31 are written this way); above 2^53 they would not be exact.
    if (value.some((byte, i) => byte > (i < 6 ? 0xff : i === 6 ? 0x1f : 0)))
      throw new PickleProblem('it holds an integer that is too large for a size');
    return value;
  }

  uint16(): number {
    return this.buffer.readUInt16LE(this.take(2));
  }

  int32(): number {
    return this.buffer.readInt32LE(this.take(4));
  }

  uint32(): number {
    return this.buffer.readUInt32LE(this.take(4));
  }

  uint64(): number {
    return Number(this.buffer.readBigUInt64LE(this.take(8)));
  }

  float64(): number {
    return this.buffer.readDoubleBE(this.take(8));
  }

  skip(bytes: number): void {
    this.take(bytes);
  }

  string(bytes: number): string {
    if (bytes > MAX_STRING_BYTES) throw new PickleProblem(`it holds a text of ${bytes} bytes`);
    const start = this.take(bytes);
    return this.buffer.toString('utf8', start, start + bytes);
  }

  line(): string {
    const end = this.buffer.indexOf(0x0a, this.position);
    if (end < 0) throw new PickleProblem('it ends in the middle of a line');
    const text = this.string(end - this.position);
    this.take(1);
    return text;
  }
}

type Callable = (...args: unknown[]) => unknown;

/**
 * The tensors of a state dict pickled by torch.save, by name, in file order. `file` is for messages only.
 * Throws E_PICKLE: for a global that is not on the list (named), and for anything that is not a flat dict of tensors.
 */
export async function readStateDict(pickle: Buffer, file: string): Promise<Map<string, TorchTensor>> {
  const module = await import('pickleparser');
  const tensors = new WeakSet<object>();
  const names = allowedNames(tensors);
  let result: unknown;
  try {
    result = new module.Parser({
      nameResolver: { resolve: (from: unknown, name: unknown) => resolve(names, from, name) },
      persistentResolver: { resolve: (id: unknown) => readStorage(names, id) },
      unpicklingTypeOfDictionary: 'Map',
    }).read(new CheckedReader(pickle));
  } catch (cause) {
    if (cause instanceof QuestError) throw cause;
    const what = cause instanceof PickleProblem ? cause.message : 'it is not a well-formed state dict';
    throw refuse(`${file}: its pickle is refused: ${what}`);
  }
  if (!(result instanceof Map))
    throw refuse(`${file}: its pickle holds ${show(result)}, not a dict of tensors`);
  const found = new Map<string, TorchTensor>();
  for (const [name, value] of result) {
    if (typeof name !== 'string') throw refuse(`${file}: its pickle has a key that is no text`);
    // Entries that are not tensors (a step counter, say) are left out; a needed name is then reported as missing.
    if (typeof value === 'object' && value !== null && tensors.has(value))
      found.set(name, value as TorchTensor);
  }
  return found;
}

function refuse(message: string): QuestError {
  return new QuestError('E_PICKLE', message, {
    hint: 'only plain state dicts are read and nothing in them is executed; use a safetensors version of this checkpoint',
  });
}

/** Fresh functions for each file, so that a pickle cannot leave anything behind in them. */
function allowedNames(tensors: WeakSet<object>): Map<string, Callable> {
  const names = new Map<string, Callable>([
    ['collections.OrderedDict', () => new Map()],
    ['torch._utils._rebuild_tensor_v2', (...args) => rebuildTensor(args, tensors)],
    [
      'torch._utils._rebuild_parameter',
      (data) => {
        if (typeof data !== 'object' || data === null || !tensors.has(data))
          throw new PickleProblem('it makes a parameter of something that is no tensor');
        return data;
      },
    ],
  ]);
  for (const type of Object.keys(STORAGE_BYTES))
    names.set(`torch.${type}`, () => {
      throw new PickleProblem(`it calls torch.${type}`);
    });
  return names;
}

function resolve(names: Map<string, Callable>, from: unknown, name: unknown): Callable {
  if (typeof from !== 'string' || typeof name !== 'string')
    throw new PickleProblem('it names a global by something that is no text');
  const found = names.get(`${from}.${name}`);
  if (found) return found;
  throw refuse(
    `the pickle asks for the global ${show(`${from}.${name}`)}; supported: ${[...names.keys()].slice(0, 3).join(', ')} and torch's typed storages`,
  );
}

function readStorage(names: Map<string, Callable>, id: unknown): TorchStorage {
  if (!Array.isArray(id) || id.length !== 5 || id[0] !== 'storage')
    throw new PickleProblem('it has a persistent id that is no storage');
  const [, token, key, , elements] = id;
  const type = Object.keys(STORAGE_BYTES).find((name) => names.get(`torch.${name}`) === token);
  if (!type || typeof key !== 'string' || !isSize(elements))
    throw new PickleProblem('it has a storage without type, key or size');
  return { type, key, elements };
}

function rebuildTensor(args: unknown[], tensors: WeakSet<object>): TorchTensor {
  const [storage, offset, shape, stride] = args as [TorchStorage, unknown, unknown, unknown];
  const isStorage =
    typeof storage === 'object' && storage !== null && Object.hasOwn(STORAGE_BYTES, storage.type);
  if (!isStorage || !isSize(offset) || !isSizes(shape) || !isSizes(stride) || shape.length !== stride.length)
    throw new PickleProblem('it has a tensor without storage, offset, shape or strides');
  const tensor = { storage, offset, shape: [...shape], stride: [...stride] };
  tensors.add(tensor);
  return tensor;
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.length <= 32 && value.every(isSize);
}
