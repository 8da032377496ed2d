/** Reading files that users name: one wording for whatever keeps a file from being read. */
import { isUtf8 } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { getSystemErrorMap } from 'node:util';
import { type ExitCode, QuestError } from './errors.js';

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  ENOTDIR: 'part of the path is a file, not a folder',
  EISDIR: 'it is a folder',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  ELOOP: 'its links lead in a circle',
  ENAMETOOLONG: 'the name is too long',
  ERR_INVALID_ARG_VALUE: 'the name holds a NUL byte',
  ERR_FS_FILE_TOO_LARGE: 'it is larger than a text can be here (2 GiB)',
  ERR_STRING_TOO_LONG: 'it is longer than a text can be here (512 MiB)',
};

/** Why a file could not be read, in words. */
export function readReason(error: unknown): string {
  const { code = '', errno = 0, message } = error as NodeJS.ErrnoException;
  return REASONS[code] ?? getSystemErrorMap().get(errno)?.[1] ?? message;
}

/** Why a program could not be started, in words. */
export const startReason = (error: unknown): string =>
  (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'there is no such program' : readReason(error);

export interface ReadRules {
  code: string;
  hint: string;
  exitCode?: ExitCode;
  /** What the file is, before its path: `the sweep `. */
  what?: string;
}

/** The error for a file that cannot be read. */
export const readError = (cause: unknown, path: string, rules: ReadRules): QuestError =>
  new QuestError(rules.code, `cannot read ${rules.what ?? ''}${path}: ${readReason(cause)}`, {
    hint: rules.hint,
    exitCode: rules.exitCode,
    cause,
  });

/** Bytes of a file as text. Other encodings and binary files would give other characters without a word. */
export function decodeText(bytes: Buffer, path: string, rules: ReadRules): string {
  const refuse = (problem: string, hint: string) =>
    new QuestError(rules.code, `${rules.what ?? ''}${path} ${problem}`, { hint, exitCode: rules.exitCode });
  if (!isUtf8(bytes)) throw refuse('is not text in UTF-8', 'convert it, e.g. with iconv -t UTF-8');
  if (bytes.includes(0)) throw refuse('holds NUL bytes, so it is no text', 'give a plain text file');
  try {
    return bytes.toString('utf8');
  } catch (cause) {
    throw readError(cause, path, rules);
  }
}

/** A file as text. */
export function readTextFile(path: string, rules: ReadRules): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw readError(cause, path, rules);
  }
  return decodeText(bytes, path, rules);
}
