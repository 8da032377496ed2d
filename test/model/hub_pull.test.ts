import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { QuestError } from '../../src/errors.js';
import { findInHubCache } from '../../src/model/hub.js';
import { missingFiles } from '../../src/model/hub_files.js';
import { ensureModel, type PullModelOptions, pullModel } from '../../src/model/hub_pull.js';
import { listCachedModels, verifySnapshot } from '../../src/model/hub_store.js';
import { openCheckpoint } from '../../src/model/index.js';
import { packageRoot } from '../../src/model/package_root.js';
import { hubAccess } from '../../src/net/hub_api.js';
import { COMMIT, type FakeFile, publish } from '../net/fake_hub.js';
import { bytes, QUICK, sendFile, sha256, startServer, type TestServer, tempFolder } from '../net/server.js';

let hub: TestServer;
let store: TestServer;
beforeAll(async () => {
  hub = await startServer();
  store = await startServer();
});
afterAll(() => Promise.all([hub.close(), store.close()]));

type Options = PullModelOptions & { cache: string; notes: string[]; env: Record<string, string> };

function options(more: Record<string, string> = {}): Options {
  const cache = tempFolder();
  const notes: string[] = [];
  return {
    cache,
    notes,
    env: { HOME: cache, HF_HUB_CACHE: cache, HF_ENDPOINT: hub.url, ...more },
    policy: QUICK,
    note: (text) => notes.push(text),
  };
}

const rejected = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (e: QuestError) => e,
  );

const small = (value: unknown): FakeFile => ({ content: Buffer.from(JSON.stringify(value)) });

/** Two shards, the same weights as `.bin`, and what nobody needs. */
function sharded(): Record<string, FakeFile> {
  const shard = (i: number) => `model-0000${i}-of-00002.safetensors`;
  return {
    'README.md': small('about'),
    'config.json': small({ architectures: ['LlamaForCausalLM'] }),
    'generation_config.json': small({}),
    'tokenizer.model': { content: bytes(5000), large: true },
    'tokenizer_config.json': small({ add_bos_token: true }),
    'model.safetensors.index.json': small({ weight_map: { a: shard(1), b: shard(2), c: shard(1) } }),
    [shard(1)]: { content: bytes(200_000), large: true },
    [shard(2)]: { content: bytes(150_000), large: true },
    'pytorch_model.bin.index.json': small({ weight_map: { a: 'pytorch_model-00001-of-00001.bin' } }),
    'pytorch_model-00001-of-00001.bin': { content: bytes(100), large: true },
    'consolidated.safetensors': { content: bytes(100), large: true },
    'onnx/model.onnx': { content: bytes(100), large: true },
  };
}
const NEEDED = [
  'config.json',
  'generation_config.json',
  'model-00001-of-00002.safetensors',
  'model-00002-of-00002.safetensors',
  'model.safetensors.index.json',
  'tokenizer.model',
  'tokenizer_config.json',
];

test('only the needed files, in the layout of the Python library', async () => {
  const files = sharded();
  publish(hub, store, { id: 'org/model', files });
  const o = options();
  const seen: { bytes: number; total: number | undefined }[] = [];
  const pulled = await pullModel(
    { repo: 'org/model', revision: 'main' },
    { ...o, onProgress: (p) => seen.push(p) },
  );
  const place = join(o.cache, 'models--org--model');
  expect(pulled.dir).toBe(join(place, 'snapshots', COMMIT));
  expect(readdirSync(pulled.dir).sort()).toEqual(NEEDED);
  for (const name of NEEDED) {
    const link = readlinkSync(join(pulled.dir, name));
    expect(link).toMatch(/^\.\.\/\.\.\/blobs\/[0-9a-f]+$/);
    const { content, large } = files[name]!;
    expect(readFileSync(join(pulled.dir, name)).equals(content)).toBe(true);
    if (large) expect(link).toBe(`../../blobs/${sha256(content)}`);
  }
  expect(readdirSync(join(place, 'blobs'))).toHaveLength(NEEDED.length);
  expect(readFileSync(join(place, 'refs', 'main'), 'utf8')).toBe(COMMIT);
  expect(readdirSync(join(o.cache, '.locks', 'models--org--model'))).toEqual([]);
  expect(await findInHubCache({ repo: 'org/model', revision: 'main' }, o.env)).toBe(pulled.dir);
  const total = NEEDED.reduce((sum, name) => sum + files[name]!.content.length, 0);
  expect(pulled).toMatchObject({ bytes: total, fetched: total, commit: COMMIT });
  expect(seen.at(-1)).toMatchObject({ bytes: total, total });
  expect(o.notes[0]).toBe(
    `org/model (main, commit 01234567): 0.4 MB to download, 0.4 MB in 7 files in all; into ${o.cache}`,
  );
});

test('pulled twice, nothing is fetched again; a new commit shares the old blobs', async () => {
  const files = sharded();
  publish(hub, store, { id: 'org/twice', files });
  const o = options();
  const id = { repo: 'org/twice', revision: 'main' };
  await pullModel(id, o);
  const before = store.seen.length;
  expect((await pullModel(id, o)).fetched).toBe(0);
  expect(store.seen.length).toBe(before);
  const commit = 'b'.repeat(40);
  const changed = { ...files, 'generation_config.json': small({ eos_token_id: 2 }) };
  publish(hub, store, { id: 'org/twice', files: changed, commit });
  const newer = await pullModel(id, o);
  expect(store.seen.length).toBe(before);
  expect(newer.dir).toContain(commit);
  expect(readFileSync(join(o.cache, 'models--org--twice', 'refs', 'main'), 'utf8')).toBe(commit);
  const list = await listCachedModels(o.cache);
  expect(list.map((m) => [m.commit, m.revisions, m.missing])).toEqual([
    [COMMIT, [], []],
    [commit, ['main'], []],
  ]);
});

test('one file of weights goes before shards, and .bin only where there is nothing else', async () => {
  const base = {
    'config.json': small({}),
    'tokenizer.json': small({}),
    'model.safetensors': { content: bytes(50), large: true },
  };
  publish(hub, store, { id: 'org/single', files: { ...sharded(), ...base } });
  const single = await pullModel({ repo: 'org/single', revision: 'main' }, options());
  expect(single.files.map((f) => f.name).filter((n) => n.startsWith('model'))).toEqual(['model.safetensors']);
  const bin = Object.fromEntries(Object.entries(sharded()).filter(([name]) => !/^model|consol/.test(name)));
  publish(hub, store, { id: 'org/bin', files: bin });
  const pulled = await pullModel({ repo: 'org/bin', revision: 'main' }, options());
  expect(readdirSync(pulled.dir)).toContain('pytorch_model-00001-of-00001.bin');
  expect(await missingFiles(pulled.dir)).toEqual([]);
});

test('a real checkpoint opens after the pull', async () => {
  const tiny = join(packageRoot(), 'models', 'quest-tiny');
  const file = (name: string, large = false) => ({ content: readFileSync(join(tiny, name)), large });
  publish(hub, store, {
    id: 'org/tiny',
    files: {
      'config.json': file('config.json'),
      'tokenizer.json': file('tokenizer.json'),
      'model.safetensors': file('model.safetensors', true),
    },
  });
  const o = options();
  const { dir } = await pullModel({ repo: 'org/tiny', revision: 'main' }, o);
  const checkpoint = await openCheckpoint(dir);
  expect(checkpoint.name).toBe('org/tiny');
  expect(checkpoint.fingerprint).toBe((await openCheckpoint('quest-tiny')).fingerprint);
});

test('revisions: a branch with a slash, and a commit that needs no ref', async () => {
  publish(hub, store, { id: 'org/rev', files: sharded(), revisions: ['main', 'refs/pr/1'] });
  const o = options();
  await pullModel({ repo: 'org/rev', revision: 'refs/pr/1' }, o);
  expect(readFileSync(join(o.cache, 'models--org--rev', 'refs', 'refs', 'pr', '1'), 'utf8')).toBe(COMMIT);
  const pinned = options();
  await pullModel({ repo: 'org/rev', revision: COMMIT }, pinned);
  expect(existsSync(join(pinned.cache, 'models--org--rev', 'refs'))).toBe(false);
  expect(await findInHubCache({ repo: 'org/rev', revision: COMMIT }, pinned.env)).toContain(COMMIT);
});

test('the token goes to the hub and not to where it redirects', async () => {
  publish(hub, store, { id: 'org/token', files: sharded() });
  const [h, s] = [hub.seen.length, store.seen.length];
  await pullModel({ repo: 'org/token', revision: 'main' }, options({ HF_TOKEN: 'hf_secret' }));
  expect(new Set(hub.seen.slice(h).map((x) => x.headers.authorization))).toEqual(
    new Set(['Bearer hf_secret']),
  );
  expect(new Set(store.seen.slice(s).map((x) => x.headers.authorization))).toEqual(new Set([undefined]));
});

test('tokens: from the environment, from the file of the Python tools, and none', () => {
  const home = tempFolder();
  mkdirSync(join(home, 'hf'));
  writeFileSync(join(home, 'hf', 'token'), 'hf_file\n');
  expect(hubAccess({ HOME: home, HF_HOME: join(home, 'hf') })).toMatchObject({
    endpoint: 'https://huggingface.co',
    authorization: 'Bearer hf_file',
    tokenSource: join(home, 'hf', 'token'),
  });
  expect(hubAccess({ HOME: home, HF_HOME: join(home, 'hf'), HF_TOKEN: ' hf_env ' }).authorization).toBe(
    'Bearer hf_env',
  );
  expect(hubAccess({ HOME: home, HF_HOME: '~/hf' }).authorization).toBe('Bearer hf_file');
  expect(hubAccess({ HOME: home, HF_TOKEN_PATH: '$HF/token', HF: join(home, 'hf') }).authorization).toBe(
    'Bearer hf_file',
  );
  const implicit = { HOME: home, HF_HOME: join(home, 'hf'), HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' };
  expect(hubAccess(implicit).authorization).toBeUndefined();
  expect(() => hubAccess({ HOME: home, HF_TOKEN: 'two\nlines' })).toThrow('characters that no token has');
});

test('a broken pull shows no snapshot, keeps what came, and goes on', async () => {
  const files = sharded();
  const shard = files['model-00001-of-00002.safetensors']!;
  shard.serve = (q, r) => sendFile(q, r, shard.content, { breakAfter: 40_000 });
  publish(hub, store, { id: 'org/broken', files });
  const o = options();
  const id = { repo: 'org/broken', revision: 'main' };
  const error = await rejected(pullModel(id, { ...o, policy: { ...QUICK, attempts: 2 } }));
  expect(error).toMatchObject({ code: 'E_DOWNLOAD' });
  expect(error!.message).not.toContain('secret');
  expect(error!.hint).toContain('the same command goes on from there');
  const place = join(o.cache, 'models--org--broken');
  expect(existsSync(join(place, 'snapshots'))).toBe(false);
  expect(existsSync(join(place, 'refs'))).toBe(false);
  expect(readdirSync(join(place, 'blobs')).filter((n) => n.endsWith('.incomplete'))).not.toEqual([]);
  shard.serve = undefined;
  publish(hub, store, { id: 'org/broken', files });
  const dry = await pullModel(id, { ...o, dryRun: true });
  expect(dry.fetched).toBeLessThan(dry.bytes);
  const pulled = await pullModel(id, o);
  expect((await verifySnapshot(pulled.dir)).map((f) => f.state)).toEqual(Array(7).fill('ok'));
  expect(readdirSync(join(place, 'blobs'))).toHaveLength(7);
});

test('wrong bytes and wrong sizes, of large files and of small ones', async () => {
  for (const [name, serve, code] of [
    ['model-00002-of-00002.safetensors', bytes(150_000), 'E_CHECKSUM'],
    ['model-00002-of-00002.safetensors', bytes(149_999), 'E_SIZE'],
    ['config.json', Buffer.from('{"architectures":["LlamaForCausalLX"]}'), 'E_CHECKSUM'],
    ['config.json', Buffer.from('<html>'), 'E_SIZE'],
  ] as const) {
    const files = sharded();
    files[name]!.serve = (q, r) => sendFile(q, r, serve);
    publish(hub, store, { id: 'org/wrong', files });
    const o = options();
    expect(await rejected(pullModel({ repo: 'org/wrong', revision: 'main' }, o))).toMatchObject({ code });
    expect(existsSync(join(o.cache, 'models--org--wrong', 'snapshots'))).toBe(false);
  }
});

test('refusals in words: gated, private, missing, no such revision', async () => {
  const id = { repo: 'org/refuse', revision: 'v9' };
  const api = '/api/models/org/refuse/revision/v9';
  const answer = (status: number, code?: string) =>
    hub.on(api, (_q, r) => void r.writeHead(status, code ? { 'x-error-code': code } : {}).end('{}'));
  const pull = async (env: Record<string, string> = {}) => (await rejected(pullModel(id, options(env))))!;
  answer(401, 'GatedRepo');
  expect(await pull()).toMatchObject({
    code: 'E_GATED',
    message: 'org/refuse is gated: its owners want to know who downloads it',
    hint: `accept the conditions at ${hub.url}/org/refuse, make a token at ${hub.url}/settings/tokens, and set HF_TOKEN`,
  });
  answer(403, 'GatedRepo');
  const denied = await pull({ HF_TOKEN: 'hf_x' });
  expect(denied.message).toBe('org/refuse is gated, and the token in HF_TOKEN has no access to it');
  answer(401, 'RepoNotFound');
  expect((await pull()).message).toBe(`${hub.url} shows no model org/refuse (status 401)`);
  expect((await pull()).hint).toContain('private repositories need HF_TOKEN');
  expect((await pull({ HF_TOKEN: 'hf_x' })).hint).toContain('may be wrong, expired, or without access');
  answer(404, 'RevisionNotFound');
  expect((await pull()).message).toBe('org/refuse has no revision "v9"');
  hub.on(
    api,
    (_q, r) => void r.writeHead(403, { 'x-error-message': 'Access to this resource is disabled.' }).end(),
  );
  expect((await pull()).message).toBe('org/refuse is disabled on the hub');
  hub.on(api, (_q, r) => void r.end('<html>'));
  expect((await pull()).message).toContain('does not answer with JSON');
  hub.on(api, (_q, r) => void r.end('{"sha":"x"}'));
  expect((await pull()).message).toContain('does not answer as a hub does');
});

test('a repository whose files are gated although its list is not', async () => {
  const files = sharded();
  files['config.json']!.serve = (_q, r) => void r.writeHead(401, { 'x-error-code': 'GatedRepo' }).end();
  publish(hub, store, { id: 'org/half', files });
  expect(await rejected(pullModel({ repo: 'org/half', revision: 'main' }, options()))).toMatchObject({
    code: 'E_GATED',
  });
});

test('repositories that are no model we read, and hostile ones', async () => {
  const config = { 'config.json': small({}) };
  const pull = async (id: string, files: Record<string, FakeFile>) => {
    publish(hub, store, { id, files });
    return (await rejected(pullModel({ repo: id, revision: 'main' }, options())))!;
  };
  expect((await pull('org/gguf', { ...config, 'm.gguf': small(1) })).message).toBe(
    'org/gguf has no weights that we read; it has m.gguf',
  );
  expect((await pull('org/none', { 'README.md': small(1) })).message).toBe('org/none has no config.json');
  for (const name of ['../../evil', '/etc/evil', 'a/../b', 'a\\b', 'c:evil', 'a//b', 'x\u0000'])
    expect((await pull('org/evil', { ...config, [name]: small(1) })).message).toContain('lists a file named');
  const torn = sharded();
  delete torn['model-00002-of-00002.safetensors'];
  expect((await pull('org/torn', torn)).message).toContain(
    'is not whole on the hub: its index names model-00002-of-00002.safetensors',
  );
});

test('verify notices changed and missing files, without a network', async () => {
  publish(hub, store, { id: 'org/verify', files: sharded() });
  const o = options();
  const { dir } = await pullModel({ repo: 'org/verify', revision: 'main' }, o);
  expect((await verifySnapshot(dir)).every((f) => f.state === 'ok')).toBe(true);
  const blob = (name: string) => join(dir, readlinkSync(join(dir, name)));
  const weights = readFileSync(blob('model-00001-of-00002.safetensors'));
  weights[1000]! ^= 1;
  writeFileSync(blob('model-00001-of-00002.safetensors'), weights);
  writeFileSync(blob('config.json'), '{}');
  expect(lstatSync(join(dir, 'tokenizer.model')).isSymbolicLink()).toBe(true);
  const { rmSync } = await import('node:fs');
  rmSync(blob('tokenizer.model'));
  const states = Object.fromEntries((await verifySnapshot(dir)).map((f) => [f.name, f.state]));
  expect(states).toMatchObject({
    'model-00001-of-00002.safetensors': 'changed',
    'model-00002-of-00002.safetensors': 'ok',
    'config.json': 'changed',
    'tokenizer.model': 'missing',
  });
  await pullModel({ repo: 'org/verify', revision: 'main' }, { ...o, force: true });
  expect((await verifySnapshot(dir)).every((f) => f.state === 'ok')).toBe(true);
});

test('on first use a model is pulled after saying how much; folders and built-in names are left alone', async () => {
  publish(hub, store, { id: 'org/first', files: sharded() });
  const o = options();
  const before = hub.seen.length;
  for (const ref of ['quest-tiny', o.cache, 'nonsense name']) await ensureModel(ref, o);
  expect(hub.seen.length).toBe(before);
  await ensureModel('org/first', o);
  expect(o.notes[0]).toContain('0.4 MB to download');
  const after = hub.seen.length;
  await ensureModel('org/first', o);
  expect(hub.seen.length).toBe(after);
});

test.each(['CI', 'HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'QUEST_OFFLINE'])(
  '%s: what is missing is named',
  async (name) => {
    publish(hub, store, { id: 'org/offline', files: sharded() });
    const o = options();
    const first = (await rejected(ensureModel('org/offline', { ...o, env: { ...o.env, [name]: '1' } })))!;
    expect(first.message).toContain('(config.json, tokenizer and weights are missing)');
    expect(first.hint).toContain('quest model pull org/offline');
    const { dir } = await pullModel({ repo: 'org/offline', revision: 'main' }, o);
    await ensureModel('org/offline', { ...o, env: { ...o.env, [name]: '1' } });
    const { rmSync } = await import('node:fs');
    rmSync(join(dir, 'model-00002-of-00002.safetensors'));
    const second = (await rejected(ensureModel('org/offline', { ...o, env: { ...o.env, [name]: '1' } })))!;
    expect(second.message).toContain('(missing: model-00002-of-00002.safetensors)');
  },
);

test('two pulls at once fetch every file once', async () => {
  const files = sharded();
  for (const name of ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']) {
    const { content } = files[name]!;
    files[name]!.serve = (q, r) => sendFile(q, r, content, { slow: { bytes: 20_000, ms: 10 } });
  }
  publish(hub, store, { id: 'org/both', files });
  const o = options();
  const before = store.seen.length;
  const id = { repo: 'org/both', revision: 'main' };
  await Promise.all([pullModel(id, o), pullModel(id, o)]);
  expect(store.seen.length - before).toBe(3);
});
