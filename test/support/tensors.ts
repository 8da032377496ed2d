/** A plain safetensors reader for tests, independent of the one under test. */
import { readFileSync } from 'node:fs';

export interface TestTensor {
  shape: number[];
  data: Float32Array | Int32Array;
}

export function readTensors(path: string): Map<string, TestTensor> {
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const out = new Map<string, TestTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [begin, end] = entry.data_offsets;
    const copy = new Uint8Array(bytes.subarray(8 + length + begin, 8 + length + end)).buffer;
    const data = entry.dtype === 'F32' ? new Float32Array(copy) : new Int32Array(copy);
    out.set(name, { shape: entry.shape, data });
  }
  return out;
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs((a[i] ?? Number.NaN) - (b[i] ?? Number.NaN));
    if (!(d <= worst)) worst = d;
  }
  return worst;
}
