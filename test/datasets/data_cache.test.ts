import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DATASETS } from '../../datasets/catalog.js';
import { PG19_TEST_IDS } from '../../datasets/catalog_pg19.js';
import { dataDir, ensureDataset } from '../../datasets/data_cache.js';
import { type PullOptions, pullDataset } from '../../datasets/data_cache_pull.js';
import { datasetState, verifyDataset } from '../../datasets/data_cache_state.js';
import type { QuestError } from '../../src/errors.js';
import { md5, QUICK, sendFile, sha256, startServer, type TestServer, tempFolder } from '../net/server.js';
import { makeZip } from './data_zip.js';

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server.close());

const env = (more: Record<string, string> = {}) => ({
  HOME: '/nowhere',
  HF_ENDPOINT: server.url,
  QUEST_PG19_ENDPOINT: server.url,
  ...more,
});

function options(more: Partial<PullOptions> = {}): PullOptions & { data: string; notes: string[] } {
  const notes: string[] = [];
  return {
    data: tempFolder(),
    env: env(),
    policy: QUICK,
    note: (text: string) => notes.push(text),
    notes,
    ...more,
  } as never;
}

const rejected = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (e: QuestError) => e,
  );

// ---- LongBench

const rows = (task: string) => `{"dataset": "${task}"}\n`;
const archive = makeZip(
  DATASETS.longbench.keys.map((task) => ({ name: `data/${task}.jsonl`, content: rows(task) })),
);
const COMMIT = 'a'.repeat(40);
const API = '/api/datasets/THUDM/LongBench/revision/main';
const ZIP = `/datasets/THUDM/LongBench/resolve/${COMMIT}/data.zip`;

function serveLongbench(zip: Buffer = archive, published: object | undefined = undefined): void {
  const lfs = published ?? { sha256: sha256(zip), size: zip.length };
  server.on(API, (_q, r) =>
    r.end(
      JSON.stringify({
        sha: COMMIT,
        siblings: [
          { rfilename: 'README.md', size: 3, blobId: 'b'.repeat(40) },
          { rfilename: 'data.zip', size: zip.length, blobId: 'c'.repeat(40), lfs },
        ],
      }),
    ),
  );
  server.on(ZIP, (q, r) => sendFile(q, r, zip));
}

test('LongBench: 34 files from the pinned archive, checked, recorded, the archive gone', async () => {
  serveLongbench();
  const o = options();
  const { dir, files } = await ensureDataset('longbench', { ...o, files: ['qasper', 'qasper_e'] });
  expect(dir).toBe(o.data);
  expect(readFileSync(files.get('qasper_e')!, 'utf8')).toBe(rows('qasper_e'));
  expect(readdirSync(join(dir, 'longbench'))).toHaveLength(34);
  expect(existsSync(join(dir, 'longbench', 'data.zip'))).toBe(false);
  expect(o.notes.join()).toContain(
    `data.zip, 0.0 MB, from ${server.url}/datasets/THUDM/LongBench/resolve/main`,
  );
  const entry = JSON.parse(readFileSync(join(dir, 'manifest.json'), 'utf8')).files['longbench/qasper.jsonl'];
  expect(entry).toMatchObject({
    sha256: sha256(Buffer.from(rows('qasper'))),
    trust: 'published',
    source: server.url + ZIP,
  });
  expect(await datasetState('longbench', o)).toMatchObject({ present: 34, state: 'complete' });
  const before = server.seen.length;
  await ensureDataset('longbench', o);
  expect(server.seen.length).toBe(before);
});

test('LongBench: an archive put there by hand is unpacked without any network, even in CI', async () => {
  const o = options({ env: env({ CI: 'true', HF_ENDPOINT: 'http://127.0.0.1:9' }) });
  mkdirSync(join(o.data, 'longbench'));
  writeFileSync(join(o.data, 'longbench', 'data.zip'), archive);
  await ensureDataset('longbench', o);
  expect(existsSync(join(o.data, 'longbench', 'data.zip'))).toBe(true);
  const checked = await verifyDataset('longbench', o);
  expect(checked.map((f) => f.state)).toEqual(Array(34).fill('ok'));
  expect(checked[0]!.trust).toBe('by-hand');
});

test('LongBench: an archive of wrong bytes is refused, one without published checksum is recorded', async () => {
  serveLongbench(archive, { sha256: 'd'.repeat(64), size: archive.length });
  const bad = options();
  expect(await rejected(pullDataset('longbench', bad))).toMatchObject({ code: 'E_CHECKSUM' });
  expect(existsSync(join(bad.data, 'longbench', 'qasper.jsonl'))).toBe(false);
  serveLongbench(archive, { size: archive.length });
  const o = options();
  await pullDataset('longbench', o);
  expect((await verifyDataset('longbench', o))[0]).toMatchObject({ state: 'ok', trust: 'first-pull' });
});

test('LongBench: an archive without its files, and a repository without the archive', async () => {
  serveLongbench(makeZip([{ name: 'other.txt', content: 'x' }]));
  expect(await rejected(pullDataset('longbench', options()))).toMatchObject({ code: 'E_ARCHIVE' });
  server.on(API, (_q, r) => r.end(JSON.stringify({ sha: COMMIT, siblings: [] })));
  expect(await rejected(pullDataset('longbench', options()))).toMatchObject({ code: 'E_DATA' });
});

test('a broken download of the archive goes on in the next run', async () => {
  serveLongbench();
  server.on(ZIP, (q, r) => sendFile(q, r, archive, { breakAfter: 500 }));
  const o = options();
  const quick = { ...QUICK, attempts: 2 };
  expect(await rejected(pullDataset('longbench', { ...o, policy: quick }))).toMatchObject({
    code: 'E_DOWNLOAD',
  });
  expect(existsSync(join(o.data, 'longbench', 'data.zip.quest.incomplete'))).toBe(true);
  serveLongbench();
  await pullDataset('longbench', o);
  expect(server.seen.at(-1)!.headers.range).toMatch(/^bytes=[1-9]/);
});

// ---- PG-19

const LISTING = '/storage/v1/b/deepmind-gutenberg/o';
const book = (id: string) => Buffer.from(`The book ${id}.\n`.repeat(100));

function serveBooks(ids: readonly string[], listed = true): void {
  const item = (id: string) => ({
    name: `test/${id}.txt`,
    size: String(book(id).length),
    md5Hash: Buffer.from(md5(book(id)), 'hex').toString('base64'),
  });
  server.on(LISTING, (_q, r) =>
    listed
      ? r.end(JSON.stringify({ items: [{ name: 'test/' }, ...ids.map(item)] }))
      : r.writeHead(403).end('no listing'),
  );
  for (const id of PG19_TEST_IDS)
    server.on(`/deepmind-gutenberg/test/${id}.txt`, (q, r) =>
      ids.includes(id) ? sendFile(q, r, book(id)) : r.writeHead(404).end(),
    );
  server.on('/deepmind-gutenberg/test/777.txt', (q, r) => sendFile(q, r, book('777')));
}

test('PG-19: the ids that ship are 99 of the 100, in the order of the bucket', () => {
  expect(PG19_TEST_IDS).toHaveLength(99);
  expect(new Set(PG19_TEST_IDS).size).toBe(99);
  expect(PG19_TEST_IDS[0]).toBe('10146');
  expect(PG19_TEST_IDS.at(-1)).toBe('9931');
});

test('PG-19: all books of the listing, one that we do not know included, checked by their MD5', async () => {
  serveBooks([...PG19_TEST_IDS, '777']);
  const o = options();
  const seen: number[] = [];
  const result = await pullDataset('pg19', { ...o, onProgress: (p) => seen.push(p.bytes) });
  expect(result).toMatchObject({ fetched: 100, absent: [] });
  expect(result.bytes).toBe(seen.at(-1));
  expect(result.files.get('777')).toBe(join(o.data, 'pg19', 'test', '777.txt'));
  expect(o.notes.join()).toContain('100 books, 0.2 MB, from');
  expect(await datasetState('pg19', o)).toMatchObject({ present: 100, state: 'complete' });
  const checked = await verifyDataset('pg19', o);
  expect(checked).toHaveLength(100);
  expect(new Set(checked.map((f) => `${f.state} ${f.trust}`))).toEqual(new Set(['ok published']));
});

test('PG-19: only the books asked for, and only what is missing of them', async () => {
  serveBooks([...PG19_TEST_IDS]);
  const o = options();
  await ensureDataset('pg19', { ...o, files: ['10146'] });
  expect(readdirSync(join(o.data, 'pg19', 'test'))).toEqual(['10146.txt']);
  const before = server.seen.length;
  await ensureDataset('pg19', { ...o, files: ['10146', '860'] });
  expect(server.seen.slice(before).map((s) => s.path.split('?')[0])).toEqual([
    LISTING,
    '/deepmind-gutenberg/test/860.txt',
  ]);
  expect(await datasetState('pg19', o)).toMatchObject({ present: 2, state: 'partial' });
});

test('PG-19: a bucket that cannot be listed gives the known ids; those it lacks are named', async () => {
  const lacking = PG19_TEST_IDS.slice(3, 5);
  serveBooks(
    PG19_TEST_IDS.filter((id) => !lacking.includes(id)),
    false,
  );
  const o = options();
  const result = await pullDataset('pg19', o);
  expect(result).toMatchObject({ fetched: 97, bytes: undefined });
  expect(result.absent.sort()).toEqual([...lacking].sort());
  expect(o.notes.join()).toContain('the 99 known ids of 100, without published checksums');
  expect((await verifyDataset('pg19', o))[0]!.trust).toBe('first-pull');
  expect(await rejected(ensureDataset('pg19', { ...o, files: [lacking[0]!] }))).toMatchObject({
    code: 'E_DATA_MISSING',
  });
});

test('PG-19: wrong bytes of one book are refused; the good ones stay', async () => {
  serveBooks([...PG19_TEST_IDS]);
  server.on('/deepmind-gutenberg/test/860.txt', (q, r) => sendFile(q, r, Buffer.alloc(book('860').length)));
  const o = options();
  expect(await rejected(pullDataset('pg19', { ...o, files: ['10146', '860'] }))).toMatchObject({
    code: 'E_CHECKSUM',
  });
  expect((await verifyDataset('pg19', o)).map((f) => f.key)).not.toContain('860');
});

test('PG-19: a book that the split does not have', async () => {
  serveBooks([...PG19_TEST_IDS]);
  for (const files of [['123456'], ['moby-dick'], ['../x']])
    expect(await rejected(pullDataset('pg19', options({ files })))).toMatchObject({ code: 'E_DATA' });
});

// ---- the folder

test('files that people put there count, in the places where they keep them', async () => {
  const o = options({ env: env({ CI: '1' }) });
  mkdirSync(join(o.data, 'pg19-test'));
  writeFileSync(join(o.data, 'pg19-test', '860.txt'), 'text');
  writeFileSync(join(o.data, 'qasper.jsonl'), '{}\n');
  mkdirSync(join(o.data, 'longbench', 'data'), { recursive: true });
  writeFileSync(join(o.data, 'longbench', 'data', 'lcc.jsonl'), '{}\n');
  expect((await ensureDataset('pg19', { ...o, files: ['860'] })).files.get('860')).toContain('pg19-test');
  const { files } = await ensureDataset('longbench', { ...o, files: ['qasper', 'lcc'] });
  expect([...files.values()]).toEqual([
    join(o.data, 'qasper.jsonl'),
    join(o.data, 'longbench', 'data', 'lcc.jsonl'),
  ]);
  expect(await verifyDataset('pg19', o)).toMatchObject([{ key: '860', state: 'unrecorded' }]);
});

test('verify notices a changed and a deleted file; --force fetches them again', async () => {
  serveBooks([...PG19_TEST_IDS]);
  const o = options({ files: ['10146', '860', '9931'] });
  const { files } = await pullDataset('pg19', o);
  writeFileSync(files.get('860')!, 'changed');
  writeFileSync(files.get('9931')!, '');
  const states = async () => (await verifyDataset('pg19', o)).map((f) => `${f.key} ${f.state}`);
  expect(await states()).toEqual(['10146 ok', '860 changed', '9931 missing']);
  await pullDataset('pg19', { ...o, force: true });
  expect(await states()).toEqual(['10146 ok', '860 ok', '9931 ok']);
});

test('a dry run says how much and fetches nothing', async () => {
  serveLongbench();
  const o = options({ dryRun: true });
  expect(await pullDataset('longbench', o)).toMatchObject({ fetched: 0, bytes: archive.length });
  expect(readdirSync(o.data)).toEqual([]);
});

test.each(['CI', 'QUEST_OFFLINE', 'HF_HUB_OFFLINE'])('%s forbids downloads on first use', async (name) => {
  const before = server.seen.length;
  const o = options({ env: env({ [name]: '1' }) });
  const error = (await rejected(ensureDataset('longbench', { ...o, files: ['qasper'] })))!;
  expect(error.code).toBe('E_DATA_MISSING');
  expect(error.exitCode).toBe(3);
  expect(error.message).toBe(
    `LongBench and LongBench-E (qasper) is not in ${o.data}, and ${name} is set, so that nothing is downloaded on first use`,
  );
  expect(error.hint).toBe(
    `download ${server.url}/datasets/THUDM/LongBench/resolve/main/data.zip and put it at ${o.data}/longbench/data.zip (it is unpacked from there); or run \`quest data pull longbench\` where there is a network, and give that folder with --data`,
  );
  const books = (await rejected(ensureDataset('pg19', { ...o, files: ['10146'] })))!;
  expect(books.hint).toContain(
    `download ${server.url}/deepmind-gutenberg/test/10146.txt and put it at ${o.data}/pg19/test/10146.txt`,
  );
  expect(server.seen.length).toBe(before);
});

test('CI does not forbid what was asked for by name; QUEST_OFFLINE does', async () => {
  serveBooks([...PG19_TEST_IDS]);
  const files = ['10146'];
  await pullDataset('pg19', options({ files, env: env({ CI: 'true' }) }));
  expect(
    await rejected(pullDataset('pg19', options({ files, env: env({ QUEST_OFFLINE: '1' }) }))),
  ).toMatchObject({ code: 'E_DATA_MISSING' });
});

test('no network: the error says what to do by hand', async () => {
  const gone = await startServer();
  await gone.close();
  const o = options({ env: env({ HF_ENDPOINT: gone.url, QUEST_PG19_ENDPOINT: gone.url }) });
  const error = (await rejected(ensureDataset('longbench', o)))!;
  expect(error.code).toBe('E_DATA_MISSING');
  expect(error.message).toContain('the connection was refused');
  expect(error.hint).toContain(`put it at ${o.data}/longbench/data.zip`);
  expect(await rejected(ensureDataset('pg19', o))).toMatchObject({ code: 'E_DATA_MISSING' });
  const notes: string[] = [];
  await pullDataset('longbench', { ...o, dryRun: true, note: (text: string) => notes.push(text) });
  expect(notes.join('\n')).toMatch(/refused, so the source was not asked[\s\S]*about 114 MB, from .*; into /);
});

test('a manifest that cannot be read gives one clear error', async () => {
  const o = options();
  for (const text of ['{', '{"version": 2}', '{"version": 1, "files": {"a": {}}}']) {
    writeFileSync(join(o.data, 'manifest.json'), text);
    expect(await rejected(verifyDataset('pg19', o))).toMatchObject({ code: 'E_DATA' });
  }
});

test('two pulls at once fetch every book once', async () => {
  serveBooks([...PG19_TEST_IDS]);
  const o = options({ files: ['10146', '860', '9931'] });
  const before = server.seen.length;
  await Promise.all([pullDataset('pg19', o), pullDataset('pg19', o)]);
  expect(server.seen.slice(before).filter((s) => s.path.endsWith('.txt'))).toHaveLength(3);
});

test('the data folder: --data, QUEST_DATA, XDG_CACHE_HOME, ~/.cache', () => {
  const HOME = '/home/me';
  expect(dataDir('/x/y', { HOME, QUEST_DATA: '/q' })).toBe('/x/y');
  expect(dataDir('~/d', { HOME })).toBe('/home/me/d');
  expect(dataDir(undefined, { HOME, QUEST_DATA: '/q', XDG_CACHE_HOME: '/c' })).toBe('/q');
  expect(dataDir(undefined, { HOME, XDG_CACHE_HOME: '/c' })).toBe('/c/quest/data');
  expect(dataDir(undefined, { HOME })).toBe('/home/me/.cache/quest/data');
});

test('an endpoint that is no address is refused', async () => {
  const error = await rejected(
    pullDataset('pg19', options({ env: env({ QUEST_PG19_ENDPOINT: 'file:///x' }) })),
  );
  expect(error).toMatchObject({ code: 'E_URL' });
});
