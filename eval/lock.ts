/** One run per output folder: a lock file that names the process, taken over when that process is gone. */
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { QuestError } from '../src/errors.js';
import { outputError } from '../src/report/files.js';

const LOCK_NAME = 'run.lock';

interface Owner {
  pid: number;
  host: string;
  /** Start time of the process in clock ticks since boot, where the system tells; guards against reused ids. */
  started: string;
}

function processStart(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command in parentheses may hold spaces; the start time is field 22.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

function isAlive(owner: Owner): boolean {
  if (owner.host !== hostname()) return true;
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  const started = processStart(owner.pid);
  return owner.started === '' || started === '' || started === owner.started;
}

function parseOwner(text: string): Owner | undefined {
  try {
    const { pid, host, started } = JSON.parse(text) as Partial<Owner>;
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

/**
 * Takes the folder for this process; the returned function gives it back.
 * Throws when another living process, or one on another machine, holds it.
 */
export function lockFolder(folder: string): () => void {
  const path = join(folder, LOCK_NAME);
  const mine = `${JSON.stringify({ pid: process.pid, host: hostname(), started: processStart(process.pid) })}\n`;
  for (let attempt = 0; attempt < 3; attempt++) {
    if (create(path, mine)) {
      const release = () => {
        process.off('exit', release);
        rmSync(path, { force: true });
      };
      process.on('exit', release);
      return release;
    }
    let content: string;
    try {
      content = readFileSync(path, 'utf8');
    } catch {
      continue;
    }
    const owner = parseOwner(content);
    if (owner !== undefined && isAlive(owner)) {
      const where = owner.host === hostname() ? '' : ` on ${owner.host}`;
      throw new QuestError('E_LOCKED', `${folder} is in use by another run (process ${owner.pid}${where})`, {
        hint: `wait for it, choose another --out, or delete ${path} if that process is gone`,
        exitCode: 3,
      });
    }
    removeStale(path, content);
  }
  throw new QuestError('E_LOCKED', `${folder} is being taken by another run`, {
    hint: 'try again',
    exitCode: 3,
  });
}
