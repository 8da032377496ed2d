/** A small real run of quest passkey, shared by the tests of its results and of its output folders. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { quest, type SpawnOptions } from './spawn.js';

export const SMALL = [
  'passkey',
  '--context',
  '600',
  '--samples',
  '4',
  '--budget',
  '32,64',
  '--method',
  'full,quest,streaming,h2o',
];

export const read = (out: string, file: string) => readFileSync(join(out, file), 'utf8');
export const rows = (out: string) =>
  existsSync(join(out, 'journal.jsonl')) ? read(out, 'journal.jsonl').split('\n').filter(Boolean) : [];
export const small = (out: string, options?: SpawnOptions) => quest([...SMALL, '--out', out], options);
