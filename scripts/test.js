// The whole check: lint, types, vitest, native tests under AddressSanitizer and UndefinedBehaviorSanitizer.
// Ends with one line `N passed, N failed`. `npm test -- --only lint|ts|native|cuda` runs one part.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'quest-test-'));
const only = process.argv.includes('--only') ? process.argv[process.argv.indexOf('--only') + 1] : undefined;
const nodeHeaders = createRequire(import.meta.url)('node-api-headers').include_dir;
const jobs = String(availableParallelism());
const total = { passed: 0, failed: 0 };

function run(command, args, env = {}) {
  process.stdout.write(`\n$ ${command} ${args.join(' ')}\n`);
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  });
  if (error) process.stdout.write(`${command}: ${error.message}\n`);
  return status === 0;
}

function bin(name) {
  return join(root, 'node_modules', '.bin', name);
}

function count(ok) {
  total[ok ? 'passed' : 'failed'] += 1;
  return ok;
}

/** Adds a report's counts; a runner that broke before it could report is one failure. */
function addReport(file, ok, read) {
  try {
    const { passed, failed } = read(JSON.parse(readFileSync(file, 'utf8')));
    total.passed += passed;
    total.failed += failed;
    if (!ok && failed === 0) total.failed += 1;
  } catch {
    total.failed += 1;
  }
}

function lint() {
  count(run(bin('biome'), ['check', '--error-on-warnings', '.']));
  count(run(bin('tsc'), ['-p', 'tsconfig.json', '--noEmit']));
}

function typescript() {
  if (!count(run('npm', ['run', '--silent', 'build:ts']))) return;
  if (!count(run('npm', ['run', '--silent', 'build:native']))) return;
  const report = join(scratch, 'vitest.json');
  const ok = run(bin('vitest'), ['run', '--reporter=default', '--reporter=json', `--outputFile=${report}`]);
  addReport(report, ok, (r) => ({
    passed: r.numPassedTests,
    // A file that failed to load has no failed tests of its own.
    failed:
      r.numFailedTests +
      r.testResults.filter((t) => t.status === 'failed' && t.assertionResults.length === 0).length,
  }));
}

function native() {
  const build = join('native', 'build-test');
  const configured = run('cmake', [
    ...['-S', 'native', '-B', build, '-DQUEST_TESTS=ON', '-DQUEST_SANITIZE=ON', '-DQUEST_CUDA=OFF'],
  ]);
  if (!configured) process.stdout.write('native tests need GoogleTest: apt-get install libgtest-dev\n');
  if (!count(configured && run('cmake', ['--build', build, '-j', jobs]))) return;
  const report = join(scratch, 'gtest.json');
  const ok = run(join(build, 'quest_tests'), ['--gtest_brief=1', `--gtest_output=json:${report}`]);
  addReport(report, ok, (r) => ({ passed: r.tests - r.failures - r.disabled, failed: r.failures }));
}

/** Compiles the CUDA backend for one architecture where there is a compiler; its tests skip themselves without a GPU. */
function cuda() {
  const found = spawnSync('nvcc', ['--version']).status === 0 || existsSync('/usr/local/cuda/bin/nvcc');
  if (!found) {
    process.stdout.write('\nno nvcc on this machine: the CUDA backend is not compiled\n');
    return;
  }
  const build = join('native', 'build-test-cuda');
  const options = ['-DQUEST_TESTS=ON', '-DQUEST_CUDA=ON', '-DQUEST_CUDA_ARCHITECTURES=90a-real'];
  const configured = run('cmake', ['-S', 'native', '-B', build, ...options, `-DCMAKE_JS_INC=${nodeHeaders}`]);
  const target = ['--target', 'quest_cuda_tests', 'quest', '-j', jobs];
  if (!count(configured && run('cmake', ['--build', build, ...target]))) return;
  const report = join(scratch, 'cuda.json');
  const ok = run(join(build, 'quest_cuda_tests'), ['--gtest_brief=1', `--gtest_output=json:${report}`]);
  addReport(report, ok, (r) => {
    const cases = r.testsuites.flatMap((suite) => suite.testsuite);
    const skipped = cases.filter((test) => test.result === 'SKIPPED').length;
    if (skipped > 0) process.stdout.write(`${skipped} CUDA tests skipped: no GPU on this machine\n`);
    return { passed: r.tests - r.failures - r.disabled - skipped, failed: r.failures };
  });
  const addon = join(root, build, 'quest.node');
  count(runsOrRefuses(addon));
  count(run(bin('vitest'), ['run', 'test/cli/gpu_memory.test.ts'], { QUEST_ADDON: addon }));
}

/** The addon with the CUDA backend loads on any machine: it runs on a GPU where there is one and says why not elsewhere. */
function runsOrRefuses(addon) {
  const args = ['bin/quest.js', 'generate', '--device', 'cuda', '--prompt', 'The grass', '--max-tokens', '4'];
  process.stdout.write(`\n$ QUEST_ADDON=${addon} node ${args.join(' ')}\n`);
  const { status, stderr } = spawnSync(process.execPath, args, {
    cwd: root,
    env: { ...process.env, QUEST_ADDON: addon, NO_COLOR: '1' },
    encoding: 'utf8',
  });
  process.stdout.write(stderr);
  return (
    status === 0 || (status === 3 && /error: cuda cannot be used: .*\nhint: use --device cpu\n/.test(stderr))
  );
}

const parts = { lint, ts: typescript, native, cuda };
for (const [name, part] of Object.entries(parts)) {
  if (only === undefined || only === name) part();
}
rmSync(scratch, { recursive: true, force: true });
process.stdout.write(`\n${total.passed} passed, ${total.failed} failed\n`);
process.exit(total.failed === 0 && total.passed > 0 ? 0 : 1);
