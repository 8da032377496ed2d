/** Small sweeps, shared by the tests of both executors. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'csv-parse/sync';

/** Two units of passkey. */
export const SMALL_SWEEP = `
task: {passkey: {samples: 4}}
model: quest-tiny
context: 600
seed: [0, 1]
method: [full, quest]
budget: [32, 64]
`;

export const readRows = (folder: string): Record<string, string>[] =>
  parse(readFileSync(join(folder, 'table.csv'), 'utf8'), { columns: true });

/** The table without what a clock says. */
export const timeless = (folder: string) => readRows(folder).map(({ seconds: _, ...rest }) => rest);

/** Rows in all journals of a sweep. */
export function journalRows(folder: string): number {
  const units = join(folder, 'units');
  if (!existsSync(units)) return 0;
  return readdirSync(units)
    .map((name) => join(units, name, 'journal.jsonl'))
    .filter((path) => existsSync(path))
    .reduce((total, path) => total + readFileSync(path, 'utf8').split('\n').length - 1, 0);
}

/** Processes that hold units of a sweep. */
export function unitProcesses(folder: string): number[] {
  const units = join(folder, 'units');
  if (!existsSync(units)) return [];
  return readdirSync(units).flatMap((name) => {
    try {
      return [(JSON.parse(readFileSync(join(units, name, 'run.lock'), 'utf8')) as { pid: number }).pid];
    } catch {
      return []; // not running
    }
  });
}

/** Waits for something to become true. */
export async function until(what: string, is: () => boolean, seconds = 60): Promise<void> {
  for (const end = performance.now() + seconds * 1000; performance.now() < end; ) {
    if (is()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${what} did not happen in ${seconds} s`);
}
