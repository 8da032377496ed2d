/** manifest.json: what produced a result, so that it can be judged and repeated. */

import { arch, cpus, platform, release, totalmem } from 'node:os';
import { join } from 'node:path';
import type { Checkpoint } from '../model/index.js';
import { writeFileAtomic } from '../report/files.js';
import { addon } from '../runtime/addon.js';
import type { CommandContext } from './commands.js';
import type { Settings } from './settings.js';
import { gitCommit, questVersion } from './version.js';

/** Facts of this machine and build. */
export function environment(device: { device: string; threads: number; simd: string } | undefined) {
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
    ...(device && { device: device.device, threads: device.threads, simd: device.simd }),
  };
}

/** Writes the manifest of a run that ends now. */
export function writeManifest(
  folder: string,
  context: CommandContext,
  settings: Settings,
  checkpoint: Checkpoint,
  run: {
    started: Date;
    device: { device: string; threads: number; simd: string } | undefined;
    [key: string]: unknown;
  },
): void {
  const { started, device, ...rest } = run;
  const manifest = {
    command: ['quest', ...context.argv].join(' '),
    options: settings.resolved(),
    model: {
      name: checkpoint.name,
      fingerprint: checkpoint.fingerprint,
      weight_bytes: checkpoint.weightBytes,
      preset: checkpoint.preset?.name,
    },
    environment: environment(device),
    started: started.toISOString(),
    ended: new Date().toISOString(),
    ...rest,
  };
  writeFileAtomic(join(folder, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
}
