/** `pytorch_model.bin`: where torch.save put each tensor's bytes, read in place and without running anything. */
import { open } from 'node:fs/promises';
import { QuestError } from '../errors.js';
import { base, show, unreadable } from './fields.js';
import { readStateDict, STORAGE_BYTES, type TorchTensor } from './pickle.js';
import { elementCount, type StoredFile, type StoredTensor } from './safetensors.js';
import { brokenZip, withZip, type ZipEntry } from './zip.js';

/** A state dict of 10,000 tensors takes about 1 MB. */
const MAX_PICKLE_BYTES = 16 << 20;

const DTYPES: Readonly<Record<string, string>> = {
  FloatStorage: 'F32',
  HalfStorage: 'F16',
  BFloat16Storage: 'BF16',
};

/**
 * Reads the index of a torch checkpoint in zip format. dtypes are named as safetensors does where it matters (F32, F16, BF16).
 * Throws E_TORCH_FILE or E_PICKLE: for old torch files, TorchScript, compressed entries, storages out of bounds, views.
 */
export async function readTorchIndex(file: string): Promise<StoredFile> {
  await checkMagic(file);
  return withZip(file, async (entries) => {
    const root = findRoot(file, entries);
    await checkByteOrder(file, entries.get(`${root}byteorder`));
    const pickle = await (entries.get(`${root}data.pkl`) as ZipEntry).read(MAX_PICKLE_BYTES);
    const tensors = new Map<string, StoredTensor>();
    for (const [name, tensor] of await readStateDict(pickle, base(file)))
      tensors.set(name, await place(file, name, tensor, entries.get(`${root}data/${tensor.storage.key}`)));
    return { tensors, metadata: {} };
  });
}

async function checkMagic(file: string): Promise<void> {
  const magic = Buffer.alloc(4);
  try {
    const handle = await open(file, 'r');
    try {
      await handle.read(magic, 0, 4, 0);
    } finally {
      await handle.close();
    }
  } catch (cause) {
    throw unreadable(file, cause);
  }
  if (magic.toString('latin1') === 'PK\x03\x04') return;
  if (magic[0] === 0x80)
    throw new QuestError(
      'E_TORCH_FILE',
      `${base(file)} is in torch's old format; supported: the zip format of torch 1.6 and later`,
      {
        hint: 'load and save it again with a current torch, or convert it to safetensors',
      },
    );
  throw brokenZip(file, 'is not a torch checkpoint (it does not start like a zip archive)');
}

function findRoot(file: string, entries: Map<string, ZipEntry>): string {
  const pickles = [...entries.keys()].filter(
    (name) => name === 'data.pkl' || /^[^/]+\/data\.pkl$/.test(name),
  );
  const [pickle] = pickles;
  if (pickle === undefined || pickles.length > 1)
    throw brokenZip(file, `holds ${pickles.length} data.pkl entries; a torch checkpoint has one`);
  const root = pickle.slice(0, -'data.pkl'.length);
  if (entries.has(`${root}constants.pkl`))
    throw new QuestError('E_TORCH_FILE', `${base(file)} is a TorchScript program; supported: state dicts`, {
      hint: "save the model's state_dict() instead, or use a safetensors version",
    });
  return root;
}

async function checkByteOrder(file: string, entry: ZipEntry | undefined): Promise<void> {
  if (!entry) return;
  const order = (await entry.read(64)).toString('latin1').trim();
  if (order !== 'little') throw brokenZip(file, `its byte order is ${show(order)}; supported: little`);
}

/** Byte position and size of one tensor, with every bound checked. */
async function place(
  file: string,
  name: string,
  tensor: TorchTensor,
  entry: ZipEntry | undefined,
): Promise<StoredTensor> {
  const of = `tensor ${show(name)}`;
  const { storage, shape, stride } = tensor;
  const itemBytes = STORAGE_BYTES[storage.type] as number;
  if (!entry)
    throw brokenZip(file, `${of} lies in storage ${show(storage.key)}, which the archive does not hold`);
  const elements = elementCount(shape);
  if (elements === undefined || !Number.isSafeInteger((tensor.offset + elements) * itemBytes))
    throw brokenZip(file, `${of} has a shape whose product is too large`);
  if (tensor.offset + elements > storage.elements || storage.elements * itemBytes > entry.bytes)
    throw brokenZip(
      file,
      `${of} ends at element ${tensor.offset + elements} of storage ${show(storage.key)}, which states ${storage.elements} and has ${entry.bytes} bytes`,
    );
  if (!isContiguous(shape, stride))
    throw brokenZip(
      file,
      `${of} has strides [${stride.join(', ')}] for shape [${shape.join(', ')}]; supported: contiguous tensors`,
    );
  const dtype = DTYPES[storage.type] ?? storage.type;
  return {
    dtype,
    shape,
    offset: (await entry.offset()) + tensor.offset * itemBytes,
    bytes: elements * itemBytes,
  };
}

function isContiguous(shape: number[], stride: number[]): boolean {
  let wanted = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if ((shape[i] as number) > 1 && stride[i] !== wanted) return false;
    wanted *= shape[i] as number;
  }
  return true;
}
