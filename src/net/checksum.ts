/** Checksums of what arrives: sha256 always, and whatever else the source publishes. */
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';

export interface Checksum {
  /** `git-sha1` is the id of a git blob: SHA-1 over `blob <size>\0` and the content. */
  kind: 'sha256' | 'md5' | 'git-sha1';
  /** Lower case. */
  hex: string;
}

export interface Hasher {
  update(chunk: Uint8Array): void;
  /** Ends the computation. */
  finish(): { sha256: string; wanted: string | undefined };
}

/** `size` must be known for `git-sha1`. */
export function createHasher(kind: Checksum['kind'] | undefined, size: number | undefined): Hasher {
  const sha256 = createHash('sha256');
  const other = kind === 'md5' ? createHash('md5') : kind === 'git-sha1' ? createHash('sha1') : undefined;
  if (kind === 'git-sha1') {
    if (size === undefined) throw new Error('a git blob id needs the size of the file');
    other?.update(`blob ${size}\0`);
  }
  return {
    update(chunk) {
      sha256.update(chunk);
      other?.update(chunk);
    },
    finish() {
      const hex = sha256.digest('hex');
      return { sha256: hex, wanted: kind === undefined ? undefined : (other?.digest('hex') ?? hex) };
    },
  };
}

const BLOCK = 1 << 20;

/** Feeds the first `bytes` of a file to a hasher. False when the file is shorter. */
export async function hashPrefix(
  file: string,
  bytes: number,
  hasher: Hasher,
  signal?: AbortSignal,
): Promise<boolean> {
  const handle = await open(file, 'r');
  try {
    const block = Buffer.allocUnsafe(BLOCK);
    for (let done = 0; done < bytes; ) {
      signal?.throwIfAborted();
      const { bytesRead } = await handle.read(block, 0, Math.min(BLOCK, bytes - done), done);
      if (bytesRead === 0) return false;
      hasher.update(block.subarray(0, bytesRead));
      done += bytesRead;
    }
    return true;
  } finally {
    await handle.close();
  }
}

/** Checksums of a whole file. */
export async function hashFile(
  file: string,
  kind?: Checksum['kind'],
  signal?: AbortSignal,
): Promise<{ bytes: number; sha256: string; wanted: string | undefined }> {
  const handle = await open(file, 'r');
  const { size } = await handle.stat().finally(() => handle.close());
  const hasher = createHasher(kind, size);
  await hashPrefix(file, size, hasher, signal);
  return { bytes: size, ...hasher.finish() };
}
