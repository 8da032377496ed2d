/** The hub cache on disk, in the layout of Python's huggingface_hub: blobs by ETag, snapshots of links by commit, refs. */
import {
  copyFile,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { type Checksum, hashFile } from '../net/checksum.js';
import { diskError } from '../net/errors.js';
import { missingFiles } from './hub_files.js';

const PREFIX = 'models--';

export interface Store {
  /** `<cache>/models--ORG--NAME`. */
  dir: string;
  blob(checksum: Checksum): string;
  lock(checksum: Checksum): string;
  snapshot(commit: string): string;
  ref(revision: string): string;
}

export function openStore(cache: string, repo: string): Store {
  const name = PREFIX + repo.replace('/', '--');
  const dir = path.join(cache, name);
  return {
    dir,
    blob: ({ hex }) => path.join(dir, 'blobs', hex),
    // Beside Python's own locks, which are of another kind: the two tools do not wait for each other.
    lock: ({ hex }) => path.join(cache, '.locks', name, `${hex}.quest-lock`),
    snapshot: (commit) => path.join(dir, 'snapshots', commit),
    ref: (revision) => path.join(dir, 'refs', revision),
  };
}

/** Puts a file's name into a snapshot: a relative link to its blob, in one step. */
export async function linkIntoSnapshot(store: Store, commit: string, name: string, blob: string) {
  const place = path.join(store.snapshot(commit), name);
  const target = path.relative(path.dirname(place), blob);
  if ((await readlink(place).catch(() => undefined)) === target) return;
  const temporary = `${place}.${process.pid}.tmp`;
  try {
    await mkdir(path.dirname(place), { recursive: true });
    await rm(temporary, { force: true });
    try {
      await symlink(target, temporary);
    } catch (error) {
      // File systems without links get copies, as Python does it.
      if (!['EPERM', 'ENOTSUP', 'ENOSYS'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
      await copyFile(blob, temporary);
    }
    await rename(temporary, place);
  } catch (error) {
    await rm(temporary, { force: true });
    throw diskError(error, place);
  }
}

/** Says which commit a branch or tag stands for. */
export async function writeRef(store: Store, revision: string, commit: string): Promise<void> {
  if (revision === commit) return;
  const file = store.ref(revision);
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(temporary, commit);
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw diskError(error, file);
  }
}

export interface CachedModel {
  repo: string;
  /** Branches and tags that stand for the commit. */
  revisions: string[];
  commit: string;
  dir: string;
  files: number;
  bytes: number;
  /** What it lacks to be opened. */
  missing: string[];
}

async function walk(dir: string, below = ''): Promise<string[]> {
  const entries = await readdir(path.join(dir, below), { withFileTypes: true }).catch(() => []);
  const names: string[] = [];
  for (const entry of entries) {
    const name = path.posix.join(below, entry.name);
    if (entry.isDirectory()) names.push(...(await walk(dir, name)));
    else names.push(name);
  }
  return names.sort();
}

/** All models of a cache, one row for each snapshot. */
export async function listCachedModels(cache: string): Promise<CachedModel[]> {
  const folders = (await readdir(cache).catch(() => [])).filter((name) => name.startsWith(PREFIX)).sort();
  const models: CachedModel[] = [];
  for (const folder of folders) {
    const store = path.join(cache, folder);
    const refs = path.join(store, 'refs');
    const commits = new Map<string, string[]>();
    for (const revision of await walk(refs)) {
      const commit = (await readFile(path.join(refs, revision), 'utf8')).trim();
      commits.set(commit, [...(commits.get(commit) ?? []), revision]);
    }
    const snapshots = path.join(store, 'snapshots');
    for (const commit of (await readdir(snapshots).catch(() => [])).sort()) {
      const dir = path.join(snapshots, commit);
      const names = await walk(dir);
      let bytes = 0;
      for (const name of names)
        bytes += await stat(path.join(dir, name)).then(
          ({ size }) => size,
          () => 0,
        );
      models.push({
        repo: folder.slice(PREFIX.length).replace('--', '/'),
        revisions: commits.get(commit) ?? [],
        commit,
        dir,
        files: names.length,
        bytes,
        missing: await missingFiles(dir),
      });
    }
  }
  return models;
}

export interface VerifiedModelFile {
  name: string;
  bytes: number | undefined;
  /** `unrecorded`: the file's name in the cache is no checksum, so there is nothing to compare with. */
  state: 'ok' | 'changed' | 'missing' | 'unrecorded';
  checksum: Checksum | undefined;
}

/** What a blob's name says of its content: SHA-256 of large files, git's blob id of small ones. */
function checksumOf(blob: string): Checksum | undefined {
  const hex = path.basename(blob);
  if (/^[0-9a-f]{64}$/.test(hex)) return { kind: 'sha256', hex };
  return /^[0-9a-f]{40}$/.test(hex) ? { kind: 'git-sha1', hex } : undefined;
}

/** Compares every file of a snapshot with the checksum that it is stored under. Needs no network. */
export async function verifySnapshot(
  dir: string,
  options: {
    signal?: AbortSignal;
    onFile?: (name: string, doneBytes: number, totalBytes: number) => void;
  } = {},
): Promise<VerifiedModelFile[]> {
  const names = await walk(dir);
  const sizes = await Promise.all(
    names.map((name) =>
      stat(path.join(dir, name)).then(
        ({ size }) => size,
        () => undefined,
      ),
    ),
  );
  const total = sizes.reduce<number>((sum, size) => sum + (size ?? 0), 0);
  const results: VerifiedModelFile[] = [];
  let done = 0;
  for (const [i, name] of names.entries()) {
    options.signal?.throwIfAborted();
    options.onFile?.(name, done, total);
    const file = path.join(dir, name);
    const bytes = sizes[i];
    const link = await readlink(file).catch(() => undefined);
    const checksum = link === undefined ? undefined : checksumOf(link);
    if (bytes === undefined) results.push({ name, bytes, state: 'missing', checksum });
    else if (checksum === undefined) results.push({ name, bytes, state: 'unrecorded', checksum });
    else {
      const { wanted } = await hashFile(file, checksum.kind, options.signal);
      results.push({ name, bytes, state: wanted === checksum.hex ? 'ok' : 'changed', checksum });
    }
    done += bytes ?? 0;
  }
  for (const name of await missingFiles(dir))
    if (!results.some((result) => result.name === name))
      results.push({ name, bytes: undefined, state: 'missing', checksum: undefined });
  return results;
}
