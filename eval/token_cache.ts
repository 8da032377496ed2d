/**
 * Tokenised prompts on disk. An entry is named by a hash of everything that decides its ids: the tokenizer's files, the
 * text or what it is made from, and the template around it. A damaged entry is made again; the oldest ones make room.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { writeFileAtomic } from '../src/report/files.js';

/** Raise it whenever the same text may get other ids, or an entry looks different. */
const VERSION = 2;
const EXTENSION = '.tokens';
/** About 250 million tokens. */
const MAX_BYTES = 2 ** 30;
/** What is left when room is made. */
const KEPT_SHARE = 0.8;

/** Ids of one or more pieces of text, and what else was found out about them. */
export interface Tokenised {
  ids: Int32Array[];
  facts: Record<string, number | string | boolean | number[]>;
}

export interface TokenCache {
  /** The entry of `key`; where there is none, what `make` gives, which is then kept. `key` is everything but the tokenizer. */
  through(key: readonly unknown[], make: () => Tokenised): Tokenised;
}

/** Keeps nothing. */
export const NO_TOKEN_CACHE: TokenCache = { through: (_, make) => make() };

const sha256 = (...parts: (string | Uint8Array)[]): Buffer => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
};

/** Sixteen hex digits that stand for a text in a key. */
export const textHash = (text: string): string => sha256(text).toString('hex').slice(0, 16);

/** QUEST_TOKEN_CACHE (a folder, or `off`), else `quest/tokens` in the user's cache folder. */
export function tokenCacheFolder(env: NodeJS.ProcessEnv = process.env): string | undefined {
  const own = env.QUEST_TOKEN_CACHE;
  if (own !== undefined && own !== '') return own === 'off' ? undefined : path.resolve(own);
  const home = env.HOME || homedir();
  return path.join(env.XDG_CACHE_HOME || path.join(home, '.cache'), 'quest', 'tokens');
}

/** SHA-256, a line of JSON, the ids as 32-bit little-endian numbers; the hash is over what follows it. */
function encodeEntry({ ids, facts }: Tokenised): Buffer {
  const head = Buffer.from(`${JSON.stringify({ lengths: ids.map((part) => part.length), facts })}\n`);
  const numbers = Buffer.alloc(4 * ids.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of ids) for (const id of part) at = numbers.writeInt32LE(id, at);
  return Buffer.concat([sha256(head, numbers), head, numbers]);
}

/** Nothing for bytes that {@link encodeEntry} has not written. */
function decodeEntry(bytes: Buffer): Tokenised | undefined {
  const body = bytes.subarray(32);
  if (bytes.length < 32 || !sha256(body).equals(bytes.subarray(0, 32))) return undefined;
  const end = body.indexOf(0x0a);
  const { lengths, facts } = JSON.parse(body.toString('utf8', 0, end)) as {
    lengths: number[];
    facts: Tokenised['facts'];
  };
  let at = end + 1;
  const ids = lengths.map((length) => {
    const part = new Int32Array(length);
    for (let i = 0; i < length; i++, at += 4) part[i] = body.readInt32LE(at);
    return part;
  });
  return { ids, facts };
}

/** Deletes the entries that were used longest ago until the folder is well below `maxBytes`. */
function makeRoom(folder: string, maxBytes: number): void {
  const entries = readdirSync(folder)
    .filter((name) => name.endsWith(EXTENSION))
    .flatMap((name) => {
      const file = path.join(folder, name);
      const info = statSync(file, { throwIfNoEntry: false }); // another process may make room too
      return info === undefined ? [] : [{ file, size: info.size, used: info.mtimeMs }];
    });
  let total = entries.reduce((sum, { size }) => sum + size, 0);
  if (total <= maxBytes) return;
  for (const { file, size } of entries.sort((a, b) => a.used - b.used)) {
    if (total <= KEPT_SHARE * maxBytes) return;
    rmSync(file, { force: true });
    total -= size;
  }
}

export interface TokenCacheOptions {
  folder: string;
  /** Hash of the tokenizer's files. */
  tokenizer: string;
  maxBytes?: number;
  /** Hears once why nothing can be kept. */
  detail?: (text: string) => void;
}

/** Opens the cache for one tokenizer. Nothing that goes wrong with it keeps a run from going on without it. */
export function openTokenCache(options: TokenCacheOptions): TokenCache {
  const { folder, tokenizer, maxBytes = MAX_BYTES, detail } = options;
  let usable = true;
  /** Bytes written since room was last made; the first write looks at what is there. */
  let unchecked = Number.POSITIVE_INFINITY;
  const read = (file: string): Tokenised | undefined => {
    try {
      const entry = decodeEntry(readFileSync(file));
      if (entry === undefined) detail?.(`${file} was damaged and is made again`);
      else utimesSync(file, new Date(), new Date());
      return entry;
    } catch {
      return undefined; // not there, or not to be read
    }
  };
  const keep = (file: string, entry: Tokenised): void => {
    try {
      mkdirSync(folder, { recursive: true });
      const bytes = encodeEntry(entry);
      unchecked += bytes.length;
      if (unchecked > maxBytes / 16) {
        makeRoom(folder, maxBytes - bytes.length);
        unchecked = 0;
      }
      if (bytes.length <= maxBytes / 2) writeFileAtomic(file, bytes);
    } catch (error) {
      usable = false;
      detail?.(`tokenised prompts are not kept: ${(error as Error).message}`);
    }
  };
  return {
    through(key, make) {
      if (!usable) return make();
      const name = sha256(JSON.stringify([VERSION, tokenizer, ...key]))
        .toString('hex')
        .slice(0, 32);
      const file = path.join(folder, name + EXTENSION);
      const found = read(file);
      if (found !== undefined) return found;
      const made = make();
      keep(file, made);
      return made;
    },
  };
}
