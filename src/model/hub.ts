/** Finds models in the local Hugging Face cache. Nothing is downloaded here. */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../errors.js';
import { expandFolder, hubHome } from '../net/env.js';
import { show } from './fields.js';

export interface HubId {
  /** `ORG/NAME` */
  repo: string;
  /** Branch, tag or commit; `main` when none was given. */
  revision: string;
}

const PART = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$/;
const REVISION = /^[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}$/;

/** Reads `ORG/NAME` or `ORG/NAME@REVISION`; undefined when the text is no hub id. */
export function parseHubId(ref: string): HubId | undefined {
  const at = ref.indexOf('@');
  const repo = at < 0 ? ref : ref.slice(0, at);
  const revision = at < 0 ? 'main' : ref.slice(at + 1);
  const parts = repo.split('/');
  // `--` separates owner and name in the cache's folder names, so no id may hold it; dots must not climb.
  const hostile = (part: string) => !PART.test(part) || part.includes('--') || part.includes('..');
  if (parts.length !== 2 || parts.some(hostile)) return undefined;
  if (
    !REVISION.test(revision) ||
    revision.split('/').some((part) => part === '' || part === '.' || part.includes('..'))
  )
    return undefined;
  return { repo, revision };
}

/** The hub cache folder, as huggingface_hub chooses it from the environment. */
export function hubCacheDir(env: NodeJS.ProcessEnv = process.env): string {
  const own = env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE;
  return own ? expandFolder(own, env) : path.join(hubHome(env), 'hub');
}

/** The snapshot folder of a cached model. Throws E_HUB when it is not in the cache, saying how to get it there. */
export async function findInHubCache(id: HubId, env: NodeJS.ProcessEnv = process.env): Promise<string> {
  const cache = hubCacheDir(env);
  const store = path.join(cache, `models--${id.repo.replace('/', '--')}`);
  const commit = (await readRef(path.join(store, 'refs', id.revision))) ?? id.revision;
  const snapshot = path.join(store, 'snapshots', commit);
  if (!commit.includes('/') && (await isFolder(snapshot))) return snapshot;
  const what = (await isFolder(store)) ? `revision ${show(id.revision)} of ${id.repo}` : id.repo;
  const revision = id.revision === 'main' ? '' : ` --revision ${id.revision}`;
  throw new QuestError('E_HUB', `${what} is not in the hub cache ${cache}`, {
    hint: `fetch it with: quest model pull ${id.repo}${revision} (or hf download ${id.repo}${revision}; or point HF_HOME at the cache that holds it, or give a folder)`,
    exitCode: 3,
  });
}

async function readRef(file: string): Promise<string | undefined> {
  const text = await readFile(file, 'utf8').catch(() => undefined);
  const commit = text?.trim();
  return commit && /^[A-Za-z0-9._-]{1,100}$/.test(commit) && !commit.includes('..') ? commit : undefined;
}

async function isFolder(dir: string): Promise<boolean> {
  return stat(dir).then(
    (info) => info.isDirectory(),
    () => false,
  );
}

/** The hub id that a snapshot folder inside some hub cache belongs to, if it is one. */
export function hubIdOfFolder(dir: string): string | undefined {
  const match = /[/\\]models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\][^/\\]+[/\\]?$/.exec(dir);
  return match ? `${match[1]}/${match[2]}` : undefined;
}
