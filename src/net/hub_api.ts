/** The Hugging Face hub over HTTP: what a repository holds, where its files are, and what its refusals mean. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { QuestError } from '../errors.js';
import type { Checksum } from './checksum.js';
import { getJson } from './documents.js';
import { endpointFrom, expandFolder, hubHome } from './env.js';
import { HttpStatusError, shownUrl } from './errors.js';
import type { RetryPolicy } from './retry.js';

type Env = NodeJS.ProcessEnv;

export interface HubAccess {
  /** `https://huggingface.co`, or HF_ENDPOINT. */
  endpoint: string;
  /** Authorization header, where there is a token. */
  authorization: string | undefined;
  /** Where the token is from, for messages. */
  tokenSource: string | undefined;
  signal?: AbortSignal;
  policy?: RetryPolicy;
  stallMs?: number;
}

export type RepoKind = 'model' | 'dataset';

export interface RepoFile {
  name: string;
  size: number | undefined;
  checksum: Checksum | undefined;
}

export interface RepoInfo {
  kind: RepoKind;
  id: string;
  revision: string;
  /** The commit that the revision stands for. */
  commit: string;
  files: RepoFile[];
}

const PUBLIC_HUB = 'https://huggingface.co';

/** Endpoint and token as Python's tools find them: HF_TOKEN, else the file that `hf auth login` writes. */
export function hubAccess(
  env: Env = process.env,
): Pick<HubAccess, 'endpoint' | 'authorization' | 'tokenSource'> {
  const endpoint = endpointFrom('HF_ENDPOINT', PUBLIC_HUB, env);
  const [token, tokenSource] = findToken(env);
  if (token === undefined) return { endpoint, authorization: undefined, tokenSource: undefined };
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new QuestError('E_TOKEN', `the token in ${tokenSource} has characters that no token has`, {
      hint: 'copy it again from https://huggingface.co/settings/tokens',
    });
  }
  return { endpoint, authorization: `Bearer ${token}`, tokenSource };
}

function findToken(env: Env): [string, string] | [undefined, undefined] {
  for (const name of ['HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN']) {
    const token = env[name]?.trim();
    if (token) return [token, name];
  }
  if (/^(1|true|yes|on)$/i.test(env.HF_HUB_DISABLE_IMPLICIT_TOKEN ?? '')) return [undefined, undefined];
  const file = env.HF_TOKEN_PATH ? expandFolder(env.HF_TOKEN_PATH, env) : path.join(hubHome(env), 'token');
  try {
    const token = readFileSync(file, 'utf8').trim();
    return token === '' ? [undefined, undefined] : [token, file];
  } catch {
    return [undefined, undefined];
  }
}

const encodePath = (text: string): string => text.split('/').map(encodeURIComponent).join('/');

/** Where a file of a repository can be downloaded. */
export function hubFileUrl(
  endpoint: string,
  repo: Pick<RepoInfo, 'kind' | 'id'>,
  revision: string,
  file: string,
): string {
  const prefix = repo.kind === 'dataset' ? 'datasets/' : '';
  return `${endpoint}/${prefix}${repo.id}/resolve/${encodeURIComponent(revision)}/${encodePath(file)}`;
}

/** What a repository holds at a revision, with sizes and checksums. */
export async function repoInfo(
  access: HubAccess,
  kind: RepoKind,
  id: string,
  revision: string,
): Promise<RepoInfo> {
  const url = `${access.endpoint}/api/${kind}s/${id}/revision/${encodeURIComponent(revision)}?blobs=true`;
  let json: unknown;
  try {
    json = await getJson(url, access);
  } catch (error) {
    throw explainHub(error, access, { kind, id, revision });
  }
  const { sha, siblings } = (json ?? {}) as { sha?: unknown; siblings?: unknown };
  if (typeof sha !== 'string' || !/^[0-9a-f]{40,64}$/.test(sha) || !Array.isArray(siblings)) {
    throw new QuestError('E_HUB', `${shownUrl(url)} does not answer as a hub does`, {
      hint: 'check HF_ENDPOINT',
      exitCode: 3,
    });
  }
  return { kind, id, revision, commit: sha, files: siblings.map((entry) => repoFile(entry, url)) };
}

interface Sibling {
  rfilename?: unknown;
  size?: unknown;
  blobId?: unknown;
  lfs?: { sha256?: unknown; oid?: unknown; size?: unknown } | null;
}

/** Names come from the server and become paths here: nothing may climb, hide or clash. */
export const isSafeName = (name: string): boolean =>
  name.length <= 300 &&
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
  !/[\u0000-\u001f\u007f\\:]/.test(name) &&
  name.split('/').every((part) => part !== '' && part !== '.' && part !== '..' && part.length <= 200);

function repoFile(entry: unknown, url: string): RepoFile {
  const { rfilename, size, blobId, lfs } = (entry ?? {}) as Sibling;
  if (typeof rfilename !== 'string' || !isSafeName(rfilename)) {
    throw new QuestError('E_HUB', `${shownUrl(url)} lists a file named ${JSON.stringify(rfilename)}`, {
      hint: 'such names are refused; the repository may be hostile',
      exitCode: 3,
    });
  }
  const bytes = lfs?.size ?? size;
  const sha256 = lfs?.sha256 ?? lfs?.oid;
  const isHex = (value: unknown, digits: number): value is string =>
    typeof value === 'string' && value.length === digits && /^[0-9a-f]+$/.test(value);
  const sizeKnown = typeof bytes === 'number' && Number.isSafeInteger(bytes) && bytes >= 0;
  let checksum: Checksum | undefined;
  if (isHex(sha256, 64)) checksum = { kind: 'sha256', hex: sha256 };
  // A large file's blob id is its pointer's.
  else if (!lfs && isHex(blobId, 40) && sizeKnown) checksum = { kind: 'git-sha1', hex: blobId };
  return { name: rfilename, size: sizeKnown ? bytes : undefined, checksum };
}

/** A refusal of the hub in words: gated, private, misspelt, no such revision. Other errors come back as they are. */
export function explainHub(
  error: unknown,
  access: Pick<HubAccess, 'endpoint' | 'tokenSource'>,
  repo: { kind: RepoKind; id: string; revision: string },
): unknown {
  if (!(error instanceof HttpStatusError)) return error;
  const { status, details } = error;
  const page = `${access.endpoint}/${repo.kind === 'dataset' ? 'datasets/' : ''}${repo.id}`;
  const reason = details['x-error-code'];
  const told = details['x-error-message'];
  const hub = (code: string, message: string, hint: string) =>
    new QuestError(code, message, { hint, exitCode: 3, cause: error });
  if (told === 'Access to this resource is disabled.') {
    return hub(
      'E_HUB',
      `${repo.id} is disabled on the hub`,
      `${page} may say why; look for a copy elsewhere`,
    );
  }
  if (reason === 'GatedRepo' || (status === 403 && reason === undefined)) {
    return access.tokenSource === undefined
      ? hub(
          'E_GATED',
          `${repo.id} is gated: its owners want to know who downloads it`,
          `accept the conditions at ${page}, make a token at ${access.endpoint}/settings/tokens, and set HF_TOKEN`,
        )
      : hub(
          'E_GATED',
          `${repo.id} is gated, and the token in ${access.tokenSource} has no access to it`,
          `accept the conditions at ${page} with the token's account (the owners may have to agree), and give a token that may read gated repositories`,
        );
  }
  if (reason === 'RevisionNotFound') {
    return hub(
      'E_HUB',
      `${repo.id} has no revision ${JSON.stringify(repo.revision)}`,
      `look for branches, tags and commits at ${page}/commits/main`,
    );
  }
  if (status === 401 || status === 404) {
    const token =
      access.tokenSource === undefined
        ? 'private repositories need HF_TOKEN'
        : `the token in ${access.tokenSource} may be wrong, expired, or without access`;
    return hub(
      'E_HUB',
      `${access.endpoint} shows no ${repo.kind} ${repo.id} (status ${status})`,
      `check the spelling at ${page}; ${token}`,
    );
  }
  return error;
}
