/** Files that ship with this package. Sources run from src/, compiled files from dist/src/: both find the same root. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { QuestError } from '../errors.js';

const PACKAGE = 'quest-kv';
let root: string | undefined;

/** The folder of this package's package.json. */
export function packageRoot(): string {
  root ??= findRoot(path.dirname(fileURLToPath(import.meta.url)));
  return root;
}

function findRoot(start: string): string {
  for (let dir = start; ; dir = path.dirname(dir)) {
    try {
      const json: unknown = JSON.parse(readFileSync(path.join(dir, 'package.json'), 'utf8'));
      if ((json as { name?: unknown }).name === PACKAGE) return dir;
    } catch {
      // No package.json here, or not ours: look further up.
    }
    if (dir === path.dirname(dir))
      throw new QuestError('E_INSTALL', `no package.json of ${PACKAGE} above ${start}`, {
        hint: 'the installation is incomplete; install the package again',
        exitCode: 3,
      });
  }
}

/** Models that ship with the package, by the name that `--model` takes. */
export const BUILT_IN: Readonly<Record<string, string>> = { 'quest-tiny': 'models/quest-tiny' };
