// `npm run bench:cpu [-- options]`: builds native/bench apart from the addon and runs it, then times whole models through
// the addon (bench_model.js). Options go to the kernel program: --json, --threads N, --seconds S, --only TEXT; with --json
// or --only no model is timed. QUEST_SIMD chooses the kernels.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const native = fileURLToPath(new URL('../native', import.meta.url));
const build = fileURLToPath(new URL('../native/build-bench', import.meta.url));

// Build output goes to stderr, so that `--json` can be piped.
function run(command, args, stdout = 2) {
  const { status, error } = spawnSync(command, args, { stdio: ['ignore', stdout, 'inherit'] });
  if (error) process.stderr.write(`bench:cpu: cannot run ${command}: ${error.message}\n`);
  if (status !== 0) process.exit(status ?? 3);
}

run('cmake', [
  '-S',
  native,
  '-B',
  build,
  '-DCMAKE_BUILD_TYPE=Release',
  '-DQUEST_BENCH=ON',
  '-DQUEST_CUDA=OFF',
]);
run('cmake', ['--build', build, '--target', 'quest_bench_cpu', '--parallel']);

const options = process.argv.slice(2);
if (options.includes('--json') || options.includes('--only')) {
  run(`${build}/quest_bench_cpu`, options, 'inherit');
} else {
  run(`${build}/quest_bench_cpu`, options, 'inherit');
  // The limits are measured again right before the model, which is what they stand beside.
  const { stdout } = spawnSync(`${build}/quest_bench_cpu`, ['--json', '--only', 'multiply-add'], {
    encoding: 'utf8',
  });
  const { results } = JSON.parse(stdout);
  // The best repetition: a limit is what the machine can do when nothing disturbs it.
  const best = (name) => results.find((r) => r.name.startsWith(name)).best;
  const { benchModel, printModel } = await import('./bench_model.js');
  printModel(await benchModel({ readGbPerS: best('read bandwidth'), gflopPerS: best('multiply-add') }));
}
