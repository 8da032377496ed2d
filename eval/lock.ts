/** One run per output folder: a lock file that names the process, taken over when that process is gone. */
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { QuestError } from '../src/errors.js';
import { isRunning, ownIdentity, type ProcessIdentity } from '../src/processes.js';
import { outputError } from '../src/report/files.js';

export const LOCK_NAME = 'run.lock';

/** A process that was killed a moment ago may not be gone yet. */
const PATIENCE_MS = 1000;
const POLL_MS = 50;

const isAlive = (owner: ProcessIdentity): boolean => owner.host !== hostname() || isRunning(owner);

const pause = (ms: number): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

function parseOwner(text: string): ProcessIdentity | undefined {
  try {
    const { pid, host, started } = JSON.parse(text) as Partial<ProcessIdentity>;
    if (typeof pid === 'number' && typeof host === 'string' && typeof started === 'string')
      return { pid, host, started };
  } catch {
    // torn by a crash while it was written
  }
  return undefined;
}

/** Makes the lock with its content in one step (a hard link), so that nobody reads half of it. False when there is one. */
function create(path: string, content: string): boolean {
  const temporary = `${path}.${process.pid}`;
  try {
    writeFileSync(temporary, content);
    try {
      linkSync(temporary, path);
    } catch (error) {
      if (!['EPERM', 'ENOTSUP', 'ENOSYS'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
      writeFileSync(path, content, { flag: 'wx' }); // no hard links on this file system
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw outputError(error, path);
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Moves a dead owner's lock away, unless another process was quicker and has put its own there. */
function removeStale(path: string, content: string): void {
  const aside = `${path}.stale-${process.pid}`;
  try {
    renameSync(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw outputError(error, path);
  }
  if (readFileSync(aside, 'utf8') !== content) {
    try {
      linkSync(aside, path);
    } catch {
      // a third process holds it now
    }
  }
  rmSync(aside, { force: true });
}

function readOwner(folder: string): ProcessIdentity | undefined {
  try {
    return parseOwner(readFileSync(join(folder, LOCK_NAME), 'utf8'));
  } catch {
    return undefined; // free, or given back just now
  }
}

/** The living process, or one on another machine, that holds the folder. */
export function lockHolder(folder: string): ProcessIdentity | undefined {
  const owner = readOwner(folder);
  return owner !== undefined && isAlive(owner) ? owner : undefined;
}

/** Removes the lock of a process on another machine. Only for a caller who knows that it is gone. */
export function breakForeignLock(folder: string): void {
  const owner = readOwner(folder);
  if (owner !== undefined && owner.host !== hostname()) rmSync(join(folder, LOCK_NAME), { force: true });
}

/**
 * Takes the folder for this process; the returned function gives it back.
 * Throws when another living process, or one on another machine, holds it.
 */
export function lockFolder(folder: string): () => void {
  const path = join(folder, LOCK_NAME);
  const mine = `${JSON.stringify(ownIdentity())}\n`;
  for (const patience = performance.now() + PATIENCE_MS; ; ) {
    if (create(path, mine)) {
      const release = () => {
        process.off('exit', release);
        rmSync(path, { force: true });
      };
      process.on('exit', release);
      return release;
    }
    let content: string | undefined;
    try {
      content = readFileSync(path, 'utf8');
    } catch {
      // given back just now
    }
    const owner = content === undefined ? undefined : parseOwner(content);
    if (content !== undefined && (owner === undefined || !isAlive(owner))) {
      removeStale(path, content);
    } else if (performance.now() < patience) {
      pause(POLL_MS);
    } else {
      const where = owner === undefined || owner.host === hostname() ? '' : ` on ${owner.host}`;
      const holder = owner === undefined ? '' : ` (process ${owner.pid}${where})`;
      throw new QuestError('E_LOCKED', `${folder} is in use by another run${holder}`, {
        hint: `wait for it, choose another --out, or delete ${path} if that process is gone`,
        exitCode: 3,
      });
    }
  }
}
