// Compiles TypeScript after `npm ci` in a checkout. Without the development packages there is no compiler:
// then a published package already has dist/, and a checkout is told what is missing.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const tsc = fileURLToPath(new URL('../node_modules/typescript/bin/tsc', import.meta.url));

if (existsSync(tsc)) {
  const { status } = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], {
    cwd: root,
    stdio: 'inherit',
  });
  process.exit(status ?? 1);
}
if (!existsSync(new URL('../dist/src/cli/main.js', import.meta.url))) {
  process.stderr.write(
    'quest: no TypeScript compiler installed and no dist/ folder: run `npm ci` without --omit=dev\n',
  );
}
