/** Identifies a checkpoint without reading all of it. */
import { createHash } from 'node:crypto';
import { open, readFile } from 'node:fs/promises';
import path from 'node:path';
import { base, unreadable } from './fields.js';
import type { Weights } from './weights.js';

const SAMPLES = 64;
const SAMPLE_BYTES = 4096;

/**
 * sha256 (hex, 16 digits) over config.json, the tensor index, file names and sizes, and 64 evenly spread samples of 4 KiB
 * of each file. Does not depend on where the checkpoint lies.
 */
export async function fingerprint(dir: string, weights: Weights): Promise<string> {
  const hash = createHash('sha256');
  hash.update(await readFile(path.join(dir, 'config.json')));
  hash.update(JSON.stringify(Object.entries(weights.tensors)));
  for (const file of weights.files) await sampleFile(file, (bytes) => hash.update(bytes));
  return hash.digest('hex').slice(0, 16);
}

async function sampleFile(file: string, update: (bytes: Buffer | string) => void): Promise<void> {
  try {
    const handle = await open(file, 'r');
    try {
      const { size } = await handle.stat();
      update(`${base(file)} ${size}\n`);
      const buffer = Buffer.alloc(SAMPLE_BYTES);
      const last = Math.max(0, size - SAMPLE_BYTES);
      for (let i = 0; i < SAMPLES; i++) {
        const at = Math.floor((last * i) / (SAMPLES - 1));
        const { bytesRead } = await handle.read(buffer, 0, SAMPLE_BYTES, at);
        update(buffer.subarray(0, bytesRead));
        if (last === 0) break;
      }
    } finally {
      await handle.close();
    }
  } catch (cause) {
    throw unreadable(file, cause);
  }
}
