/** `<data folder>/manifest.json`: what was pulled, from where, and the checksum to verify it by. */
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../src/errors.js';
import { diskError } from '../src/net/errors.js';

/**
 * What a file's checksum rests on. `published`: the source publishes a checksum of it (or of the archive it was in), and
 * that was checked. `first-pull`: nothing is published; the checksum says only that the file has not changed since.
 * `by-hand`: the same, for a file that somebody put there.
 */
export type Trust = 'published' | 'first-pull' | 'by-hand';

export interface ManifestEntry {
  bytes: number;
  sha256: string;
  source: string;
  trust: Trust;
  pulled_at: string;
}

/** By path below the data folder, with forward slashes. */
export type Manifest = Map<string, ManifestEntry>;

const FILE = 'manifest.json';

const isEntry = (value: unknown): value is ManifestEntry => {
  const { bytes, sha256, source, trust } = (value ?? {}) as Partial<ManifestEntry>;
  return (
    typeof bytes === 'number' &&
    typeof sha256 === 'string' &&
    /^[0-9a-f]{64}$/.test(sha256) &&
    typeof source === 'string' &&
    (trust === 'published' || trust === 'first-pull' || trust === 'by-hand')
  );
};

/** Reads the manifest; empty when there is none. */
export async function readManifest(dir: string): Promise<Manifest> {
  const file = path.join(dir, FILE);
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
    throw diskError(error, file);
  });
  if (text === undefined) return new Map();
  try {
    const { version, files } = JSON.parse(text) as { version?: unknown; files?: Record<string, unknown> };
    if (version !== 1) throw new Error(`its version is ${JSON.stringify(version)}, wanted 1`);
    const entries = Object.entries(files ?? {});
    const bad = entries.find(([, entry]) => !isEntry(entry));
    if (bad !== undefined) throw new Error(`its entry of ${JSON.stringify(bad[0])} is broken`);
    return new Map(entries as [string, ManifestEntry][]);
  } catch (cause) {
    throw new QuestError('E_DATA', `${file} cannot be used: ${(cause as Error).message}`, {
      hint: 'delete it; the next `quest data pull` writes it anew, with checksums of what is there then',
      exitCode: 3,
      cause,
    });
  }
}

/** Writes the manifest in one step. */
export async function writeManifest(dir: string, manifest: Manifest): Promise<void> {
  const file = path.join(dir, FILE);
  const files = Object.fromEntries([...manifest].sort(([a], [b]) => (a < b ? -1 : 1)));
  try {
    await mkdir(dir, { recursive: true });
    const handle = await open(`${file}.tmp`, 'w');
    try {
      await handle.writeFile(`${JSON.stringify({ version: 1, files }, null, 2)}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(`${file}.tmp`, file);
  } catch (error) {
    throw diskError(error, file);
  }
}
