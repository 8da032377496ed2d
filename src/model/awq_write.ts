/** Writes a checkpoint folder in AutoAWQ's layout from layers that come one after another. */
import { copyFile, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../errors.js';
import { isPacked, packedParts } from './awq.js';
import { parseConfig } from './config.js';
import { fileSize, readJsonObject } from './fields.js';
import { SMALL_FILES } from './hub_files.js';
import { elementCount } from './safetensors.js';
import { createSafetensors, type TensorEntry } from './safetensors_write.js';
import { neededTensors, storedName } from './weights.js';

/** Rows of a large 16-bit tensor that are in memory at a time hold about this many bytes. */
const PIECE_BYTES = 64 << 20;

/** Where the tensors' bytes come from; layers are asked for in order, each once. */
export interface AwqSource {
  /** By canonical name without its layer: `attn_norm`, `q.weights`, `q.zeros`, `q.scales`, ... */
  layer(index: number): Promise<Record<string, Uint8Array>>;
  /** Rows of a 16-bit tensor outside the layers, as fp16. */
  plain(name: string, firstRow: number, rows: number): Promise<Uint8Array>;
}

interface Entry extends TensorEntry {
  canonical: string;
}

const ITEM_BYTES: Readonly<Record<string, number>> = { F16: 2, I32: 4 };

function entriesOf(config: ReturnType<typeof parseConfig>, group: number): Entry[] {
  const format = { group, plain: [] };
  const entry = (canonical: string, name: string, dtype: string, shape: number[]): Entry => ({
    canonical,
    name,
    dtype,
    shape,
    bytes: elementCount(shape)! * ITEM_BYTES[dtype]!,
  });
  return [...neededTensors(config.shape)].flatMap(([canonical, shape]) => {
    const name = storedName(config.architecture, canonical);
    if (!isPacked(format, name, shape, canonical.startsWith('layers.')))
      return [entry(canonical, name, 'F16', shape)];
    return packedParts(format, name, shape).map((part) =>
      entry(`${canonical}.${part.role}`, part.name, part.dtype, part.shape),
    );
  });
}

/** Refuses a folder that holds something, before anything is computed. Throws E_WRITE. */
export async function checkOutput(out: string): Promise<void> {
  const names = await readdir(out).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return [];
    throw new QuestError('E_WRITE', `cannot use ${out}: ${cause.message}`, {
      hint: 'give a folder that is empty or not there yet',
      exitCode: 3,
      cause,
    });
  });
  if (names.length > 0)
    throw new QuestError('E_WRITE', `${out} is not empty: it holds ${names.slice(0, 3).join(', ')}`, {
      hint: 'give a folder that is empty or not there yet',
    });
}

/**
 * Writes weights, config.json and the tokenizer's files to `out`. config.json comes last, so that a folder without it is an
 * unfinished one; what was written is removed when something fails.
 */
export async function writeAwqCheckpoint(
  dir: string,
  out: string,
  group: number,
  source: AwqSource,
): Promise<void> {
  const json = (await readJsonObject(path.join(dir, 'config.json')))!;
  const config = parseConfig(json);
  const entries = entriesOf(config, group);
  await mkdir(out, { recursive: true });
  const written: string[] = [];
  try {
    const weights = path.join(out, 'model.safetensors');
    const writer = await createSafetensors(weights, entries, { format: 'pt' });
    try {
      await writeTensors(entries, config.shape.nLayers, source, writer.write);
      await writer.finish();
    } catch (error) {
      await writer.abort();
      throw error;
    }
    written.push(weights);
    for (const name of SMALL_FILES) {
      if (/^(quant.*_)?config\.json$/.test(name) || (await fileSize(path.join(dir, name))) === undefined)
        continue;
      written.push(path.join(out, name));
      await copyFile(path.join(dir, name), path.join(out, name));
    }
    const packed = {
      ...json,
      [Object.hasOwn(json, 'dtype') ? 'dtype' : 'torch_dtype']: 'float16',
      quantization_config: {
        quant_method: 'awq',
        bits: 4,
        group_size: group,
        zero_point: true,
        version: 'gemm',
        modules_to_not_convert: null,
      },
    };
    const temporary = path.join(out, '.config.json.tmp');
    written.push(temporary);
    await writeFile(temporary, `${JSON.stringify(packed, undefined, 2)}\n`);
    await rename(temporary, path.join(out, 'config.json'));
  } catch (cause) {
    for (const file of written) await rm(file, { force: true }).catch(() => undefined);
    if (!(cause instanceof Error) || (cause as NodeJS.ErrnoException).syscall === undefined) throw cause;
    throw new QuestError('E_WRITE', `cannot write to ${out}: ${cause.message}`, {
      hint: 'choose a folder that is writable and has room',
      exitCode: 3,
      cause,
    });
  }
}

async function writeTensors(
  entries: readonly Entry[],
  layers: number,
  source: AwqSource,
  write: (bytes: Uint8Array) => Promise<void>,
): Promise<void> {
  const checked = async (entry: Entry, bytes: Uint8Array | undefined) => {
    if (bytes?.byteLength !== entry.bytes)
      throw new QuestError(
        'E_QUANTIZE',
        `${entry.name} came as ${bytes?.byteLength ?? 0} bytes, wanted ${entry.bytes}`,
      );
    await write(bytes);
  };
  const outside = entries.filter(({ canonical }) => !canonical.startsWith('layers.'));
  for (const { canonical, shape, bytes } of outside) {
    const rows = shape.length === 1 ? 1 : shape[0]!;
    const step = Math.max(1, Math.floor((PIECE_BYTES * rows) / bytes));
    for (let row = 0; row < rows; row += step)
      await write(await source.plain(canonical, row, Math.min(step, rows - row)));
  }
  for (let i = 0; i < layers; i++) {
    const prefix = `layers.${i}.`;
    const tensors = await source.layer(i);
    for (const entry of entries.filter(({ canonical }) => canonical.startsWith(prefix)))
      await checked(entry, tensors[entry.canonical.slice(prefix.length)]);
  }
}
