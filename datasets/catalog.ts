/** The datasets that can be pulled: what they are called, which files they have, where those come from. */
import { PG19_TEST_BOOKS, PG19_TEST_IDS } from './catalog_pg19.js';
import { LONGBENCH_TASKS } from './longbench_tasks.js';

export type DatasetName = 'longbench' | 'pg19';

export interface Dataset {
  name: DatasetName;
  title: string;
  /** Folder below the data folder. */
  folder: string;
  /** Other places below the data folder where people keep these files. */
  alsoIn: readonly string[];
  /** What one file is called in messages. */
  unit: string;
  /** Names of files without their ending: tasks, or book ids. */
  keys: readonly string[];
  extension: string;
  /** How many files the whole dataset has. */
  count: number;
  /** Bytes that all of it takes to download, near enough to decide by; the source knows better. */
  aboutBytes: number;
  /** For people who want to know what they get. */
  home: string;
  licence: string;
}

/** LongBench's 21 tasks, and the 13 of them that LongBench-E has too in files that end in `_e`. */
const LONGBENCH_KEYS = [
  ...LONGBENCH_TASKS.map(({ name }) => name),
  ...LONGBENCH_TASKS.filter(({ even }) => even).map(({ name }) => `${name}_e`),
];

export const DATASETS: Readonly<Record<DatasetName, Dataset>> = {
  longbench: {
    name: 'longbench',
    title: 'LongBench and LongBench-E',
    folder: 'longbench',
    alsoIn: ['longbench/data', 'data', ''],
    unit: 'file',
    keys: LONGBENCH_KEYS,
    extension: '.jsonl',
    count: LONGBENCH_KEYS.length,
    aboutBytes: 114e6,
    home: 'https://huggingface.co/datasets/THUDM/LongBench',
    licence: 'MIT; the texts have their own licences',
  },
  pg19: {
    name: 'pg19',
    title: 'PG-19, test split',
    folder: 'pg19/test',
    alsoIn: ['pg19', 'pg19-test', ''],
    unit: 'book',
    keys: PG19_TEST_IDS,
    extension: '.txt',
    count: PG19_TEST_BOOKS,
    aboutBytes: 41e6,
    home: 'https://github.com/google-deepmind/pg19',
    licence: 'Apache-2.0; the books are in the public domain in the USA',
  },
};

export const DATASET_NAMES = Object.keys(DATASETS) as DatasetName[];

/** LongBench on the hub: a repository with one archive. */
export const LONGBENCH_REPO = 'THUDM/LongBench';
export const LONGBENCH_ARCHIVE = 'data.zip';

/** PG-19's bucket. QUEST_PG19_ENDPOINT names a mirror of it. */
export const PG19_ENDPOINT = 'https://storage.googleapis.com';
export const PG19_BUCKET = 'deepmind-gutenberg';

/** Where one book of the bucket can be read. */
export const pg19Url = (endpoint: string, id: string): string => `${endpoint}/${PG19_BUCKET}/test/${id}.txt`;
