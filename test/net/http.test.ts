import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { QuestError } from '../../src/errors.js';
import { getJson } from '../../src/net/documents.js';
import { downloadFile } from '../../src/net/download.js';
import { HttpStatusError, shownUrl } from '../../src/net/errors.js';
import { parseRetryAfter, waitMs } from '../../src/net/retry.js';
import { bytes, QUICK, sendFile, startServer, type TestServer, tempFolder } from './server.js';

let server: TestServer;
let other: TestServer;
beforeAll(async () => {
  server = await startServer();
  other = await startServer(); // another port is another origin
});
afterAll(() => Promise.all([server.close(), other.close()]));

const content = bytes(5000);

async function failure(path: string, more: object = {}): Promise<QuestError> {
  const url = path.startsWith('/') ? server.url + path : path;
  const error = await downloadFile({ url, file: join(tempFolder(), 'f'), policy: QUICK, ...more }).catch(
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(QuestError);
  expect((error as QuestError).hint).toBeTruthy();
  expect((error as QuestError).exitCode).toBe(3);
  return error as QuestError;
}

test('redirects are followed, relative ones too, and the login stays with its own origin', async () => {
  server.on('/a/start', (_q, r) => void r.writeHead(302, { location: '../b/next?x=1' }).end('moved'));
  server.on('/b/next', (_q, r) => void r.writeHead(307, { location: `${other.url}/file` }).end());
  other.on('/file', (q, r) => sendFile(q, r, content));
  const file = join(tempFolder(), 'f');
  const headers = { 'x-mine': 'yes' };
  await downloadFile({ url: `${server.url}/a/start`, file, authorization: 'Bearer secret', headers });
  expect(readFileSync(file).equals(content)).toBe(true);
  expect(server.seen.slice(-2).map((s) => s.headers.authorization)).toEqual([
    'Bearer secret',
    'Bearer secret',
  ]);
  expect(other.seen.at(-1)!.headers.authorization).toBeUndefined();
});

test('a resumed download goes through the redirect again, with its range', async () => {
  server.on('/r', (_q, r) => void r.writeHead(302, { location: `${other.url}/broken` }).end());
  other.on('/broken', (q, r, call) => sendFile(q, r, content, call === 1 ? { breakAfter: 2000 } : {}));
  const file = join(tempFolder(), 'f');
  await downloadFile({ url: `${server.url}/r`, file, policy: QUICK });
  expect(readFileSync(file).equals(content)).toBe(true);
});

test.each([
  ['file:///etc/passwd', 'file:///etc/passwd, which is refused'],
  ['ftp://127.0.0.1/x', 'ftp://127.0.0.1/x, which is refused'],
  ['data:text/plain,hi', 'which is refused'],
  ['http://', 'is no URL'],
])('a redirect to %s is not followed', async (location, message) => {
  server.on('/scheme', (_q, r) => void r.writeHead(302, { location }).end());
  const error = await failure('/scheme');
  expect(error.code).toBe('E_URL');
  expect(error.message).toContain(message);
});

test('addresses that are none, and redirects in circles', async () => {
  expect((await failure('file:///etc/passwd')).code).toBe('E_URL');
  expect((await failure('nonsense')).code).toBe('E_URL');
  server.on('/circle', (_q, r) => void r.writeHead(301, { location: '/circle' }).end());
  expect((await failure('/circle')).message).toContain('redirects more than 10 times');
});

test.each([
  [400, 'the request was refused'],
  [401, 'it asks for a login'],
  [403, 'access is denied'],
  [404, 'there is no such file'],
  [410, 'the file is gone'],
  [418, 'an unexpected answer'],
  [304, 'an unexpected answer'],
])('status %i is final', async (status, meaning) => {
  server.on('/final', (_q, r) => void r.writeHead(status).end());
  const before = server.seen.length;
  const error = await failure('/final');
  expect(error).toBeInstanceOf(HttpStatusError);
  expect(error.message).toBe(`${server.url}/final answers with status ${status}: ${meaning}`);
  expect(server.seen.length - before).toBe(1);
});

test.each([408, 429, 500, 502, 503, 504])('status %i is tried again', async (status) => {
  server.on('/busy', (q, r, call) =>
    call < 3 ? void r.writeHead(status).end('busy') : sendFile(q, r, content),
  );
  const file = join(tempFolder(), 'f');
  await downloadFile({ url: `${server.url}/busy`, file, policy: QUICK });
  expect(readFileSync(file).equals(content)).toBe(true);
});

test('a server that stays busy is given up on', async () => {
  server.on('/busy', (_q, r) => void r.writeHead(503).end());
  const before = server.seen.length;
  expect((await failure('/busy')).message).toContain('status 503: the server is in trouble');
  expect(server.seen.length - before).toBe(QUICK.attempts);
});

test('Retry-After is waited for, and too long a wait is refused at once', async () => {
  const times: number[] = [];
  server.on('/wait', (q, r, call) => {
    times.push(performance.now());
    if (call === 1) return void r.writeHead(429, { 'retry-after': '0.2' }).end();
    sendFile(q, r, content);
  });
  await downloadFile({ url: `${server.url}/wait`, file: join(tempFolder(), 'f'), policy: QUICK });
  expect(times[1]! - times[0]!).toBeGreaterThan(190);
  server.on('/wait', (_q, r) => void r.writeHead(429, { 'retry-after': '3600' }).end());
  expect((await failure('/wait')).message).toContain('asks to come back in 60 minutes');
});

test('nobody there: told soon, with a hint', async () => {
  const gone = await startServer();
  await gone.close();
  const error = await failure(`${gone.url}/x`);
  expect(error.code).toBe('E_OFFLINE');
  expect(error.message).toBe(`cannot reach ${gone.url}/x: the connection was refused`);
  expect(error.hint).toContain('check the network connection');
});

test('JSON: retried, bounded, and checked to be JSON', async () => {
  server.on('/json', (_q, r, call) => void (call === 1 ? r.destroy() : r.end('{"a":1}')));
  expect(await getJson(`${server.url}/json`, { policy: QUICK })).toEqual({ a: 1 });
  server.on('/html', (_q, r) => void r.end('<html>please login</html>'));
  await expect(getJson(`${server.url}/html`)).rejects.toMatchObject({ code: 'E_DOWNLOAD' });
  server.on('/big', (_q, r) => void r.end(`"${'x'.repeat(10_000)}"`));
  await expect(getJson(`${server.url}/big`, { maxBytes: 1000 })).rejects.toThrow('more than 1000 bytes');
});

test('waits grow, are spread out, and have an end', () => {
  const policy = { ...QUICK, firstWaitMs: 500, maxWaitMs: 30_000 };
  expect([1, 2, 3, 10].map((n) => waitMs(policy, n, 0.5))).toEqual([500, 1000, 2000, 30_000]);
  expect(waitMs(policy, 1, 0)).toBe(400);
  expect(waitMs(policy, 1, 1)).toBe(600);
});

test('Retry-After is a number of seconds or a date', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');
  expect(parseRetryAfter('7', now)).toBe(7000);
  expect(parseRetryAfter('Thu, 01 Jan 2026 00:00:30 GMT', now)).toBe(30_000);
  expect(parseRetryAfter('Wed, 31 Dec 2025 23:59:00 GMT', now)).toBe(0);
  expect(parseRetryAfter('soon', now)).toBeUndefined();
  expect(parseRetryAfter(null, now)).toBeUndefined();
});

test('messages show no secrets of an address', () => {
  expect(shownUrl('https://me:pass@host.org:8443/a/b?sig=secret#x')).toBe('https://host.org:8443/a/b');
});
