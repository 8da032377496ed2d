// `npm run bench:cpu [-- options]`: builds native/bench apart from the addon and runs it. Options go to the program:
// --json, --threads N, --seconds S, --only TEXT. QUEST_SIMD chooses the kernels.
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

run('cmake', ['-S', native, '-B', build, '-DCMAKE_BUILD_TYPE=Release', '-DQUEST_BENCH=ON', '-DQUEST_CUDA=OFF']);
run('cmake', ['--build', build, '--target', 'quest_bench_cpu', '--parallel']);
run(`${build}/quest_bench_cpu`, process.argv.slice(2), 'inherit');
