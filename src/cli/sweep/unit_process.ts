/** Runs one unit as a process of its own: the same command that a person would type, with its progress sent back. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { breakForeignLock, lockHolder } from '../../../eval/lock.js';
import { packageRoot } from '../../model/package_root.js';
import { ensureFolder, outputError } from '../../report/files.js';
import { type ProgressMessage, parentChannel } from '../progress.js';
import { journalBytes, LOG_NAME, type UnitError, unitFolder } from './store.js';
import type { Unit } from './units.js';

export interface UnitRun {
  folder: string;
  unit: Unit;
  device: string;
  /** CPU threads of this process; absent where the unit or the command says. */
  threads: number | undefined;
  signal: AbortSignal;
  onProgress(fraction: number, label: string): void;
  note(text: string): void;
  /** Whether nobody else can be at work on this unit, on whatever machine a lock names. */
  exclusive: boolean;
}

/** How long to wait for a process that a killed sweep has left and that is about to stop. */
const LEFT_OVER_MS = 60_000;
const POLL_MS = 100;
/** Deaths by a signal without any new row, after which a unit has failed. */
const MOST_DEATHS = 2;

type Failure = Omit<UnitError, 'hash'>;

const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until no process of an earlier sweep holds the unit's folder. */
async function awaitUnlocked({ folder, unit, signal, note, exclusive }: UnitRun): Promise<void> {
  const own = unitFolder(folder, unit);
  if (exclusive) breakForeignLock(own);
  const patience = performance.now() + LEFT_OVER_MS;
  for (let told = false; performance.now() < patience && !signal.aborted; told = true) {
    const holder = lockHolder(own);
    if (holder === undefined) return;
    if (!told) note(`${unit.id}: waiting for process ${holder.pid}, which an earlier sweep has left`);
    await wait(POLL_MS);
  }
}

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** One attempt. Its stdout is dropped, since the tables are in the folder; its stderr goes to the unit's log. */
function attempt(run: UnitRun): Promise<Ended> {
  const { folder, unit, device, threads, signal, onProgress } = run;
  const own = unitFolder(folder, unit);
  const argv = [...unit.argv, '--device', device, '--out', own];
  if (threads !== undefined && !unit.argv.includes('--threads')) argv.push('--threads', String(threads));
  const log = openSync(join(own, LOG_NAME), 'a');
  let child: ChildProcess;
  try {
    child = spawn(process.execPath, [join(packageRoot(), 'bin', 'quest.js'), ...argv], {
      stdio: ['ignore', 'ignore', log, 'ipc'],
      env: { ...process.env, ...parentChannel, NO_COLOR: '1' },
    });
  } finally {
    closeSync(log);
  }
  const stop = () => void child.kill('SIGTERM');
  signal.addEventListener('abort', stop, { once: true });
  child.on('message', (message) => {
    const { fraction, label } = message as ProgressMessage;
    onProgress(fraction, label);
  });
  return new Promise<Ended>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code, killedBy) => resolve({ code, signal: killedBy }));
  }).finally(() => signal.removeEventListener('abort', stop));
}

/** The last error and hint of a log. */
function lastError(path: string): Failure | undefined {
  const lines = readFileSync(path, 'utf8').split('\n');
  const at = lines.findLastIndex((line) => line.startsWith('error: '));
  if (at < 0) return undefined;
  const hint = lines.slice(at).find((line) => line.startsWith('hint: '));
  return { message: lines[at]!.slice('error: '.length), ...(hint && { hint: hint.slice('hint: '.length) }) };
}

/**
 * Runs the unit to its end and returns why it failed, or nothing. A process that was killed goes on from its journal, as
 * long as it gets anywhere; one that dies twice in the same place has failed.
 */
export async function runUnit(run: UnitRun): Promise<Failure | undefined> {
  const { folder, unit, signal, note } = run;
  const own = unitFolder(folder, unit);
  const log = join(own, LOG_NAME);
  try {
    ensureFolder(own);
    for (let deaths = 0; ; ) {
      await awaitUnlocked(run);
      signal.throwIfAborted();
      const before = journalBytes(folder, unit);
      const ended = await attempt(run);
      signal.throwIfAborted();
      if (ended.code === 0) return undefined;
      const killed = ended.signal ?? (ended.code === 130 ? 'an interrupt' : undefined);
      if (killed === undefined)
        return lastError(log) ?? { message: `its process ended with code ${ended.code}`, hint: `see ${log}` };
      deaths = journalBytes(folder, unit) > before ? 1 : deaths + 1;
      if (deaths >= MOST_DEATHS)
        return {
          message: `its process was ended by ${killed} ${MOST_DEATHS} times in the same place`,
          hint: killed === 'SIGKILL' ? 'this is what running out of memory looks like' : `see ${log}`,
        };
      note(`${unit.id}: its process was ended by ${killed}; it goes on from its journal`);
    }
  } catch (error) {
    if (signal.aborted) throw error;
    throw outputError(error, own);
  }
}
