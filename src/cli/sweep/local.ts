/** Runs units on the devices of this machine, one process per device at a time. */
import { availableParallelism } from 'node:os';
import { deviceKind } from '../../../eval/runner.js';
import { QuestError } from '../../errors.js';
import { clearFailure, failureOf, isDone, journalDevice, markDone, markFailed } from './store.js';
import { runUnit } from './unit_process.js';
import type { Unit } from './units.js';

export interface LocalOptions {
  folder: string;
  /** `cpu`, `cuda:0`; one process for each entry. */
  devices: readonly string[];
  signal: AbortSignal;
  /** Units of these that are there or have failed, and how far the running ones are, 0 to 1. */
  onProgress(fraction: number, label: string): void;
  note(text: string): void;
  /** As in {@link runUnit}. */
  exclusive: boolean;
}

const DEVICE = /^(auto|cpu|cuda(?::\d+)?)(?:\*(\d+))?$/;

/** `cpu*2,cuda:0` -> `cpu`, `cpu`, `cuda:0`. */
export function parseDevices(names: readonly string[]): string[] {
  return names.flatMap((name) => {
    const [, device, times] = DEVICE.exec(name) ?? [];
    const count = times === undefined ? 1 : Number(times);
    if (device === undefined || count < 1 || count > 1024)
      throw new QuestError('E_OPTION', `--devices has no device "${name}"`, {
        hint: 'name devices as --device does: auto, cpu, cuda, cuda:0; cpu*2 is two processes that share the cores',
      });
    return Array.from({ length: count }, () => device);
  });
}

/** Threads of each process: those on the CPU share its cores. */
function threadsOf(device: string, devices: readonly string[]): number | undefined {
  const sharing = devices.filter((one) => one === 'cpu').length;
  return device === 'cpu' && sharing > 1
    ? Math.max(1, Math.floor(availableParallelism() / sharing))
    : undefined;
}

/** Whether the device can go on with what the unit has already. */
function fits(folder: string, unit: Unit, device: string): boolean {
  const before = journalDevice(folder, unit);
  return before === undefined || device === 'auto' || deviceKind(before) === deviceKind(device);
}

/** Computes what is missing; failures are left in the units' folders and keep nobody from the others. */
export async function runLocal(units: readonly Unit[], options: LocalOptions): Promise<void> {
  const { folder, devices, signal, onProgress, note, exclusive } = options;
  const queue = units.filter((unit) => !isDone(folder, unit));
  for (const unit of queue) clearFailure(folder, unit);
  const total = units.reduce((sum, unit) => sum + unit.tokens, 0);
  let finished = total - queue.reduce((sum, unit) => sum + unit.tokens, 0);
  const running = new Map<Unit, { fraction: number; label: string }>();
  const report = (label?: string) => {
    let done = finished;
    for (const [unit, { fraction }] of running) done += fraction * unit.tokens;
    const last = [...running].at(-1);
    onProgress(done / total, label ?? (last === undefined ? '' : `${last[0].id}: ${last[1].label}`));
  };
  report('reuse');
  const stop = new AbortController(); // one worker's unexpected end ends the others
  const any = AbortSignal.any([signal, stop.signal]);
  /** The next unit for a device; one that another kind of device has begun is left to that kind, if there is one. */
  const take = (device: string): Unit | undefined => {
    const others = devices.filter((one) => deviceKind(one) !== deviceKind(device));
    const at = queue.findIndex(
      (unit) => fits(folder, unit, device) || !others.some((other) => fits(folder, unit, other)),
    );
    return at < 0 ? undefined : queue.splice(at, 1)[0];
  };
  const worker = async (device: string): Promise<void> => {
    for (let unit = take(device); unit !== undefined; unit = take(device)) {
      any.throwIfAborted();
      const own = unit;
      running.set(own, { fraction: 0, label: 'starting' });
      const onUnit = (fraction: number, label: string) => {
        running.set(own, { fraction, label });
        report();
      };
      const before = journalDevice(folder, unit);
      // What has rows already goes on where they were computed, unless a device was named.
      const chosen = device === 'auto' && before !== undefined ? deviceKind(before) : device;
      const threads = threadsOf(device, devices);
      const run = { folder, unit, device: chosen, threads, signal: any, onProgress: onUnit, note, exclusive };
      const failure = await runUnit(run);
      if (failure === undefined) markDone(folder, unit);
      else {
        markFailed(folder, unit, failure);
        note(`${unit.id} failed: ${failureOf(folder, unit)?.message}`);
      }
      running.delete(unit);
      finished += unit.tokens;
      report(`${unit.id} finished`);
    }
  };
  const workers = devices.map((device) =>
    worker(device).catch((error: unknown) => {
      stop.abort(error);
      throw error;
    }),
  );
  // All have ended before anyone hears of it: nothing computes on behind the caller's back.
  const results = await Promise.allSettled(workers);
  signal.throwIfAborted();
  const broken = results.find((one) => one.status === 'rejected');
  if (broken !== undefined) throw broken.reason;
}
