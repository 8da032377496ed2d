import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { COMMIT, type FakeFile, publish } from '../net/fake_hub.js';
import { sendFile, startServer, type TestServer, tempFolder } from '../net/server.js';
import { type Finished, quest, type SpawnOptions } from './spawn.js';
import { tinyFile } from './tiny_files.js';

let hub: TestServer;
let store: TestServer;
beforeAll(async () => {
  hub = await startServer();
  store = await startServer();
});
afterAll(() => Promise.all([hub.close(), store.close()]));

const files = (): Record<string, FakeFile> => ({
  'README.md': { content: Buffer.from('about') },
  'config.json': tinyFile('config.json'),
  'tokenizer.json': tinyFile('tokenizer.json'),
  'model.safetensors': tinyFile('model.safetensors', true),
});

const config = JSON.parse(tinyFile('config.json').content.toString('utf8')) as Record<string, number>;
/** Keys and values of one token in fp32, all layers. */
const tokenBytes =
  2 *
  config.num_hidden_layers! *
  config.num_key_value_heads! *
  config.head_dim! *
  Float32Array.BYTES_PER_ELEMENT;

const model = (cache: string, args: string[], options: SpawnOptions = {}): Promise<Finished> =>
  quest(['model', ...args], {
    ...options,
    env: { CI: '', HF_HUB_CACHE: cache, HF_HOME: cache, HF_ENDPOINT: hub.url, ...options.env },
  });

test('pull, list, info, verify', async () => {
  publish(hub, store, { id: 'org/tiny', files: files() });
  const cache = tempFolder();
  const dry = await model(cache, ['pull', 'org/tiny', '--dry-run']);
  expect(dry.code).toBe(0);
  expect(dry.stdout).toMatch(/^model.safetensors +[\d.]+ MB +to fetch$/m);
  expect(readdirSync(cache)).toEqual([]);

  const pulled = await model(cache, ['pull', 'org/tiny', '--format', 'csv']);
  expect(pulled.code).toBe(0);
  expect(pulled.stdout.split('\n').map((line) => line.replace(/,\d+,/, ','))).toEqual([
    'file,bytes,state',
    'config.json,fetched',
    'tokenizer.json,fetched',
    'model.safetensors,fetched',
    '',
  ]);
  const dir = join(cache, 'models--org--tiny', 'snapshots', COMMIT);
  expect(pulled.stderr).toMatch(
    /org\/tiny \(main, commit 01234567\): [\d.]+ MB to download, [\d.]+ MB in 3 files/,
  );
  expect(pulled.stderr).toContain(`is in ${dir}\n`);
  expect((await model(cache, ['pull', 'org/tiny'])).stdout).toMatch(
    /^model.safetensors +[\d.]+ MB +cached$/m,
  );

  const list = await model(cache, ['list', '--format', 'json']);
  expect(JSON.parse(list.stdout)).toMatchObject([
    { model: 'org/tiny', revision: 'main', commit: '01234567', files: 3, state: 'complete', folder: dir },
  ]);

  const info = await model(cache, ['info', 'org/tiny', '--context', '1024', '--format', 'json']);
  const [numbers] = JSON.parse(info.stdout);
  // A page of 16 costs one token more.
  expect(numbers).toMatchObject({
    model: 'org/tiny',
    layers: config.num_hidden_layers,
    context_tokens: 1024,
    kv_bytes: 1024 * tokenBytes,
    metadata_bytes: 64 * tokenBytes,
    longest_context_tokens: config.max_position_embeddings,
  });
  expect(numbers.weight_bytes).toBe(2 * numbers.parameters); // fp16
  expect(numbers.total_bytes).toBe(
    numbers.weight_bytes + numbers.kv_bytes + numbers.metadata_bytes + numbers.workspace_bytes,
  );

  expect((await model(cache, ['verify', 'org/tiny'])).code).toBe(0);
  const blob = join(dir, readlinkSync(join(dir, 'model.safetensors')));
  const weights = readFileSync(blob);
  weights[weights.length - 1]! ^= 1;
  writeFileSync(blob, weights);
  const changed = await model(cache, ['verify', 'org/tiny', '--format', 'csv']);
  expect(changed.code).toBe(1);
  expect(changed.stdout).toMatch(/^model.safetensors,changed,\d+,sha256 /m);
  expect(changed.stderr).toContain('quest model pull org/tiny --force');
  expect((await model(cache, ['pull', 'org/tiny', '--force', '--quiet'])).stderr).toBe('');
  expect((await model(cache, ['verify', 'org/tiny'])).code).toBe(0);
});

test('info: batch, a small memory, and the longest context that fits in it', async () => {
  const cache = tempFolder();
  const ask = async (args: string[]) =>
    JSON.parse((await model(cache, ['info', 'quest-tiny', '--format', 'json', ...args])).stdout)[0];
  const [one, four] = [await ask(['--context', '1000']), await ask(['--context', '1000', '--batch', '4'])];
  expect(one.kv_bytes).toBe(1008 * tokenBytes); // whole pages
  expect(four.kv_bytes).toBe(4 * one.kv_bytes);
  const small = await ask(['--max-memory', '200M']);
  const at = await ask(['--context', String(small.longest_context_tokens), '--max-memory', '200M']);
  const over = await ask(['--context', String(small.longest_context_tokens + 1), '--max-memory', '200M']);
  expect(at.total_bytes).toBeLessThanOrEqual(200 * 2 ** 20);
  expect(over.total_bytes).toBeGreaterThan(200 * 2 ** 20);
  const table = await model(cache, ['info', 'quest-tiny', '--max-memory', '1M']);
  expect(table.stdout).toMatch(
    /^device +weight +kv +metadata +workspace +total +available +longest_context_tokens$/m,
  );
  expect(table.stdout).toMatch(/^cpu .* 1 MB +0$/m);
  expect(table.stderr).toMatch(
    new RegExp(
      `^cpu: ${config.max_position_embeddings} tokens need .* 1 MB can be used; no context fits$`,
      'm',
    ),
  );
});

test('kill -9 in the middle of the weights, then the rest only', async () => {
  const slow = files();
  const { content } = slow['model.safetensors']!;
  slow['model.safetensors']!.serve = (q, r) => sendFile(q, r, content, { slow: { bytes: 100_000, ms: 10 } });
  publish(hub, store, { id: 'org/slow', files: slow });
  const cache = tempFolder();
  const blobs = join(cache, 'models--org--slow', 'blobs');
  const part = () => {
    const name = existsSync(blobs) ? readdirSync(blobs).find((n) => n.endsWith('.incomplete')) : undefined;
    return name === undefined ? 0 : readFileSync(join(blobs, name)).length;
  };
  const killed = await model(cache, ['pull', 'org/slow'], {
    started: async (child) => {
      while (part() < 2_000_000) await sleep(10);
      child.kill('SIGKILL');
    },
  });
  expect(killed.signal).toBe('SIGKILL');
  expect((await model(cache, ['list'])).stdout).not.toContain('org/slow');
  const kept = part();
  publish(hub, store, { id: 'org/slow', files: files() });
  const done = await model(cache, ['pull', 'org/slow']);
  expect(done.code).toBe(0);
  expect(store.seen.at(-1)!.headers.range).toBe(`bytes=${kept}-`);
  expect((await model(cache, ['verify', 'org/slow'])).code).toBe(0);
});

test('refusals are errors with a hint', async () => {
  const cache = tempFolder();
  hub.on('/api/models/org/gated/revision/main', (_q, r) =>
    r.writeHead(401, { 'x-error-code': 'GatedRepo' }).end(),
  );
  const gated = await model(cache, ['pull', 'org/gated']);
  expect(gated.code).toBe(3);
  expect(gated.stderr).toContain('error: org/gated is gated: its owners want to know who downloads it\n');
  const missing = await model(cache, ['pull', 'org/missing']);
  expect(missing.stderr).toContain('shows no model org/missing (status 404)');
  const offline = await model(cache, ['pull', 'org/tiny'], { env: { HF_HUB_OFFLINE: '1' } });
  expect(offline.stderr).toContain('HF_HUB_OFFLINE is set');
});

test.each<[string[], RegExp, RegExp]>([
  [[], /missing required argument 'action'/, /quest model --help/],
  [['infos', 'x'], /has no action "infos"/, /did you mean info\?/],
  [['pull'], /wants one model, got 0/, /quest model pull lmsys/],
  [['pull', 'a/b', 'c/d'], /wants one model, got 2/, /e\.g\./],
  [['pull', 'nonsense'], /"nonsense" is no model on the hub/, /ORG\/NAME/],
  [['pull', 'a/b', '--revision', '../x'], /is no model on the hub/, /--revision/],
  [['pull', 'a/b@v1', '--revision', 'v2'], /name two revisions/, /one of them/],
  [['verify', 'quest-tiny'], /part of the installation/, /quest doctor/],
  [['pull', 'a/b', '--parallel', '0'], /--parallel wants a whole number from 1 to 32/, /./],
])('quest model %j is refused', async (args, message, hint) => {
  const result = await model(tempFolder(), args);
  expect(result.stderr).toMatch(message);
  expect(result.stderr).toMatch(hint);
  expect(result.stderr.match(/^error: /gm)).toHaveLength(1);
  expect(result.code).toBe(2);
});
