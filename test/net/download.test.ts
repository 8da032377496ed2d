import { existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { QuestError } from '../../src/errors.js';
import { type DownloadRequest, downloadFile } from '../../src/net/download.js';
import {
  bytes,
  gitSha1,
  md5,
  QUICK,
  sendFile,
  sha256,
  startServer,
  type TestServer,
  tempFolder,
} from './server.js';

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server.close());

const content = bytes(300_000);
const good = { size: content.length, checksum: { kind: 'sha256', hex: sha256(content) } } as const;

function ask(path: string, more: Partial<DownloadRequest> = {}): DownloadRequest {
  return { url: server.url + path, file: join(tempFolder(), 'model.bin'), policy: QUICK, ...more };
}

async function failure(request: DownloadRequest): Promise<QuestError> {
  const error = await downloadFile(request).then(
    () => new Error('it worked'),
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(QuestError);
  expect((error as QuestError).hint).toBeTruthy();
  expect(existsSync(request.file)).toBe(false);
  expect(existsSync(`${request.file}.lock`)).toBe(false);
  return error as QuestError;
}

const leftovers = (request: DownloadRequest) => readdirSync(join(request.file, '..')).sort();
const ranges = (path: string) => server.seen.filter((s) => s.path === path).map((s) => s.headers.range);

test('a whole file arrives, is checked, and nothing else is left', async () => {
  server.on('/whole', (q, r) => sendFile(q, r, content));
  const seen: number[] = [];
  const request = ask('/whole', { ...good, onProgress: (have) => seen.push(have) });
  const result = await downloadFile(request);
  expect(result).toEqual({ bytes: content.length, sha256: sha256(content), resumedFrom: 0 });
  expect(readFileSync(request.file).equals(content)).toBe(true);
  expect(leftovers(request)).toEqual(['model.bin']);
  expect(seen.at(-1)).toBe(content.length);
  expect(server.seen.at(-1)!.headers['accept-encoding']).toBe('identity');
});

test('a file that is there is not asked for again, and a file of another size is', async () => {
  server.on('/there', (q, r) => sendFile(q, r, content));
  const request = ask('/there', good);
  await downloadFile(request);
  const before = server.seen.length;
  expect((await downloadFile(request)).sha256).toBeUndefined();
  expect(server.seen.length).toBe(before);
  truncateSync(request.file, 10);
  await downloadFile(request);
  expect(readFileSync(request.file).equals(content)).toBe(true);
});

test.each([
  ['sha256', sha256(content)],
  ['md5', md5(content)],
  ['git-sha1', gitSha1(content)],
] as const)('%s is checked', async (kind, hex) => {
  server.on('/kinds', (q, r) => sendFile(q, r, content));
  await downloadFile(ask('/kinds', { size: content.length, checksum: { kind, hex } }));
  const other = hex.replace(/^./, (c) => (c === '0' ? '1' : '0'));
  const error = await failure(ask('/kinds', { size: content.length, checksum: { kind, hex: other } }));
  expect(error.code).toBe('E_CHECKSUM');
  expect(error.message).toContain(hex);
});

test('an empty file and a file of unknown length', async () => {
  server.on('/empty', (q, r) => sendFile(q, r, Buffer.alloc(0)));
  const empty = ask('/empty', { size: 0 });
  await downloadFile(empty);
  expect(statSync(empty.file).size).toBe(0);
  server.on('/chunked', (_q, r) => {
    r.writeHead(200);
    r.write(content);
    r.end();
  });
  const chunked = ask('/chunked');
  expect((await downloadFile(chunked)).sha256).toBe(sha256(content));
});

test('broken connections are resumed where they broke', async () => {
  server.on('/broken', (q, r, call) => sendFile(q, r, content, call <= 3 ? { breakAfter: 70_000 } : {}));
  const notes: string[] = [];
  const request = ask('/broken', { ...good, onNote: (text) => notes.push(text) });
  await downloadFile(request);
  expect(readFileSync(request.file).equals(content)).toBe(true);
  // A break may swallow bytes that had not been read yet: then they are asked for again.
  const starts = ranges('/broken').map((range) => Number(/\d+/.exec(range ?? '0')![0]));
  expect(starts).toHaveLength(4);
  for (let i = 1; i < starts.length; i++) {
    expect(starts[i]).toBeGreaterThanOrEqual(starts[i - 1]!);
    expect(starts[i]).toBeLessThanOrEqual(70_000 * i);
  }
  expect(starts.at(-1)).toBeGreaterThan(0);
  expect(notes).toHaveLength(3);
});

test('a connection that keeps breaking keeps the part, and the next run goes on from it', async () => {
  const etag = '"v1"';
  server.on('/again', (q, r) => sendFile(q, r, content, { etag, breakAfter: 20_000 }));
  const request = ask('/again');
  const error = await failure(request);
  expect(error.code).toBe('E_DOWNLOAD');
  expect(error.hint).toContain(`${request.file}.quest.incomplete`);
  expect(leftovers(request)).toEqual(['model.bin.quest.incomplete', 'model.bin.quest.incomplete.json']);
  server.on('/again', (q, r) => sendFile(q, r, content, { etag }));
  const { size } = statSync(`${request.file}.quest.incomplete`);
  expect(size).toBeGreaterThan(0);
  expect((await downloadFile(request)).resumedFrom).toBe(size);
  expect(server.seen.at(-1)!.headers).toMatchObject({ range: `bytes=${size}-`, 'if-range': etag });
  expect(readFileSync(request.file).equals(content)).toBe(true);
  expect(leftovers(request)).toEqual(['model.bin']);
});

test('a file that changes between two runs is fetched anew', async () => {
  const newer = bytes(250_000);
  server.on('/changes', (q, r) => sendFile(q, r, content, { breakAfter: 50_000 }));
  const request = ask('/changes');
  await failure(request);
  server.on('/changes', (q, r) => sendFile(q, r, newer));
  const notes: string[] = [];
  await downloadFile({ ...request, onNote: (text) => notes.push(text) });
  expect(readFileSync(request.file).equals(newer)).toBe(true);
  expect(notes.join()).toContain('has changed on the server');
});

test('a file that changes between two attempts of one run is fetched anew', async () => {
  const newer = bytes(content.length);
  server.on('/flips', (q, r, call) =>
    call === 1 ? sendFile(q, r, content, { breakAfter: 50_000 }) : sendFile(q, r, newer),
  );
  const request = ask('/flips');
  await downloadFile(request);
  expect(readFileSync(request.file).equals(newer)).toBe(true);
});

test('a server that ignores If-Range and continues another version is noticed by its ETag', async () => {
  const newer = bytes(content.length);
  server.on('/mixes', (q, r, call) => {
    if (call === 1) return sendFile(q, r, content, { etag: '"a"', breakAfter: 50_000 });
    delete q.headers['if-range'];
    sendFile(q, r, newer, { etag: '"b"' });
  });
  const request = ask('/mixes');
  await downloadFile(request);
  expect(readFileSync(request.file).equals(newer)).toBe(true);
});

test('a server without Range starts from the first byte', async () => {
  server.on('/plain', (q, r, call) =>
    sendFile(q, r, content, { ignoreRange: true, ...(call === 1 ? { breakAfter: 50_000 } : {}) }),
  );
  const request = ask('/plain', good);
  await downloadFile(request);
  expect(readFileSync(request.file).equals(content)).toBe(true);
});

test('without a validator and without a checksum, an old part is not trusted', async () => {
  server.on('/novalidator', (q, r) => sendFile(q, r, content, { etag: 'W/"weak"' }));
  const request = ask('/novalidator');
  writeFileSync(`${request.file}.quest.incomplete`, 'something else');
  await downloadFile(request);
  expect(readFileSync(request.file).equals(content)).toBe(true);
  expect(ranges('/novalidator')).toEqual([undefined]);
});

test('a damaged old part is noticed by the checksum and fetched anew', async () => {
  server.on('/damaged', (q, r) => sendFile(q, r, content));
  const request = ask('/damaged', good);
  writeFileSync(
    `${request.file}.quest.incomplete`,
    Buffer.concat([bytes(1000), content.subarray(1000, 5000)]),
  );
  await downloadFile(request);
  expect(readFileSync(request.file).equals(content)).toBe(true);
  expect(ranges('/damaged')).toEqual(['bytes=5000-', undefined]);
});

test('an old part that is already whole needs no request; one that is too long is dropped', async () => {
  server.on('/parts', (q, r) => sendFile(q, r, content));
  const whole = ask('/parts', good);
  writeFileSync(`${whole.file}.quest.incomplete`, content);
  await downloadFile(whole);
  expect(ranges('/parts')).toEqual([]);
  const long = ask('/parts', good);
  writeFileSync(`${long.file}.quest.incomplete`, Buffer.concat([content, bytes(10)]));
  await downloadFile(long);
  expect(ranges('/parts')).toEqual([undefined]);
});

test('416 for an old part of unknown size: whole when the server says so, else anew', async () => {
  const etag = '"v1"';
  server.on('/416', (q, r) => sendFile(q, r, content, { etag, breakAfter: 100_000 }));
  const request = ask('/416', { policy: { ...QUICK, attempts: 1 } });
  await failure(request);
  writeFileSync(`${request.file}.quest.incomplete`, content);
  await downloadFile(request);
  expect(readFileSync(request.file).equals(content)).toBe(true);

  const shrunk = content.subarray(0, 200_000);
  server.on('/416', (q, r) => sendFile(q, r, content, { etag, breakAfter: 250_000 }));
  const other = ask('/416', { policy: { ...QUICK, attempts: 1 } });
  await failure(other);
  server.on('/416', (q, r) => sendFile(q, r, shrunk, { etag }));
  await downloadFile(other);
  expect(readFileSync(other.file).equals(shrunk)).toBe(true);
});

test('206 with another part than asked for is not appended', async () => {
  server.on('/wrongpart', (q, r, call) => {
    if (call === 1) return sendFile(q, r, content, { breakAfter: 50_000 });
    if (call === 2) {
      r.writeHead(206, { 'content-range': `bytes 10-299999/300000`, 'content-length': '299990' });
      return void r.end(content.subarray(10));
    }
    sendFile(q, r, content);
  });
  const request = ask('/wrongpart');
  await downloadFile(request);
  expect(readFileSync(request.file).equals(content)).toBe(true);
});

test('206 without having asked for a part ends after a few tries', async () => {
  server.on('/always206', (_q, r) => {
    r.writeHead(206, { 'content-range': 'bytes 5-9/10', 'content-length': '5' }).end('abcde');
  });
  const error = await failure(ask('/always206'));
  expect(error.message).toContain('another part than asked for');
});

test('wrong sizes: offered too small, too large, cut short, too much', async () => {
  server.on('/size', (q, r) => sendFile(q, r, content));
  for (const size of [content.length - 1, content.length + 1]) {
    const error = await failure(ask('/size', { size }));
    expect(error.code).toBe('E_SIZE');
    expect(error.message).toContain(`offers ${content.length} bytes, but the file should have ${size}`);
  }
  // Content-Length says more than comes.
  server.on('/short', (_q, r) => {
    r.writeHead(200, { 'content-length': '1000' });
    r.write(Buffer.alloc(900), () => setTimeout(() => r.destroy(), 10));
  });
  expect((await failure(ask('/short'))).message).toMatch(/connection broke|900 of 1000/);
  // More comes than was said; the surplus is cut off or refused, never kept.
  server.on('/long', (_q, r) => {
    r.writeHead(200, { 'content-length': '1000' });
    r.end(Buffer.alloc(1500));
  });
  const long = ask('/long', { size: 1000 });
  await downloadFile(long).then(
    () => expect(statSync(long.file).size).toBe(1000),
    (error) => expect(error).toBeInstanceOf(QuestError),
  );
  server.on('/surplus', (_q, r) => {
    r.writeHead(200);
    r.end(content);
  });
  const error = await failure(ask('/surplus', { size: 1000 }));
  expect(error.message).toContain('more than the 1000 bytes that the file should have');
  expect(error.code).toBe('E_SIZE');
});

test('an endless body stops at the limit', async () => {
  server.on('/endless', (_q, r) => {
    r.writeHead(200);
    const pump = () => {
      while (!r.destroyed && r.write(Buffer.alloc(65_536)));
      if (!r.destroyed) r.once('drain', pump);
    };
    pump();
  });
  const request = ask('/endless', { maxBytes: 1_000_000 });
  expect((await failure(request)).message).toContain('more than the 1000000 bytes');
  expect(leftovers(request)).toEqual([]);
});

test('a login page in place of the rest does not cost what has arrived', async () => {
  server.on('/portal', (q, r, call) => {
    if (call === 1) return sendFile(q, r, content, { breakAfter: 100_000 });
    r.writeHead(200, { 'content-type': 'text/html', 'content-length': '12' }).end('please login');
  });
  const request = ask('/portal', good);
  expect((await failure(request)).code).toBe('E_SIZE');
  expect(statSync(`${request.file}.quest.incomplete`).size).toBeGreaterThan(0);
});

test('wrong bytes are refused and thrown away', async () => {
  server.on('/wrong', (q, r) => sendFile(q, r, bytes(content.length)));
  const request = ask('/wrong', good);
  const error = await failure(request);
  expect(error.code).toBe('E_CHECKSUM');
  expect(error.message).toContain(good.checksum.hex);
  expect(leftovers(request)).toEqual([]);
});

test('a compressed answer is refused', async () => {
  server.on('/gzip', (q, r) => sendFile(q, r, content, { headers: { 'content-encoding': 'br' } }));
  expect((await failure(ask('/gzip'))).message).toContain('compresses the file (br)');
});

test('a disk that is too small is noticed before the first byte', async () => {
  server.on('/huge', (_q, r) => {
    r.writeHead(200, { 'content-length': String(2 ** 52) });
    r.write('x');
  });
  const error = await failure(ask('/huge', { maxBytes: 2 ** 53 }));
  expect(error.code).toBe('E_DISK');
  expect(error.message).toMatch(/needs 4503599.6 GB more; .* has [\d.]+ GB free/);
});

test('a place that cannot be written to gives one clear error', async () => {
  server.on('/whole2', (q, r) => sendFile(q, r, content));
  const folder = tempFolder();
  writeFileSync(join(folder, 'file'), '');
  const error = await downloadFile(ask('/whole2', { file: join(folder, 'file', 'x') })).catch(
    (e: unknown) => e,
  );
  expect((error as QuestError).code).toBe('E_DISK');
});

test('an abort keeps the part and throws the reason', async () => {
  server.on('/abort', (q, r) => sendFile(q, r, content, { etag: '"v"', slow: { bytes: 10_000, ms: 5 } }));
  const controller = new AbortController();
  const request = ask('/abort', {
    signal: controller.signal,
    onProgress: (have) => {
      if (have >= 50_000) controller.abort(new QuestError('E_INTERRUPTED', 'interrupted', { exitCode: 130 }));
    },
  });
  await expect(downloadFile(request)).rejects.toMatchObject({ code: 'E_INTERRUPTED' });
  expect(statSync(`${request.file}.quest.incomplete`).size).toBeGreaterThanOrEqual(50_000);
  expect(existsSync(`${request.file}.lock`)).toBe(false);
  await downloadFile({ ...request, signal: undefined, onProgress: undefined });
  expect(readFileSync(request.file).equals(content)).toBe(true);
});

test('silence is given up on, before and within the body', async () => {
  server.on('/hang', () => {});
  const before = await failure(ask('/hang', { stallMs: 60, policy: { ...QUICK, attempts: 2 } }));
  expect(before.message).toContain('silent for 0.1 s');
  server.on('/hang2', (q, r, call) => {
    if (call > 1) return sendFile(q, r, content, { etag: '"v"' });
    r.writeHead(200, { 'content-length': String(content.length), etag: '"v"' });
    r.write(content.subarray(0, 1000));
  });
  const request = ask('/hang2', { stallMs: 100 });
  await downloadFile(request);
  expect(ranges('/hang2')).toEqual([undefined, 'bytes=1000-']);
});

test('two downloads of one file at once: one asks, the other waits and finds it', async () => {
  server.on('/twice', (q, r) => sendFile(q, r, content, { slow: { bytes: 60_000, ms: 20 } }));
  const notes: string[] = [];
  const request = ask('/twice', { ...good, onNote: (text) => notes.push(text) });
  const results = await Promise.all([downloadFile(request), downloadFile(request)]);
  expect(results.map((r) => r.sha256).filter(Boolean)).toHaveLength(1);
  expect(ranges('/twice')).toHaveLength(1);
  expect(notes.join()).toContain(`process ${process.pid} is downloading`);
});
