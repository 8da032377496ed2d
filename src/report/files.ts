/** Writing results so that a reader never sees half a file, and a failing disk gives one clear error. */
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { getSystemErrorMap } from 'node:util';
import { QuestError } from '../errors.js';

const REASONS: Record<string, string> = {
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'the file would be larger than this system allows',
  EROFS: 'the file system is read-only',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  ENOTDIR: 'part of the path is a file, not a folder',
  EEXIST: 'a file of that name is in the way',
  EISDIR: 'a folder of that name is in the way',
  ENOENT: 'the folder does not exist',
};
const OUTPUT_HINT = 'free some space or choose another place with --out; what was written before is kept';

/** Turns a file system error into the one error that users see; exit code 3. */
export function outputError(error: unknown, path: string, hint = OUTPUT_HINT): QuestError {
  if (error instanceof QuestError) return error;
  const { code = '', errno = 0, message } = error as NodeJS.ErrnoException;
  // The message names the path, which may be that of a temporary file.
  const reason = REASONS[code] ?? getSystemErrorMap().get(errno)?.[1] ?? message;
  return new QuestError('E_OUTPUT', `cannot write ${path}: ${reason}`, {
    hint,
    exitCode: 3,
    cause: error,
  });
}

/** Like mkdir -p; node's own recursive mode reports ENOENT for a read-only file system. */
function makeFolders(path: string): void {
  try {
    mkdirSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST' && statSync(path).isDirectory()) return;
    if (code !== 'ENOENT' || dirname(path) === path) throw error;
    makeFolders(dirname(path));
    mkdirSync(path);
  }
}

/** Creates the output folder and its parents. */
export function ensureFolder(path: string): void {
  try {
    makeFolders(resolve(path));
  } catch (error) {
    throw outputError(error, path);
  }
}

/** Writes all of `data`, looping over short writes. */
export function writeAll(fd: number, data: Uint8Array): void {
  for (let done = 0; done < data.length; ) done += writeSync(fd, data, done, data.length - done);
}

/** Makes a rename or a new file durable; folders cannot be synced everywhere, so failures do not count. */
export function syncFolder(path: string): void {
  try {
    const fd = openSync(path, 'r');
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch {
    // not supported here
  }
}

/** Replaces `path` in one step: temporary file in the same folder, fsync, rename. */
export function writeFileAtomic(path: string, data: string | Uint8Array): void {
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.tmp`);
  try {
    const fd = openSync(temporary, 'w');
    try {
      writeAll(fd, typeof data === 'string' ? Buffer.from(data) : data);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
    syncFolder(dirname(path));
  } catch (error) {
    rmSync(temporary, { force: true });
    throw outputError(error, path);
  }
}
