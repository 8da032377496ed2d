/** Reading JSON files and their fields with errors that name file, key, value found and values supported. */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../errors.js';

export type JsonObject = Record<string, unknown>;

/** A value as it should appear in an error: JSON, cut at 80 characters, never expanding nested data. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return value.length === 0 ? '[]' : `a list of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** File size in bytes; undefined when there is no such regular file (a dangling link counts as none). */
export async function fileSize(file: string): Promise<number | undefined> {
  try {
    const info = await stat(file);
    return info.isFile() ? info.size : undefined;
  } catch (cause) {
    if (isNotFound(cause)) return undefined;
    throw unreadable(file, cause);
  }
}

export function isNotFound(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

/** The error for a file that is there but cannot be read. */
export function unreadable(file: string, cause: unknown): QuestError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new QuestError('E_IO', `cannot read ${file}: ${reason}`, {
    hint: 'check that the file exists and that you may read it',
    exitCode: 3,
    cause,
  });
}

/** A message that quotes a file must not bring the file's control characters to the terminal. */
export const printable = (text: string): string => text.replace(/\p{Cc}+/gu, ' ');

/**
 * Parses a JSON file whose top level is an object; undefined when the file is absent.
 * Throws E_JSON for anything else, and for files above `maxBytes` before reading them.
 */
export async function readJsonObject(file: string, maxBytes = 64 << 20): Promise<JsonObject | undefined> {
  const size = await fileSize(file);
  if (size === undefined) return undefined;
  if (size > maxBytes)
    throw new QuestError('E_JSON', `${file} has ${size} bytes; at most ${maxBytes} are accepted`, {
      hint: 'this is not the file that its name says',
    });
  let value: unknown;
  try {
    value = JSON.parse(await readFile(file, 'utf8'));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== undefined) throw unreadable(file, cause);
    throw new QuestError('E_JSON', `${file} is not valid JSON: ${printable((cause as Error).message)}`, {
      hint: 'the file may be cut off; fetch it again',
      cause,
    });
  }
  if (!isObject(value))
    throw new QuestError('E_JSON', `${file} holds ${show(value)}, not a JSON object`, {
      hint: 'fetch the file again',
    });
  return value;
}

/** Checked access to one JSON object's keys. `where` is what errors call it, e.g. `config.json` or `config.json: rope_scaling`. */
export class Fields {
  constructor(
    readonly where: string,
    readonly values: JsonObject,
  ) {}

  /** The error for one key: what was found and what is supported. */
  error(key: string, wanted: string, hint?: string): QuestError {
    return new QuestError(
      'E_CONFIG',
      `${this.where}: ${key} is ${show(this.values[key])}; supported: ${wanted}`,
      {
        hint: hint ?? `correct ${key}, or use a checkpoint that this tool supports`,
      },
    );
  }

  /** True when the key is absent or null. */
  missing(key: string): boolean {
    return !Object.hasOwn(this.values, key) || this.values[key] === null;
  }

  /** A whole number in [min, max]; `fallback` where the key is absent or null. */
  integer(key: string, min: number, max: number, fallback?: number): number {
    const value = this.missing(key) ? fallback : this.values[key];
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max)
      throw this.error(key, `a whole number from ${min} to ${max}`);
    return value;
  }

  /** A finite number in [min, max]; `fallback` where the key is absent or null. */
  number(key: string, min: number, max: number, fallback?: number): number {
    const value = this.missing(key) ? fallback : this.values[key];
    if (typeof value !== 'number' || !Number.isFinite(value) || value < min || value > max)
      throw this.error(key, `a number from ${min} to ${max}`);
    return value;
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.missing(key) ? fallback : this.values[key];
    if (typeof value !== 'boolean') throw this.error(key, 'true or false');
    return value;
  }

  /** A nested object; undefined where the key is absent or null. */
  object(key: string): Fields | undefined {
    if (this.missing(key)) return undefined;
    const value = this.values[key];
    if (!isObject(value)) throw this.error(key, 'an object or null');
    return new Fields(`${this.where}: ${key}`, value);
  }
}

/** Token ids of a key that holds one id, a list of ids, or nothing. */
export function tokenIds(fields: Fields, key: string): number[] {
  if (fields.missing(key)) return [];
  const value = fields.values[key];
  const ids = Array.isArray(value) ? value : [value];
  for (const id of ids)
    if (!Number.isInteger(id) || id < 0 || id > 0x7fffffff)
      throw fields.error(key, 'a token id, a list of token ids, or null');
  return ids as number[];
}

/** A path's last component, for messages. */
export function base(file: string): string {
  return path.basename(file);
}
