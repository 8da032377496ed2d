// Packs what a GPU machine without a network needs to build and check the CUDA backend (CMake, nvcc and g++ must be there):
//   node scripts/pack_gpu.js <golden folder> <output folder>
// then, in the output folder on that machine, one command: bash gpu_suite.sh
// GoogleTest's sources are taken from /usr/src/googletest (Debian's googletest package) or from QUEST_GTEST_SOURCE.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [golden, output] = process.argv.slice(2);
const googletest = process.env.QUEST_GTEST_SOURCE ?? '/usr/src/googletest';

function fail(message) {
  process.stderr.write(`pack_gpu: ${message}\n`);
  process.exit(2);
}

if (!golden || !output) fail('usage: node scripts/pack_gpu.js <golden folder> <output folder>');
if (!existsSync(googletest)) fail(`there is no GoogleTest at ${googletest}; set QUEST_GTEST_SOURCE`);
const to = resolve(output);
rmSync(join(to, 'native'), { recursive: true, force: true });
mkdirSync(to, { recursive: true });
cpSync(join(root, 'native'), join(to, 'native'), {
  recursive: true,
  filter: (path) => !/\/native\/build/.test(path),
});
cpSync(join(root, 'package.json'), join(to, 'package.json'));
cpSync(googletest, join(to, 'googletest'), { recursive: true });
cpSync(join(root, 'scripts', 'gpu_suite.sh'), join(to, 'gpu_suite.sh'));
const packed = spawnSync(
  process.execPath,
  [join(root, 'scripts', 'pack_golden.js'), golden, join(to, 'golden')],
  {
    stdio: 'inherit',
  },
);
process.exit(packed.status ?? 1);
