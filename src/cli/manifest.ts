/** manifest.json: what produced a result, so that it can be judged and repeated. */

import { readFileSync } from 'node:fs';
import { arch, cpus, platform, release, totalmem } from 'node:os';
import { join } from 'node:path';
import type { Checkpoint } from '../model/index.js';
import { writeFileAtomic } from '../report/files.js';
import { addon, type DeviceInfo } from '../runtime/addon.js';
import type { CommandContext } from './commands.js';
import type { Settings } from './settings.js';
import { gitCommit, questVersion } from './version.js';

export const MANIFEST_NAME = 'manifest.json';

/** Facts of this machine and build. */
export function environment(device: DeviceInfo | undefined) {
  let native: string | undefined;
  try {
    native = addon().version;
  } catch {
    // a finished run can be reported without the binary
  }
  return {
    quest: questVersion(),
    native,
    commit: gitCommit(),
    node: process.version,
    os: `${platform()} ${release()} ${arch()}`,
    cpu: cpus()[0]?.model.trim(),
    cores: cpus().length,
    memory_bytes: totalmem(),
    ...(device && { device: device.device, threads: device.threads, simd: device.simd, gpu: device.gpu }),
    ...(device?.gpu !== undefined && { cuda_driver: addon().gpus().driver }),
  };
}

export interface RunRecord {
  started: Date;
  seconds: number;
  device: DeviceInfo | undefined;
  rows: { computed: number; reused: number };
}

interface Manifest {
  runs?: unknown[];
  cells?: unknown[];
}

function readManifest(path: string): Manifest | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Manifest;
  } catch {
    return undefined; // the first run, or a file that is no manifest any more
  }
}

/**
 * Writes the manifest of a run that ends now. Every run that computed something stays listed under `runs`;
 * one that found all rows there leaves the manifest as it is. Benchmarks have no checkpoint.
 */
export function writeManifest(
  folder: string,
  context: CommandContext,
  settings: Settings,
  checkpoint: Checkpoint | undefined,
  run: RunRecord,
  results: { cells: unknown[]; [key: string]: unknown },
): void {
  const path = join(folder, MANIFEST_NAME);
  const before = readManifest(path);
  if (run.rows.computed === 0 && before?.cells?.length === results.cells.length) return;
  const manifest = {
    command: ['quest', ...context.argv].join(' '),
    options: settings.resolved(),
    model: checkpoint && {
      name: checkpoint.name,
      fingerprint: checkpoint.fingerprint,
      weight_bytes: checkpoint.weightBytes,
      preset: checkpoint.preset?.name,
    },
    runs: [
      ...(Array.isArray(before?.runs) ? before.runs : []),
      {
        started: run.started.toISOString(),
        ended: new Date().toISOString(),
        seconds: Number(run.seconds.toFixed(3)),
        rows: run.rows,
        environment: environment(run.device),
      },
    ],
    ...results,
  };
  writeFileAtomic(path, `${JSON.stringify(manifest, null, 2)}\n`);
}
