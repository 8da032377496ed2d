import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { JOURNAL_NAME } from '../../eval/journal.js';
import { LOCK_NAME } from '../../eval/lock.js';
import { holdRunFolder } from '../../src/cli/run_folder.js';
import { QuestError } from '../../src/errors.js';

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'quest-run-folder-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

test('a refused run takes back what it made, parents too, and holds the lock until then', () => {
  const folder = join(root, 'a', 'b');
  const giveBack = holdRunFolder(folder);
  expect(readdirSync(folder)).toEqual([LOCK_NAME]);
  expect(() => holdRunFolder(folder)).toThrow(/in use by another run/);
  writeFileSync(join(folder, JOURNAL_NAME), '');
  giveBack(new Error('refused'));
  expect(existsSync(join(root, 'a'))).toBe(false);
});

test.each([
  ['rows', JOURNAL_NAME, '{}\n'],
  ['a file that no run writes at its start', 'notes.txt', ''],
])('%s stay, and the lock goes', (_, name, content) => {
  const folder = join(root, 'run');
  const giveBack = holdRunFolder(folder);
  writeFileSync(join(folder, name), content);
  giveBack(new Error('refused'));
  expect(readdirSync(folder)).toEqual([name]);
});

test('a finished or an interrupted run keeps its bare folder, and a refused one a folder that was there', () => {
  const folder = join(root, 'run');
  holdRunFolder(folder)();
  expect(readdirSync(folder)).toEqual([]);
  holdRunFolder(folder)(new QuestError('E_INTERRUPTED', 'interrupted', { exitCode: 130 }));
  expect(readdirSync(folder)).toEqual([]);
  writeFileSync(join(folder, JOURNAL_NAME), '');
  holdRunFolder(folder)(new Error('refused'));
  expect(readdirSync(folder)).toEqual([JOURNAL_NAME]);
});
