/** What a benchmark has measured so far: one line per case, keyed by the case, the timing rules and the device. */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { QuestError } from '../../src/errors.js';
import type { DeviceInfo } from '../../src/runtime/addon.js';
import { openRows, type RowJournal } from '../journal.js';

export interface BenchRow {
  v: number;
  key: string;
  bench: string;
  /** The device's name, so that no table mixes two machines' times. */
  device: string;
  case: Record<string, string | number>;
  result: Record<string, number>;
}

const VERSION = 1;
const scalar = z.union([z.string(), z.number()]);

/** Opens a folder's journal of one benchmark. */
export function openBenchJournal(
  folder: string,
  bench: string,
  note: (text: string) => void,
): RowJournal<BenchRow> {
  const schema = z.looseObject({
    v: z.literal(VERSION),
    key: z.string(),
    bench: z.literal(bench),
    device: z.string(),
    case: z.record(z.string(), scalar),
    result: z.record(z.string(), z.number()),
  } satisfies Record<keyof BenchRow, z.ZodType>);
  return openRows<BenchRow>(folder, note, schema);
}

/** Names one case on one device under one set of rules. */
export const caseKey = (
  bench: string,
  device: string,
  one: BenchRow['case'],
  rules: Record<string, number>,
): string =>
  createHash('sha256')
    .update(JSON.stringify([VERSION, bench, device, one, rules]))
    .digest('hex');

/** The device's name in rows. */
export const deviceName = ({ device, gpu, simd, threads }: DeviceInfo): string =>
  gpu === undefined ? `${device} ${simd} ${threads}` : gpu;

/** Refuses a folder with another device's rows. */
export function checkSameDevice(journal: RowJournal<BenchRow>, device: string): void {
  const other = journal.rows().find((row) => row.device !== device);
  if (other === undefined) return;
  throw new QuestError('E_DEVICE', `${journal.path} has times of ${other.device}, this is ${device}`, {
    hint: 'use another --out',
    exitCode: 3,
  });
}

/** A row to append. */
export const benchRow = (
  bench: string,
  device: string,
  key: string,
  one: BenchRow['case'],
  result: BenchRow['result'],
): BenchRow => ({ v: VERSION, key, bench, device, case: one, result });
