/** Golden data that lives beside the checkout. Tests that need it are skipped, with a line saying so, where it is missing. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const sharedDir = fileURLToPath(new URL('../../../shared', import.meta.url));
export const hasShared = existsSync(sharedDir);

export function goldenDir(name: string): string {
  return `${sharedDir}/golden/${name}`;
}

if (!hasShared)
  process.stderr.write(`golden data not found in ${sharedDir}: the tests that need it are skipped\n`);
