/** What downloads have in common on the terminal: a bar with speed and time left, notes, and a kind word on Ctrl-C. */
import { QuestError } from '../errors.js';
import type { TransferProgress } from '../net/parallel.js';
import type { Format } from '../report/table.js';
import type { CommandContext } from './commands.js';
import { startProgress } from './progress.js';

export interface Transfer {
  signal: AbortSignal;
  note(text: string): void;
  onProgress(progress: TransferProgress): void;
}

/** `12.3 MB`, in powers of ten, as download sizes are given. */
export function formatSize(bytes: number): string {
  if (bytes < 1e6) return `${Math.ceil(bytes / 1e3)} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

/** A size for people in tables, in bytes for programs. */
export const sizeCell = (bytes: number | undefined, format: Format): string | number | undefined =>
  bytes === undefined || format === 'csv' || format === 'json' ? bytes : formatSize(bytes);

/** Runs a download with progress; the bar makes way for notes. */
export async function withTransfer<T>(
  context: Pick<CommandContext, 'out' | 'signal'>,
  title: string,
  run: (transfer: Transfer) => Promise<T>,
): Promise<T> {
  const { out, signal } = context;
  let bar: Awaited<ReturnType<typeof startProgress>> | undefined;
  let starting: Promise<void> | undefined;
  const stop = () => {
    bar?.stop();
    bar = undefined;
    starting = undefined;
  };
  try {
    return await run({
      signal,
      note(text) {
        stop();
        out.note(text);
      },
      onProgress({ bytes, total, bytesPerSecond }) {
        if (!out.interactive) return;
        starting ??= startProgress(out, title).then((started) => {
          bar = started;
        });
        const of = total === undefined ? '' : ` of ${formatSize(total)}`;
        bar?.update(
          total === undefined || total === 0 ? 0 : bytes / total,
          `${formatSize(bytes)}${of}, ${formatSize(bytesPerSecond)}/s`,
        );
      },
    });
  } catch (error) {
    if (!signal.aborted) throw error;
    throw new QuestError('E_INTERRUPTED', 'interrupted; what arrived is kept', {
      hint: 'the same command goes on from there',
      exitCode: 130,
      cause: error,
    });
  } finally {
    await starting;
    stop();
  }
}
