/** One process at a time for one place: a lock file that names its holder, and waiting for it. */
import { randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';
import { link, mkdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { QuestError } from '../errors.js';
import { isRunning, ownIdentity, type ProcessIdentity } from '../processes.js';
import { diskError } from './errors.js';

export interface LockOptions {
  signal?: AbortSignal;
  /** Called once when another process holds it. */
  onWait?: (holder: string) => void;
  /** Do not wait: throw E_LOCKED. */
  wait?: boolean;
  pollMs?: number;
  /** A holder on another machine that gives no sign of life for this long is taken for dead. */
  silentMs?: number;
}

interface Holder extends ProcessIdentity {
  id: string;
}

const HEARTBEAT_MS = 15_000;

/** Locks of this process; given back at exit, whatever ends it (but a kill -9, which others then notice). */
const held = new Set<string>();
function releaseAll(): void {
  for (const file of held) rmSync(file, { force: true });
}

function parseHolder(text: string): Holder | undefined {
  try {
    const holder = JSON.parse(text) as Partial<Holder>;
    return typeof holder.pid === 'number' && typeof holder.host === 'string' ? (holder as Holder) : undefined;
  } catch {
    return undefined;
  }
}

/** Undefined: cannot be told from here. */
const isAlive = (holder: Holder): boolean | undefined =>
  holder.host === hostname() ? isRunning(holder) : undefined;

/** Makes the file with its content in one step; false when it exists. */
async function create(file: string, content: string, id: string): Promise<boolean> {
  const temporary = `${file}.${id}`;
  try {
    await writeFile(temporary, content);
    try {
      await link(temporary, file);
    } catch (error) {
      if (!['EPERM', 'ENOTSUP', 'ENOSYS'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
      await writeFile(file, content, { flag: 'wx' }); // a file system without hard links
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw diskError(error, file);
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Moves a dead holder's file away; puts it back when it turned out to be somebody else's by then. */
async function takeAway(file: string, content: string, id: string): Promise<void> {
  const aside = `${file}.${id}.dead`;
  try {
    await rename(file, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw diskError(error, file);
  }
  const moved = await readFile(aside, 'utf8').catch(() => content);
  if (moved !== content) await link(aside, file).catch(() => {});
  await rm(aside, { force: true });
}

const holdersOf = (holder: Holder | undefined): string =>
  holder === undefined
    ? 'another process'
    : `process ${holder.pid}${holder.host === hostname() ? '' : ` on ${holder.host}`}`;

/** Takes the lock, waiting for whoever holds it; the returned function gives it back. */
export async function lockFile(file: string, options: LockOptions = {}): Promise<() => Promise<void>> {
  const { signal, onWait, wait = true, pollMs = 300, silentMs = 120_000 } = options;
  const id = randomUUID();
  const mine = `${JSON.stringify({ ...ownIdentity(), id })}\n`;
  await mkdir(path.dirname(file), { recursive: true }).catch((error) => {
    throw diskError(error, file);
  });
  let told = false;
  let seen = { sign: '', at: performance.now() };
  for (;;) {
    signal?.throwIfAborted();
    if (await create(file, mine, id)) return holding(file);
    const content = await readFile(file, 'utf8').catch(() => undefined);
    const info = await stat(file).catch(() => undefined);
    if (content === undefined || info === undefined) continue; // given back just now
    const holder = parseHolder(content);
    const sign = `${info.mtimeMs} ${content}`;
    if (sign !== seen.sign) seen = { sign, at: performance.now() };
    const alive = holder === undefined ? undefined : isAlive(holder);
    if (alive === false || (alive === undefined && performance.now() - seen.at > silentMs)) {
      await takeAway(file, content, id);
      continue;
    }
    if (!wait) {
      throw new QuestError('E_LOCKED', `${file} is held by ${holdersOf(holder)}`, {
        hint: 'wait for it, or delete the file if that process is gone',
        exitCode: 3,
      });
    }
    if (!told) onWait?.(holdersOf(holder));
    told = true;
    await sleep(pollMs, undefined, { signal }).catch(() => signal?.throwIfAborted());
  }
}

function holding(file: string): () => Promise<void> {
  const beat = setInterval(() => {
    const now = new Date();
    utimes(file, now, now).catch(() => {});
  }, HEARTBEAT_MS);
  beat.unref();
  if (held.size === 0) process.on('exit', releaseAll);
  held.add(file);
  return async () => {
    clearInterval(beat);
    held.delete(file);
    if (held.size === 0) process.off('exit', releaseAll);
    await rm(file, { force: true });
  };
}
