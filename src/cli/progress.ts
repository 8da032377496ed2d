/** A progress bar on stderr with the time that is left; silent where nobody would see it. */
import type { SingleBar } from 'cli-progress';
import type { Output } from './output.js';

export interface Progress {
  /** `fraction` 0 to 1 of all the work, `label` what is being done. */
  update(fraction: number, label: string): void;
  /** A line for people above the bar. */
  note(text: string): void;
  /** Removes the bar, so that notes can follow. */
  stop(): void;
}

const STEPS = 1000;

/** What a command tells the process that started it with {@link parentChannel} and a channel for messages. */
export interface ProgressMessage {
  fraction: number;
  label: string;
}

/** Environment of a command that sends its progress instead of showing it, and that stops when its parent is gone. */
export const parentChannel = { QUEST_PARENT_CHANNEL: '1' } as const;

const hasParent = (): boolean => process.env.QUEST_PARENT_CHANNEL === '1' && process.send !== undefined;

/** Calls back when the parent of {@link parentChannel} is gone, killed ones included. */
export function onParentGone(call: () => void): void {
  if (!hasParent()) return;
  process.on('disconnect', call);
  process.channel?.unref(); // listening keeps nobody from ending
}

/** A message for every hundredth of the work is enough. */
function sendProgress(note: (text: string) => void): Progress {
  let sent = -1;
  return {
    update(fraction, label) {
      const step = Math.floor(fraction * 100);
      if (step === sent || !process.connected) return;
      sent = step;
      process.send!({ fraction, label } satisfies ProgressMessage, () => {}); // a parent that has just gone
    },
    note,
    stop: () => {},
  };
}

/** `1:05`, `2:03:09`. */
export function clock(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  const [h, m, rest] = [Math.floor(s / 3600), Math.floor(s / 60) % 60, String(s % 60).padStart(2, '0')];
  return h > 0 ? `${h}:${String(m).padStart(2, '0')}:${rest}` : `${m}:${rest}`;
}

/** Starts a bar. Work done before this run (`from`) does not count towards its speed. */
export async function startProgress(out: Output, title: string): Promise<Progress> {
  if (hasParent()) return sendProgress(out.note);
  if (!out.interactive) return { update: () => {}, note: out.note, stop: () => {} };
  const { default: cliProgress } = await import('cli-progress');
  const bar: SingleBar = new cliProgress.SingleBar({
    format: `${title} {bar} {percentage}% | {label} | {left} left`,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 24,
    hideCursor: true,
    clearOnComplete: true,
    stopOnComplete: false,
    stream: process.stderr,
    fps: 8,
  });
  bar.start(STEPS, 0, { label: 'starting', left: '--' });
  let startedAt = 0;
  let startedFraction = 0;
  return {
    update(fraction, label) {
      const now = performance.now();
      if (label === 'reuse' || startedAt === 0) [startedAt, startedFraction] = [now, fraction];
      const gained = fraction - startedFraction;
      const elapsed = (now - startedAt) / 1000;
      const left = gained > 0 && elapsed > 1 ? clock((elapsed * (1 - fraction)) / gained) : '--';
      bar.update(Math.round(fraction * STEPS), { label, left });
    },
    note(text) {
      process.stderr.write('\r\u001b[K'); // the bar draws itself again below
      out.note(text);
    },
    stop: () => bar.stop(),
  };
}
