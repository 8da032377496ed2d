/** From the hub into the local cache: only what a run needs, resumed, checked, and visible only when it is whole. */
import { mkdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../errors.js';
import type { Checksum } from '../net/checksum.js';
import { downloadFile } from '../net/download.js';
import { noFirstUseSwitch, offlineSwitch } from '../net/env.js';
import { diskError } from '../net/errors.js';
import { explainHub, hubAccess, hubFileUrl, type RepoInfo, repoInfo } from '../net/hub_api.js';
import { createMeter, forEachLimited, type TransferProgress } from '../net/parallel.js';
import { checkDisk, partialPath } from '../net/partial.js';
import type { RetryPolicy } from '../net/retry.js';
import { findInHubCache, type HubId, hubCacheDir, parseHubId } from './hub.js';
import { missingFiles, neededFiles } from './hub_files.js';
import { linkIntoSnapshot, openStore, type Store, writeRef } from './hub_store.js';
import { BUILT_IN } from './package_root.js';

export interface PullModelOptions {
  env?: NodeJS.ProcessEnv;
  /** Files at once. */
  parallel?: number;
  /** Only say how much it would be. */
  dryRun?: boolean;
  /** Fetch again what is there. */
  force?: boolean;
  signal?: AbortSignal;
  policy?: RetryPolicy;
  stallMs?: number;
  note?: (text: string) => void;
  onProgress?: (progress: TransferProgress) => void;
}

export interface PulledModel {
  repo: string;
  revision: string;
  commit: string;
  /** The snapshot's folder. */
  dir: string;
  files: { name: string; bytes: number; here: boolean }[];
  /** Bytes of all files, and of those that were (or would be) fetched now. */
  bytes: number;
  fetched: number;
}

interface PlannedFile {
  name: string;
  size: number;
  checksum: Checksum;
  blob: string;
  here: boolean;
  /** Bytes that an earlier try left. */
  partial: number;
}

const PARALLEL = 4;

const sizeOf = (file: string): Promise<number | undefined> =>
  stat(file).then(
    (info) => info.size,
    () => undefined,
  );

async function planFiles(repo: RepoInfo, store: Store, force: boolean): Promise<PlannedFile[]> {
  const files: PlannedFile[] = [];
  for (const { name, size, checksum } of neededFiles(repo)) {
    if (size === undefined || checksum === undefined) {
      throw new QuestError('E_HUB', `the hub gives no size and checksum of ${name} in ${repo.id}`, {
        hint: 'check HF_ENDPOINT: a mirror must answer /api/models/...?blobs=true as the hub does',
        exitCode: 3,
      });
    }
    const blob = store.blob(checksum);
    const here = !force && (await sizeOf(blob)) === size;
    const partial = here ? 0 : Math.min(size, (await sizeOf(partialPath(blob))) ?? 0);
    files.push({ name, size, checksum, blob, here, partial });
  }
  // Small ones first: a refusal or a wrong model shows before the gigabytes.
  return files.sort((a, b) => a.size - b.size);
}

const gigabytes = (bytes: number): string =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;

/** Pulls a model. Files that are there are kept; a snapshot appears when all of its files are there. */
export async function pullModel(id: HubId, options: PullModelOptions = {}): Promise<PulledModel> {
  const { env = process.env, signal, policy, stallMs, note = () => {}, force = false } = options;
  const cache = hubCacheDir(env);
  const offline = offlineSwitch(env);
  if (offline !== undefined) {
    throw new QuestError('E_OFFLINE', `${id.repo} cannot be pulled: ${offline} is set`, {
      hint: `unset ${offline}, or copy the model's folder into ${cache} from a machine that has it`,
      exitCode: 3,
    });
  }
  const access = { ...hubAccess(env), signal, policy, stallMs };
  const repo = await repoInfo(access, 'model', id.repo, id.revision);
  const store = openStore(cache, id.repo);
  const files = await planFiles(repo, store, force);
  const sum = (list: number[]) => list.reduce((a, b) => a + b, 0);
  const bytes = sum(files.map(({ size }) => size));
  const missing = files.filter(({ here }) => !here);
  const fetched = sum(missing.map(({ size, partial }) => size - partial));
  const result: PulledModel = {
    repo: id.repo,
    revision: id.revision,
    commit: repo.commit,
    dir: store.snapshot(repo.commit),
    files: files.map(({ name, size, here }) => ({ name, bytes: size, here })),
    bytes,
    fetched,
  };
  const at = `${id.repo} (${id.revision}, commit ${repo.commit.slice(0, 8)})`;
  note(
    missing.length === 0
      ? `${at}: all ${files.length} files, ${gigabytes(bytes)}, are in ${cache}`
      : `${at}: ${gigabytes(fetched)} to download, ${gigabytes(bytes)} in ${files.length} files in all; into ${cache}`,
  );
  if (options.dryRun) return result;

  const blobs = path.dirname(store.blob({ kind: 'sha256', hex: 'x' }));
  await mkdir(blobs, { recursive: true }).catch((error) => {
    throw diskError(error, blobs);
  });
  await checkDisk(blobs, fetched, id.repo);
  const meter = createMeter(bytes, options.onProgress ?? (() => {}));
  for (const { name, size, here } of files) if (here) meter.update(name, size, 0);
  await forEachLimited(missing, options.parallel ?? PARALLEL, signal, async (file, stop) => {
    if (force) await rm(file.blob, { force: true });
    await downloadFile({
      url: hubFileUrl(access.endpoint, repo, repo.commit, file.name),
      file: file.blob,
      lock: store.lock(file.checksum),
      size: file.size,
      checksum: file.checksum,
      authorization: access.authorization,
      signal: stop,
      policy,
      stallMs,
      onProgress: (have, _total, fresh) => meter.update(file.name, have, fresh),
      onNote: note,
    }).catch((error: unknown) => {
      throw explainHub(error, access, { kind: 'model', id: id.repo, revision: id.revision });
    });
  });
  for (const { name, blob } of files) await linkIntoSnapshot(store, repo.commit, name, blob);
  const lacking = await missingFiles(result.dir);
  const weights = lacking.filter((name) => !name.startsWith('tokenizer'));
  if (weights.length > 0) {
    throw new QuestError(
      'E_HUB',
      `${id.repo} is not whole on the hub: its index names ${weights.join(', ')}`,
      {
        hint: 'another revision may be whole; give it with --revision',
        exitCode: 3,
      },
    );
  }
  if (lacking.length > 0) note(`${id.repo} has no tokenizer: it can be run with token ids only`);
  await writeRef(store, id.revision, repo.commit);
  return result;
}

/**
 * Makes sure that what `--model` names can be opened, by pulling it on first use after saying how much. Built-in names and
 * folders are left alone. In continuous integration and offline nothing is pulled: then the error says what is missing.
 */
export async function ensureModel(ref: string, options: PullModelOptions = {}): Promise<void> {
  const { env = process.env } = options;
  if (Object.hasOwn(BUILT_IN, ref) || (await stat(ref).catch(() => undefined))) return;
  const id = parseHubId(ref);
  if (id === undefined) return; // opening it says what is wrong
  const dir = await findInHubCache(id, env).catch(() => undefined);
  const missing = dir === undefined ? undefined : await missingFiles(dir);
  if (missing?.length === 0) return;
  // A snapshot that Python fetched without its tokenizer opens as well as it ever did.
  if (missing?.every((name) => name.startsWith('tokenizer'))) return;
  const forbidden = noFirstUseSwitch(env);
  if (forbidden !== undefined) {
    const revision = id.revision === 'main' ? '' : ` --revision ${id.revision}`;
    const what =
      missing === undefined
        ? 'config.json, tokenizer and weights are missing'
        : `missing: ${missing.join(', ')}`;
    throw new QuestError(
      'E_HUB',
      `${id.repo} is not whole in ${hubCacheDir(env)} (${what}), and ${forbidden} is set, so that nothing is downloaded on first use`,
      {
        hint: `run \`quest model pull ${id.repo}${revision}\` where there is a network, or give --model a folder`,
        exitCode: 3,
      },
    );
  }
  await pullModel(id, options);
}
