/** What the benchmarks share: the folder with its lock and journal, the device, progress, the manifest. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import {
  type BenchRow,
  benchRow,
  caseKey,
  checkSameDevice,
  deviceName,
  openBenchJournal,
} from '../../../eval/efficiency/bench_journal.js';
import type { DeviceInfo } from '../../runtime/index.js';
import type { CommandContext } from '../commands.js';
import { writeManifest } from '../manifest.js';
import { startProgress } from '../progress.js';
import { holdRunFolder } from '../run_folder.js';
import { refuseSweepFolder } from '../sweep/store.js';

export type BenchCase = BenchRow['case'];
export type BenchResult = BenchRow['result'];

export interface BenchRun {
  readonly folder: string;
  /** The result in the journal, or a new one that goes there. */
  measure(one: BenchCase, label: string, compute: () => Promise<BenchResult>): Promise<BenchResult>;
  /** Whether the journal has it. */
  has(one: BenchCase): boolean;
}

export interface BenchPlan {
  name: string;
  device: DeviceInfo;
  /** What the folder's default name is a hash of, besides the device. */
  axes: unknown;
  /** What times depend on besides the case. */
  rules: Record<string, number>;
  /** Cases to come, for the progress bar. */
  total: number;
}

/** `--out`, or a folder named after device and axes, so that the same command finds its rows again. */
export function benchFolder({ settings }: CommandContext, plan: BenchPlan): string {
  const hash = createHash('sha256')
    .update(JSON.stringify([deviceName(plan.device), plan.axes, plan.rules]))
    .digest('hex');
  return settings.maybeString('out') ?? join('runs', `bench-${plan.name}-${hash.slice(0, 8)}`);
}

/** Runs `body` in the benchmark's folder; `finish` writes the results and says what the manifest holds of them. */
export async function runBench<T>(
  context: CommandContext,
  plan: BenchPlan,
  body: (run: BenchRun) => Promise<T>,
  finish: (result: T, folder: string) => Promise<{ cells: unknown[]; [key: string]: unknown }>,
): Promise<T> {
  const { settings, out, signal } = context;
  const started = new Date();
  const folder = benchFolder(context, plan);
  refuseSweepFolder(folder);
  const giveBack = holdRunFolder(folder);
  let failure: unknown;
  try {
    using journal = openBenchJournal(folder, plan.name, out.note);
    const device = deviceName(plan.device);
    checkSameDevice(journal, device);
    const keyOf = (one: BenchCase) => caseKey(plan.name, device, one, plan.rules);
    const counts = { computed: 0, reused: 0 };
    const progress = await startProgress(out, `bench ${plan.name}`);
    const run: BenchRun = {
      folder,
      has: (one) => journal.get(keyOf(one)) !== undefined,
      async measure(one, label, compute) {
        signal.throwIfAborted();
        const key = keyOf(one);
        const found = journal.get(key);
        const done = counts.computed + counts.reused;
        progress.update(Math.min(1, done / plan.total), found === undefined ? label : 'reuse');
        if (found !== undefined) {
          counts.reused += 1;
          return found.result;
        }
        const result = await compute();
        journal.append([benchRow(plan.name, device, key, one, result)]);
        counts.computed += 1;
        return result;
      },
    };
    let result: T;
    try {
      result = await body(run);
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    } finally {
      progress.stop();
    }
    const results = await finish(result, folder);
    const seconds = (Date.now() - started.getTime()) / 1000;
    writeManifest(
      folder,
      context,
      settings,
      undefined,
      { started, seconds, device: plan.device, rows: counts },
      results,
    );
    const worked =
      counts.computed > 0 ? `${counts.computed} cases in ${seconds.toFixed(1)} s` : 'all cases were there';
    out.note(`${worked}; tables, figures and manifest are in ${folder}`);
    return result;
  } catch (error) {
    failure = error;
    throw error;
  } finally {
    giveBack(failure);
  }
}
