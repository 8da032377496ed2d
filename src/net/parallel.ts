/** Several downloads at once: a limit, one failure stops all, one number for their progress. */

/** Runs `work` on all items, at most `limit` at a time. The first failure aborts the others and is thrown. */
export async function forEachLimited<T>(
  items: readonly T[],
  limit: number,
  signal: AbortSignal | undefined,
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const stop = new AbortController();
  const all = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]);
  let failure: { error: unknown } | undefined;
  let next = 0;
  const worker = async () => {
    while (next < items.length && failure === undefined && !all.aborted) {
      const item = items[next++]!;
      try {
        await work(item, all);
      } catch (error) {
        failure ??= { error };
        stop.abort(error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, Math.min(limit, items.length)) }, worker));
  signal?.throwIfAborted();
  if (failure !== undefined) throw failure.error;
}

export interface TransferProgress {
  /** Bytes that are here, of all files together, earlier runs included. */
  bytes: number;
  total: number | undefined;
  bytesPerSecond: number;
}

const WINDOW_MS = 5000;

/** Adds up files that arrive side by side and measures their speed over the last seconds. */
export function createMeter(total: number | undefined, report: (progress: TransferProgress) => void) {
  const files = new Map<string, number>();
  let bytes = 0;
  const marks: { at: number; arrived: number }[] = [];
  let arrived = 0;
  return {
    /** `have` bytes of the file are here now; `fresh` of them came over the line since the last call. */
    update(file: string, have: number, fresh: number) {
      bytes += have - (files.get(file) ?? 0);
      files.set(file, have);
      arrived += fresh;
      const now = performance.now();
      const last = marks.at(-1);
      if (last === undefined || now - last.at > 100) marks.push({ at: now, arrived });
      while (marks.length > 2 && now - marks[0]!.at > WINDOW_MS) marks.shift();
      const first = marks[0]!;
      const seconds = (now - first.at) / 1000;
      report({ bytes, total, bytesPerSecond: seconds > 0.05 ? (arrived - first.arrived) / seconds : 0 });
    },
  };
}
