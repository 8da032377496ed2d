import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeZip } from '../datasets/data_zip.js';
import { bytes, md5, sendFile, sha256, startServer, type TestServer, tempFolder } from '../net/server.js';
import { type Finished, quest, type SpawnOptions } from './spawn.js';

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server.close());

const COMMIT = 'c'.repeat(40);
const ZIP = `/datasets/THUDM/LongBench/resolve/${COMMIT}/data.zip`;
const book = Buffer.from('It was the best of books.\n'.repeat(2000));

function serve(zip: Buffer): void {
  const lfs = { sha256: sha256(zip), size: zip.length };
  const siblings = [{ rfilename: 'data.zip', size: zip.length, lfs }];
  server.on('/api/datasets/THUDM/LongBench/revision/main', (_q, r) =>
    r.end(JSON.stringify({ sha: COMMIT, siblings })),
  );
  server.on(ZIP, (q, r) => sendFile(q, r, zip));
  const md5Hash = Buffer.from(md5(book), 'hex').toString('base64');
  const items = ['10146', '860'].map((id) => ({
    name: `test/${id}.txt`,
    size: String(book.length),
    md5Hash,
  }));
  server.on('/storage/v1/b/deepmind-gutenberg/o', (_q, r) => r.end(JSON.stringify({ items })));
  for (const id of ['10146', '860'])
    server.on(`/deepmind-gutenberg/test/${id}.txt`, (q, r) => sendFile(q, r, book));
}

// Random words hardly shrink, so that the archive is large enough to be cut in the middle.
const row = (): string => `${JSON.stringify({ context: bytes(30_000).toString('base64') })}\n`;
const archive = makeZip(['qasper', 'lcc_e'].map((task) => ({ name: `data/${task}.jsonl`, content: row() })));

const data = (dir: string, args: string[], options: SpawnOptions = {}): Promise<Finished> =>
  quest(['data', ...args], {
    ...options,
    env: {
      CI: '',
      QUEST_DATA: dir,
      HF_ENDPOINT: server.url,
      QUEST_PG19_ENDPOINT: server.url,
      HF_HOME: dir,
      ...options.env,
    },
  });

test('list, pull, list, verify', async () => {
  serve(archive);
  const dir = tempFolder();
  const before = await data(dir, ['list', '--format', 'json']);
  expect(before.code).toBe(0);
  expect(JSON.parse(before.stdout)).toMatchObject([
    { dataset: 'longbench', state: 'missing', files: 0, of: 34, bytes: 0, folder: `${dir}/longbench` },
    { dataset: 'pg19', state: 'missing', files: 0, of: 100, folder: `${dir}/pg19/test` },
  ]);
  const pulled = await data(dir, ['pull', 'longbench', 'pg19/10146', '--format', 'csv']);
  expect(pulled.stdout).toBe(
    `dataset,fetched,files,downloaded,folder\nlongbench,2,2,${archive.length},${dir}/longbench\npg19,1,1,${book.length},${dir}/pg19/test\n`,
  );
  expect(pulled.stderr).toContain(`LongBench and LongBench-E: data.zip, `);
  expect(pulled.stderr).toContain('PG-19, test split: 1 book, 0.1 MB, from');
  expect(pulled.code).toBe(0);
  expect(readFileSync(join(dir, 'pg19', 'test', '10146.txt')).equals(book)).toBe(true);
  const list = await data(dir, ['list', 'pg19']);
  expect(list.stdout).toMatch(/^pg19 +partial +1 +100 +52 kB +/m);
  const verified = await data(dir, ['verify', '--format', 'csv']);
  expect(verified.code).toBe(0);
  expect(verified.stdout.split('\n').slice(0, 4)).toEqual([
    'dataset,file,state,checksum,bytes,path',
    expect.stringMatching(/^longbench,qasper,ok,published,\d+,/),
    expect.stringMatching(/^longbench,lcc_e,ok,published,\d+,/),
    expect.stringMatching(/^pg19,10146,ok,published,52000,/),
  ]);
  expect(verified.stderr).toBe('3 ok, 0 changed, 0 missing, 0 without a recorded checksum\n');
  writeFileSync(join(dir, 'pg19', 'test', '10146.txt'), 'changed');
  const changed = await data(dir, ['verify', 'pg19', '--format', 'md']);
  expect(changed.code).toBe(1);
  expect(changed.stdout).toContain('|changed|');
  expect(changed.stderr).toContain('quest data pull NAME --force');
});

test('--quiet says nothing, --dry-run fetches nothing, --data goes first', async () => {
  serve(archive);
  const dir = tempFolder();
  const dry = await data('/nowhere', ['pull', 'longbench', '--dry-run', '--data', dir]);
  expect(dry).toMatchObject({ code: 0 });
  expect(dry.stderr).toContain(`into ${dir}`);
  expect(readdirSync(dir)).toEqual([]);
  const quiet = await data(dir, ['pull', 'longbench', '--quiet']);
  expect(quiet).toMatchObject({ code: 0, stderr: '' });
});

test('Ctrl-C keeps what arrived, kill -9 too, and the same command goes on', async () => {
  serve(archive);
  server.on(ZIP, (q, r) => sendFile(q, r, archive, { slow: { bytes: 2000, ms: 20 } }));
  const dir = tempFolder();
  const part = join(dir, 'longbench', 'data.zip.quest.incomplete');
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGKILL', null],
  ] as const) {
    const run = data(dir, ['pull', 'longbench'], {
      started: async (child) => {
        const before = existsSync(part) ? readFileSync(part).length : 0;
        while (!existsSync(part) || readFileSync(part).length < before + 6000) await sleep(10);
        child.kill(signal);
      },
    });
    const result = await run;
    expect(result.code).toBe(code);
    expect(existsSync(part)).toBe(true);
    if (code === 130)
      expect(result.stderr).toContain(
        'error: interrupted; what arrived is kept\nhint: the same command goes on from there\n',
      );
  }
  server.on(ZIP, (q, r) => sendFile(q, r, archive));
  const done = await data(dir, ['pull', 'longbench']);
  expect(done.code).toBe(0);
  expect(server.seen.at(-1)!.headers.range).toMatch(/^bytes=\d{4,}-$/);
  expect(readdirSync(join(dir, 'longbench')).sort()).toEqual(['lcc_e.jsonl', 'qasper.jsonl']);
});

test('offline: what to download, from where, and where to put it', async () => {
  const dir = tempFolder();
  const result = await data(dir, ['pull', 'longbench'], { env: { QUEST_OFFLINE: '1' } });
  expect(result.code).toBe(3);
  expect(result.stdout).toBe('');
  expect(result.stderr).toContain(`is not in ${dir}, and QUEST_OFFLINE is set`);
  expect(result.stderr).toContain(`put it at ${dir}/longbench/data.zip`);
  mkdirSync(join(dir, 'longbench'));
  writeFileSync(join(dir, 'longbench', 'data.zip'), archive);
  const unpacked = await data(dir, ['pull', 'longbench'], { env: { QUEST_OFFLINE: '1' } });
  expect(unpacked.stderr).toContain(`unpacking ${dir}/longbench/data.zip`);
  expect((await data(dir, ['verify', 'longbench'])).stderr).toContain('their source published no checksum');
});

test.each([
  ['longbench', ['--task', 'qasper'], /LongBench.* MB/, 'longbench/data.zip'],
  ['ppl', ['--dataset', 'pg19'], /PG-19.* MB/, 'pg19/test/10146.txt'],
  ['analyze', ['sparsity', '--books', '10146'], /PG-19.* MB/, 'pg19/test/10146.txt'],
])(
  'a dry run of quest %s says how much data it would pull, and pulls none',
  async (command, args, size, place) => {
    serve(archive);
    const dir = tempFolder();
    const env = { CI: '', QUEST_DATA: dir, HF_ENDPOINT: server.url, QUEST_PG19_ENDPOINT: server.url };
    const before = server.seen.length;
    const dry = await quest([command, ...args, '--dry-run'], { env });
    expect(dry.stderr).toMatch(size);
    expect(dry.stderr).toContain(`is not in ${dir}, and --dry-run is given, so that nothing is downloaded`);
    expect(dry.stderr).toContain(`put it at ${dir}/${place}`);
    expect(dry.code).toBe(3);
    expect(server.seen.slice(before).filter(({ path }) => /zip$|txt$/.test(path))).toEqual([]);
    expect(readdirSync(dir)).toEqual([]);
  },
);

test('a dry run offline says how much, from where and where to, and makes nothing', async () => {
  const dir = join(tempFolder(), 'new');
  const env = { QUEST_OFFLINE: '1' };
  const dry = await data(dir, ['pull', 'longbench', 'pg19/860', '--dry-run'], { env });
  expect(dry.stderr).toMatch(/QUEST_OFFLINE is set, so the source was not asked; nothing can be pulled now/);
  expect(dry.stderr).toMatch(/data.zip, about 114 MB, from http\S+\/data.zip; into \/\S+new$/m);
  expect(dry.stderr).toMatch(/1 book, about 0.4 MB, from http\S+\/860.txt; into /);
  expect(dry.code).toBe(0);
  expect(existsSync(dir)).toBe(false);
});

test('verify with nothing there fails with what to do; list shows where files were found', async () => {
  const dir = tempFolder();
  const nothing = await data(dir, ['verify', 'pg19']);
  expect(nothing.stderr).toBe(
    `error: there is nothing of pg19 in ${dir}\nhint: fetch it with \`quest data pull pg19\`, or give the folder that holds it with --data\n`,
  );
  expect(nothing.code).toBe(3);
  mkdirSync(join(dir, 'pg19-test'));
  writeFileSync(join(dir, 'pg19-test', '860.txt'), book);
  const list = await data(dir, ['list', 'pg19', '--format', 'json']);
  expect(JSON.parse(list.stdout)).toMatchObject([{ files: 1, folder: `${dir}/pg19-test` }]);
  expect((await data(dir, ['verify'])).code).toBe(0);
  const half = await data(dir, ['verify', 'pg19', 'longbench']);
  expect(half.stderr).toContain('there is nothing of longbench: fetch it with `quest data pull longbench`');
  expect(half.code).toBe(1);
});

test('wrong bytes: one error, a hint, exit code 3', async () => {
  serve(archive);
  server.on(ZIP, (q, r) => sendFile(q, r, bytes(archive.length)));
  const result = await data(tempFolder(), ['pull', 'longbench']);
  expect(result.code).toBe(3);
  expect(result.stderr).toMatch(/^error: .*: the bytes are wrong: sha256 is /m);
  expect(result.stderr.match(/^hint: /gm)).toHaveLength(1);
  expect(result.stderr).not.toMatch(/^\s+at /m);
});

test.each<[string[], RegExp, RegExp]>([
  [[], /missing required argument 'action'/, /quest data --help/],
  [['pul'], /quest data has no action "pul"/, /did you mean pull\?/],
  [['list', 'longbensh'], /there is no dataset "longbensh"/, /did you mean longbench\?/],
  [['list', 'xyz'], /there is no dataset "xyz"/, /the datasets are longbench, pg19/],
  [['pull', 'longbench/quasper'], /has no file "quasper"/, /its files: narrativeqa, /],
  [['pull', 'pg19/x'], /has no book "x"/, /named by number/],
  [['pull', '--model', 'x'], /unknown option '--model'/, /./],
])('quest data %j is refused', async (args, message, hint) => {
  const result = await data(tempFolder(), args);
  expect(result.stderr).toMatch(message);
  expect(result.stderr).toMatch(hint);
  expect(result.stderr.match(/^error: /gm)).toHaveLength(1);
  expect(result.code).toBe(2);
});
