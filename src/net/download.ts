/**
 * One file from one URL: resumed where it broke off, checked against its size and checksum, put in place in one step.
 * What the server claims is believed only as far as it agrees with what arrives and with what the caller knows.
 */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../errors.js';
import type { Checksum } from './checksum.js';
import { shownUrl, TransientError } from './errors.js';
import { type Answer, get, STALL_MS } from './http.js';
import { lockFile } from './lock.js';
import { checkDisk, openPartial, type PartialFile } from './partial.js';
import { type RetryPolicy, withRetries } from './retry.js';
import { judge, lies, MAX_BYTES, totalSize, wrongSize } from './verdict.js';

export interface DownloadRequest {
  url: string;
  /** Where the file goes; `<file>.quest.incomplete` while it arrives. */
  file: string;
  /** What is known of the file beforehand. */
  size?: number;
  checksum?: Checksum;
  /** Largest size accepted where none is known. */
  maxBytes?: number;
  headers?: Readonly<Record<string, string>>;
  /** Authorization header, for the URL's own origin only. */
  authorization?: string;
  /** Lock file (default: `<file>.lock`). */
  lock?: string;
  signal?: AbortSignal;
  policy?: RetryPolicy;
  stallMs?: number;
  /** `bytes` of `total` are here; `fresh` of them arrived since the last call. */
  onProgress?: (bytes: number, total: number | undefined, fresh: number) => void;
  /** Things worth telling: another process is waited for, a connection is tried again. */
  onNote?: (text: string) => void;
}

export interface Downloaded {
  bytes: number;
  /** Undefined when the file was there already. */
  sha256: string | undefined;
  /** Bytes that an earlier process had left. */
  resumedFrom: number;
}

/** Versions of the file that may pass by before we stop. */
const MAX_RESTARTS = 3;
/** So much new data counts as progress, and the count of tries starts anew. */
const PROGRESS_BYTES = 1 << 20;

/** Downloads unless the file is there. Waits while another process downloads the same file. */
export async function downloadFile(request: DownloadRequest): Promise<Downloaded> {
  const { file, size, signal, onNote } = request;
  const there = async (): Promise<Downloaded | undefined> => {
    const info = await stat(file).catch(() => undefined);
    // Files get their name only when they are whole and checked, so the size is enough here.
    if (!info?.isFile() || (size !== undefined && info.size !== size)) return undefined;
    request.onProgress?.(info.size, info.size, 0);
    return { bytes: info.size, sha256: undefined, resumedFrom: 0 };
  };
  const before = await there();
  if (before !== undefined) return before;
  const unlock = await lockFile(request.lock ?? `${file}.lock`, {
    signal,
    onWait: (holder) => onNote?.(`${holder} is downloading ${shownUrl(request.url)}; waiting for it`),
  });
  try {
    return (await there()) ?? (await transfer(request));
  } finally {
    await unlock();
  }
}

async function transfer(request: DownloadRequest): Promise<Downloaded> {
  const { url, signal, policy, onNote } = request;
  const partial = await openPartial(request);
  const found = partial.bytes;
  let lastBytes = found;
  let restarts = 0;
  const startAnew: StartAnew = async (why) => {
    if (++restarts > MAX_RESTARTS) throw lies(url, `${why}, again and again`);
    onNote?.(`${shownUrl(url)}: ${why}; starting anew`);
    await partial.restart();
    lastBytes = 0;
  };
  const attempt = async (): Promise<string> => {
    // A second round only when bytes of an earlier process turn out to be wrong.
    for (;;) {
      await receive(request, partial, startAnew);
      const { sha256, error } = check(request, partial);
      if (error === undefined) return sha256;
      if (partial.inherited > 0) {
        await startAnew('what an earlier try left does not fit');
      } else {
        await partial.restart();
        throw error;
      }
    }
  };
  let sha256: string;
  try {
    request.onProgress?.(found, request.size, 0);
    sha256 = await withRetries({
      url,
      policy,
      signal,
      kept: () => (partial.bytes > 0 ? partial.path : undefined),
      progressed: () => {
        const gained = partial.bytes - lastBytes;
        lastBytes = partial.bytes;
        return gained >= PROGRESS_BYTES;
      },
      onRetry: (reason, wait) =>
        onNote?.(`${shownUrl(url)}: ${reason}; trying again in ${(wait / 1000).toFixed(1)} s`),
      run: attempt,
    });
  } catch (error) {
    await (partial.bytes > 0 ? partial.keep() : partial.discard()).catch(() => {});
    throw error;
  }
  await partial.finish();
  return { bytes: partial.bytes, sha256, resumedFrom: partial.inherited };
}

/** Throws away what is here, saying why; throws when that happens too often. */
type StartAnew = (why: string) => Promise<void>;

/** Asks for what is missing and appends it. Returns when the file is as long as it should be. */
async function receive(request: DownloadRequest, partial: PartialFile, startAnew: StartAnew): Promise<void> {
  const { url, size } = request;
  if (size !== undefined && partial.bytes === size && size > 0) return;
  for (;;) {
    const offset = partial.bytes;
    const range: Record<string, string> = offset > 0 ? { range: `bytes=${offset}-` } : {};
    if (offset > 0 && partial.etag !== undefined) range['if-range'] = partial.etag;
    const answer = await get(url, {
      headers: { ...request.headers, ...range },
      authorization: request.authorization,
      signal: request.signal,
      stallMs: request.stallMs ?? STALL_MS,
    });
    const verdict = judge(answer, request, partial);
    if (verdict === 'complete') return;
    const total = totalSize(answer, request);
    if (verdict !== 'append') {
      // A whole file in answer to a range is used as it comes; anything else is asked for again.
      if (answer.status !== 200) answer.close();
      await startAnew(verdict);
      if (answer.status !== 200) continue;
    }
    await readBody(answer, request, partial, total);
    return;
  }
}

async function readBody(
  answer: Answer,
  request: DownloadRequest,
  partial: PartialFile,
  total: number | undefined,
): Promise<void> {
  const { url, maxBytes = MAX_BYTES } = request;
  try {
    if (total !== undefined)
      await checkDisk(path.dirname(request.file), total - partial.bytes, path.basename(request.file));
    await partial.belongsTo(url, answer.headers.get('etag'));
  } catch (error) {
    answer.close();
    throw error;
  }
  const limit = total ?? maxBytes;
  for await (const chunk of answer.body) {
    if (partial.bytes + chunk.length > limit) {
      await partial.restart();
      throw wrongSize(
        url,
        `the server sends more than the ${limit} bytes that ${total === undefined ? 'are accepted' : 'the file should have'}`,
      );
    }
    await partial.append(chunk);
    request.onProgress?.(partial.bytes, total, chunk.length);
  }
  if (total !== undefined && partial.bytes < total)
    throw new TransientError(`the connection ended after ${partial.bytes} of ${total} bytes`);
}

/** The checksum of the whole, and the error that it deserves, if any. */
function check(request: DownloadRequest, partial: PartialFile): { sha256: string; error?: QuestError } {
  const { url, size, checksum } = request;
  const { sha256, wanted } = partial.checksums();
  if (size !== undefined && partial.bytes !== size)
    return {
      sha256,
      error: wrongSize(url, `${partial.bytes} bytes came, but the file should have ${size}`),
    };
  if (checksum === undefined || wanted === checksum.hex) return { sha256 };
  const error = new QuestError(
    'E_CHECKSUM',
    `${shownUrl(url)}: the bytes are wrong: ${checksum.kind} is ${wanted}, should be ${checksum.hex}`,
    { hint: 'they were thrown away; try again later or from another mirror', exitCode: 3 },
  );
  return { sha256, error };
}
