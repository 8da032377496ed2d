/** `--model ORG/NAME` on the real command line, with a hub on 127.0.0.1 that behaves as badly as each test asks. */
import { readdirSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FakeFile, publish } from '../net/fake_hub.js';
import { sendFile, startServer, type TestServer, tempFolder } from '../net/server.js';
import { type Finished, hasAddon, quest } from './spawn.js';
import { tinyFile } from './tiny_files.js';

let hub: TestServer;
let store: TestServer;
beforeAll(async () => {
  hub = await startServer();
  store = await startServer();
});
afterAll(() => Promise.all([hub.close(), store.close()]));

const files = (): Record<string, FakeFile> => ({
  'config.json': tinyFile('config.json'),
  'tokenizer.json': tinyFile('tokenizer.json'),
  'tokenizer_config.json': tinyFile('tokenizer_config.json'),
  'model.safetensors': tinyFile('model.safetensors', true),
});

const PROMPT = ['generate', '--prompt', 'The grass is green. The sky is', '--max-tokens', '4'];
const run = (cache: string, args: string[], env: Record<string, string> = {}): Promise<Finished> =>
  quest(args, { env: { CI: '', HF_HUB_CACHE: cache, HF_HOME: cache, HF_ENDPOINT: hub.url, ...env } });

test.skipIf(!hasAddon)(
  'pulled once, after saying how much; then the same text as the built-in model',
  async () => {
    publish(hub, store, { id: 'org/tiny', files: files() });
    const cache = tempFolder();
    const first = await run(cache, [...PROMPT, '--model', 'org/tiny']);
    expect(first.code).toBe(0);
    expect(first.stderr).toMatch(/^org\/tiny \(main, commit 01234567\): [\d.]+ MB to download/m);
    const requests = hub.seen.length;
    const second = await run(cache, [...PROMPT, '--model', 'org/tiny']);
    expect(second.stdout).toBe(first.stdout);
    expect(second.stderr).not.toContain('download');
    expect(hub.seen.length).toBe(requests);
    expect((await run(cache, PROMPT)).stdout).toBe(first.stdout);
  },
);

test('a dry run says how much and fetches nothing', async () => {
  publish(hub, store, { id: 'org/dry', files: files() });
  const cache = tempFolder();
  const dry = await run(cache, ['passkey', '--model', 'org/dry', '--dry-run']);
  expect(dry.stderr).toMatch(/org\/dry \(main, commit 01234567\): [\d.]+ MB to download/);
  expect(dry.stderr).toContain('quest model pull org/dry');
  expect(readdirSync(cache)).toEqual([]);
});

test.each(['CI', 'HF_HUB_OFFLINE'])(
  '%s: nothing is downloaded, and the files that lack are named',
  async (name) => {
    publish(hub, store, { id: 'org/off', files: files() });
    const cache = tempFolder();
    const before = hub.seen.length;
    const refused = await run(cache, [...PROMPT, '--model', 'org/off'], { [name]: 'true' });
    expect(refused.code).toBe(3);
    expect(refused.stderr).toContain(`and ${name} is set, so that nothing is downloaded on first use`);
    expect(refused.stderr).toContain('(config.json, tokenizer and weights are missing)');
    expect(refused.stderr).toContain('hint: run `quest model pull org/off`');
    expect(hub.seen.length).toBe(before);
  },
);

test.skipIf(!hasAddon)('a connection that breaks again and again is resumed where it broke', async () => {
  const broken = files();
  const { content } = broken['model.safetensors']!;
  let calls = 0;
  broken['model.safetensors']!.serve = (q, r) =>
    sendFile(q, r, content, ++calls < 3 ? { breakAfter: 3_000_000 } : {});
  publish(hub, store, { id: 'org/breaks', files: broken });
  const before = store.seen.length;
  const done = await run(tempFolder(), [...PROMPT, '--model', 'org/breaks']);
  expect(done.code).toBe(0);
  const starts = store.seen.slice(before).map(({ headers }) => Number(/\d+/.exec(headers.range ?? '0')));
  expect(starts).toHaveLength(3);
  expect(starts[0]).toBe(0);
  // What was on its way when the connection broke may be lost, no more.
  expect(starts[1]).toBeGreaterThan(2_000_000);
  expect(starts[2]! - starts[1]!).toBeGreaterThan(2_000_000);
});

test('wrong bytes and a size that lies are refused before anything is loaded', async () => {
  const wrong = files();
  const other = Buffer.from(wrong['model.safetensors']!.content);
  other[other.length - 1]! ^= 1;
  wrong['model.safetensors']!.serve = (q, r) => sendFile(q, r, other);
  publish(hub, store, { id: 'org/wrong', files: wrong });
  const cache = tempFolder();
  const refused = await run(cache, [...PROMPT, '--model', 'org/wrong']);
  expect(refused.code).toBe(3);
  expect(refused.stderr).toMatch(/^error: .*model\.safetensors/m);
  expect(refused.stderr.match(/^error: /gm)).toHaveLength(1);
  expect(refused.stdout).toBe('');
  const short = files();
  short['tokenizer.json']!.serve = (q, r) =>
    sendFile(q, r, short['tokenizer.json']!.content.subarray(0, 1000));
  publish(hub, store, { id: 'org/short', files: short });
  const lied = await run(cache, [...PROMPT, '--model', 'org/short']);
  expect(lied.code).toBe(3);
  expect(lied.stderr).toMatch(/^error: .*tokenizer\.json/m);
});

test('a name that the hub does not know', async () => {
  const unknown = await run(tempFolder(), [...PROMPT, '--model', 'runs/mymodel']);
  expect(unknown.code).toBe(3);
  expect(unknown.stderr).toContain('shows no model runs/mymodel (status 404)');
});
