/** The folder of a run: made for it, and taken back where the run is refused before anything is worth keeping. */
import { existsSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { JOURNAL_NAME, journalStarted } from '../../eval/journal.js';
import { LOCK_NAME, lockFolder } from '../../eval/lock.js';
import { PLAN_NAME } from '../../eval/plan.js';
import { QuestError } from '../errors.js';
import { ensureFolder } from '../report/files.js';
import { PLAN_NAME as SWEEP_NAME } from './sweep/store.js';

/** What a run writes before it has computed anything. */
const BARE = new Set([JOURNAL_NAME, PLAN_NAME, SWEEP_NAME]);

/**
 * Makes the folder and its parents and takes its lock. The returned function gives it back and hears why the run failed, if it did.
 * What a refused run wrote is removed under the lock: a moment later it could be another run's.
 */
export function holdRunFolder(folder: string): (failure?: unknown) => void {
  const made: string[] = [];
  for (let path = resolve(folder); !existsSync(path); path = dirname(path)) made.push(path);
  ensureFolder(folder);
  const wasEmpty = readdirSync(folder).length === 0;
  const unlock = lockFolder(folder);
  return (failure) => {
    // Whoever interrupts a run means to go on with it.
    const refused = failure !== undefined && !(failure instanceof QuestError && failure.exitCode === 130);
    let bare = false;
    try {
      const names = readdirSync(folder).filter((name) => name !== LOCK_NAME);
      bare = refused && wasEmpty && !journalStarted(folder) && names.every((name) => BARE.has(name));
      if (bare) for (const name of names) rmSync(join(folder, name));
    } catch {
      // a folder that cannot be changed: the failure itself says more
    } finally {
      unlock();
    }
    try {
      if (bare) for (const path of made) rmdirSync(path);
    } catch {
      // another run is in there by now
    }
  };
}
