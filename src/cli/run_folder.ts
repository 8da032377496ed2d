/** The folder of a run: made for it, and taken back where the run is refused before anything is worth keeping. */
import { existsSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { JOURNAL_NAME, journalStarted } from '../../eval/journal.js';
import { PLAN_NAME } from '../../eval/plan.js';
import { QuestError } from '../errors.js';
import { ensureFolder } from '../report/files.js';
import { PLAN_NAME as SWEEP_NAME } from './sweep/store.js';

/** What a run writes before it has computed anything. */
const BARE = new Set([JOURNAL_NAME, PLAN_NAME, SWEEP_NAME]);

/** Makes the folder and its parents. The returned function hears why the run ended, when its lock has been given back. */
export function makeRunFolder(folder: string): (error: unknown) => void {
  const made: string[] = [];
  for (let path = resolve(folder); !existsSync(path); path = dirname(path)) made.push(path);
  ensureFolder(folder);
  const wasEmpty = readdirSync(folder).length === 0;
  return (error) => {
    // Whoever interrupts a run means to go on with it.
    if (!wasEmpty || (error instanceof QuestError && error.exitCode === 130)) return;
    try {
      const names = readdirSync(folder);
      if (journalStarted(folder) || names.some((name) => !BARE.has(name))) return;
      for (const name of names) rmSync(join(folder, name));
      for (const path of made) rmdirSync(path);
    } catch {
      // another run is in there by now
    }
  };
}
