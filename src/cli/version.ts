/** What ran: for --version and manifests. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../model/package_root.js';

/** The version in package.json. */
export function questVersion(): string {
  const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as {
    version: string;
  };
  return version;
}

/** What scripts/pack_gpu.js notes in its bundle. */
function bundledCommit(): string | undefined {
  const file = join(packageRoot(), 'COMMIT');
  if (!existsSync(file)) return undefined;
  return /^[0-9a-f]{40}(-dirty)?$/.exec(readFileSync(file, 'utf8').trim())?.[0];
}

/** The commit of the checkout, or of the one that a bundle was packed from, with `-dirty` for changes; undefined elsewhere. */
export function gitCommit(): string | undefined {
  if (!existsSync(join(packageRoot(), '.git'))) return bundledCommit();
  const git = (...args: string[]) =>
    spawnSync('git', ['-C', packageRoot(), ...args], { encoding: 'utf8', timeout: 5000 });
  const head = git('rev-parse', 'HEAD');
  if (head.status !== 0) return undefined;
  const changed = git('status', '--porcelain', '--untracked-files=no').stdout.trim() !== '';
  return `${head.stdout.trim()}${changed ? '-dirty' : ''}`;
}
