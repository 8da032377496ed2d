import { spawn, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { JOURNAL_NAME, type JournalRow, openJournal, readJournal } from '../../eval/journal.js';
import { lockFolder } from '../../eval/lock.js';

let folder: string;
let notes: string[];
const note = (text: string) => notes.push(text);
const path = () => join(folder, JOURNAL_NAME);

const row = (key: string): JournalRow => ({
  v: 1,
  key,
  item: `item/${key}`,
  sample: 0,
  cell: { method: 'full' },
  prefill_tokens: 10,
  step_tokens: 2,
  fields: { answer: 7 },
  output: 'line\nbreak "quoted" \u2028 é',
  output_ids: [1, 2],
  score: 1,
  counters: {
    decodeSteps: 2,
    sparseSteps: 0,
    tokensAttended: 1,
    tokensAvailable: 1,
    pagesAttended: 1,
    pagesAvailable: 1,
    kvBytes: 1,
    metadataBytes: 0,
    denseKvBytes: 1,
  },
  timing: { prefill_s: 0.1, feed_s: 0.1, generate_s: 0.1, branches: 1 },
  device: 'cpu',
});

const write = (...keys: string[]) => {
  using journal = openJournal(folder, note);
  for (const key of keys) journal.append([row(key)]);
};

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'quest-journal-'));
  notes = [];
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('the journal', () => {
  test('gives back what was appended, over several openings', () => {
    write('a', 'b');
    using journal = openJournal(folder, note);
    expect(journal.size).toBe(2);
    expect(journal.get('a')).toEqual(row('a'));
    journal.append([row('c'), row('d')]);
    expect(readJournal(folder).map((r) => r.key)).toEqual(['a', 'b', 'c', 'd']);
    expect(notes).toEqual([]);
  });

  test.each([
    ['half a row', '{"v":1,"key":"to'],
    ['a broken row with its newline', '{"v":1,"key":"torn"\n'],
    ['zeros after a power cut', '\0\0\0\0\0\0'],
    ['a row without its newline', JSON.stringify(row('c'))],
  ])('moves a torn last line aside: %s', (_, torn) => {
    write('a', 'b');
    const whole = readFileSync(path(), 'utf8');
    appendFileSync(path(), torn);
    expect(readJournal(folder)).toHaveLength(2); // reading alone changes nothing
    expect(readFileSync(path(), 'utf8')).toBe(whole + torn);
    write('c');
    expect(notes).toHaveLength(1);
    expect(notes[0]).toMatch(/torn/);
    expect(readFileSync(`${path()}.torn`, 'utf8')).toBe(`${torn}\n`);
    expect(readJournal(folder).map((r) => r.key)).toEqual(['a', 'b', 'c']);
    expect(readFileSync(path(), 'utf8').startsWith(whole)).toBe(true);
  });

  test.each([
    ['text', 'hello'],
    ['an empty line', ''],
    ['JSON of something else', '{"hello": 1}'],
    ['a row of a later version', JSON.stringify({ ...row('x'), v: 2 })],
  ])('refuses a broken line that is not the last, and changes nothing: %s', (_, line) => {
    write('a');
    appendFileSync(path(), `${line}\n`);
    appendFileSync(path(), `${JSON.stringify(row('b'))}\n`);
    const before = readFileSync(path(), 'utf8');
    expect(() => openJournal(folder, note)).toThrow(/line 2 of .* is not a row/);
    expect(readFileSync(path(), 'utf8')).toBe(before);
    expect(existsSync(`${path()}.torn`)).toBe(false);
  });

  test('refuses a device in the place of the file', () => {
    symlinkSync('/dev/full', path());
    expect(() => openJournal(folder, note)).toThrow(/not a regular file/);
  });
});

describe('the lock', () => {
  const lockPath = () => join(folder, 'run.lock');

  test('keeps a second run out until it is given back', () => {
    const unlock = lockFolder(folder);
    expect(() => lockFolder(folder)).toThrow(
      new RegExp(`in use by another run \\(process ${process.pid}\\)`),
    );
    unlock();
    expect(existsSync(lockPath())).toBe(false);
    lockFolder(folder)();
  });

  test('is taken over from a process that is gone', () => {
    const { pid } = spawnSync(process.execPath, ['-e', '']);
    writeFileSync(lockPath(), JSON.stringify({ pid, host: hostname(), started: '1' }));
    lockFolder(folder)();
    expect(existsSync(lockPath())).toBe(false);
  });

  test.runIf(existsSync('/proc/self/stat'))(
    'is taken over when the process id was given to another process',
    () => {
      writeFileSync(lockPath(), JSON.stringify({ pid: process.pid, host: hostname(), started: '1' }));
      lockFolder(folder)();
    },
  );

  test.runIf(process.platform === 'linux')('is taken over from a killed process that is not reaped', () => {
    const shell = spawn('bash', ['-c', 'sleep 60 & echo $!; exec sleep 60'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return new Promise<void>((resolve, reject) => {
      shell.stdout.once('data', (text) => {
        const pid = Number(text);
        const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
          .replace(/^.*\) /, '')
          .split(' ');
        const owner = { pid, host: hostname(), started: stat[19] };
        writeFileSync(lockPath(), JSON.stringify(owner));
        try {
          expect(() => lockFolder(folder)).toThrow(/in use by another run/);
          process.kill(pid, 'SIGKILL');
          lockFolder(folder)();
          expect(readFileSync(`/proc/${pid}/stat`, 'utf8')).toMatch(/\) Z /);
          resolve();
        } catch (error) {
          reject(error);
        } finally {
          shell.kill();
        }
      });
    });
  });

  test('is taken over when a crash left it empty', () => {
    writeFileSync(lockPath(), '');
    lockFolder(folder)();
  });

  test('of another machine is respected, with the file named', () => {
    writeFileSync(lockPath(), JSON.stringify({ pid: 1, host: 'elsewhere', started: '1' }));
    expect(() => lockFolder(folder)).toThrow(/process 1 on elsewhere/);
    expect(existsSync(lockPath())).toBe(true);
  });
});
