import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { lockFile } from '../../src/net/lock.js';
import { createMeter, forEachLimited } from '../../src/net/parallel.js';
import { bytes, sendFile, sha256, startServer, type TestServer, tempFolder } from './server.js';

const dist = new URL('../../dist/src/net/download.js', import.meta.url);

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server.close());

test('a lock is exclusive, waited for, and given back', async () => {
  const file = join(tempFolder(), 'sub', 'x.lock');
  const order: string[] = [];
  const release = await lockFile(file);
  await expect(lockFile(file, { wait: false })).rejects.toMatchObject({
    code: 'E_LOCKED',
    message: `${file} is held by process ${process.pid}`,
  });
  const second = lockFile(file, { pollMs: 5, onWait: (holder) => order.push(holder) }).then((r) => {
    order.push('second');
    return r;
  });
  await sleep(40);
  order.push('released');
  await release();
  await (await second)();
  expect(order).toEqual([`process ${process.pid}`, 'released', 'second']);
  expect(readdirSync(join(file, '..'))).toEqual([]);
});

test('a waiting process can be interrupted', async () => {
  const file = join(tempFolder(), 'x.lock');
  const release = await lockFile(file);
  const controller = new AbortController();
  const waiting = lockFile(file, { signal: controller.signal, pollMs: 1000 });
  controller.abort(new Error('enough'));
  await expect(waiting).rejects.toThrow('enough');
  await release();
});

test('the lock of a dead process is taken over, by one of many', async () => {
  const file = join(tempFolder(), 'x.lock');
  writeFileSync(file, JSON.stringify({ pid: 2 ** 22 + 1, host: hostname(), started: '1', id: 'dead' }));
  let inside = 0;
  let most = 0;
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      const release = await lockFile(file, { pollMs: 2 });
      most = Math.max(most, ++inside);
      await sleep(5);
      inside--;
      await release();
    }),
  );
  expect(most).toBe(1);
  expect(existsSync(file)).toBe(false);
});

test('a reused process id does not keep a lock', async () => {
  const file = join(tempFolder(), 'x.lock');
  writeFileSync(file, JSON.stringify({ pid: process.pid, host: hostname(), started: '1', id: 'old' }));
  await (await lockFile(file, { wait: false }))();
});

test('a holder elsewhere counts as alive while it beats, and as dead after a long silence', async () => {
  const file = join(tempFolder(), 'x.lock');
  for (const content of [JSON.stringify({ pid: 1, host: 'elsewhere', started: '', id: 'e' }), 'torn {']) {
    writeFileSync(file, content);
    let beat = 1;
    const timer = setInterval(() => utimesSync(file, beat, beat++), 10);
    const started = performance.now();
    const waiting = lockFile(file, { pollMs: 5, silentMs: 100 });
    await sleep(250);
    expect(readFileSync(file, 'utf8')).toBe(content);
    clearInterval(timer);
    await (await waiting)();
    expect(performance.now() - started).toBeGreaterThan(300);
  }
});

function spawnDownload(url: string, file: string) {
  const code = `import { downloadFile } from ${JSON.stringify(dist.href)};
    const r = await downloadFile(${JSON.stringify({ url, file })});
    process.stdout.write(JSON.stringify(r));`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let out = '';
  let err = '';
  child.stdout.on('data', (d) => {
    out += d;
  });
  child.stderr.on('data', (d) => {
    err += d;
  });
  const done = new Promise<{ code: number | null; out: string; err: string }>((resolve) =>
    child.on('close', (status) => resolve({ code: status, out, err })),
  );
  return { child, done };
}

test.skipIf(!existsSync(dist))('kill -9 in the middle, then the next process resumes', async () => {
  const content = bytes(400_000);
  server.on('/kill', (q, r) => sendFile(q, r, content, { etag: '"k"', slow: { bytes: 10_000, ms: 10 } }));
  const file = join(tempFolder(), 'model.bin');
  const first = spawnDownload(`${server.url}/kill`, file);
  const part = `${file}.quest.incomplete`;
  while (!existsSync(part) || statSync(part).size < 100_000) await sleep(5);
  first.child.kill('SIGKILL');
  await first.done;
  expect(existsSync(file)).toBe(false);
  expect(existsSync(`${file}.lock`)).toBe(true);
  const kept = statSync(part).size;
  server.on('/kill', (q, r) => sendFile(q, r, content, { etag: '"k"' }));
  const second = await spawnDownload(`${server.url}/kill`, file).done;
  expect(second.err).toBe('');
  expect(JSON.parse(second.out)).toEqual({
    bytes: content.length,
    sha256: sha256(content),
    resumedFrom: kept,
  });
  expect(readFileSync(file).equals(content)).toBe(true);
  expect(readdirSync(join(file, '..'))).toEqual(['model.bin']);
});

test.skipIf(!existsSync(dist))('two processes at once fetch a file once', async () => {
  const content = bytes(300_000);
  server.on('/both', (q, r) => sendFile(q, r, content, { slow: { bytes: 10_000, ms: 10 } }));
  const file = join(tempFolder(), 'model.bin');
  const runs = await Promise.all([1, 2, 3].map(() => spawnDownload(`${server.url}/both`, file).done));
  expect(runs.map((r) => r.code)).toEqual([0, 0, 0]);
  expect(server.seen.filter((s) => s.path === '/both')).toHaveLength(1);
  expect(readFileSync(file).equals(content)).toBe(true);
});

test('several at once: the limit holds, one failure stops the others', async () => {
  let running = 0;
  let most = 0;
  const done: number[] = [];
  await forEachLimited([...Array(10).keys()], 3, undefined, async (i) => {
    most = Math.max(most, ++running);
    await sleep(3);
    running--;
    done.push(i);
  });
  expect(most).toBe(3);
  expect(done.sort((a, b) => a - b)).toEqual([...Array(10).keys()]);
  let aborted = 0;
  const work = async (i: number, signal: AbortSignal) => {
    if (i === 1) throw new Error('second');
    await sleep(1000, undefined, { signal }).catch(() => aborted++);
  };
  await expect(forEachLimited([0, 1, 2, 3, 4], 3, undefined, work)).rejects.toThrow('second');
  expect(aborted).toBeGreaterThan(0);
  const stop = new AbortController();
  stop.abort(new Error('stopped'));
  await expect(forEachLimited([1], 1, stop.signal, async () => {})).rejects.toThrow('stopped');
});

test('the meter adds up files and counts only what came over the line as speed', async () => {
  const seen: { bytes: number; bytesPerSecond: number }[] = [];
  const meter = createMeter(1000, (p) => seen.push(p));
  meter.update('a', 500, 0);
  await sleep(120);
  meter.update('b', 100, 100);
  meter.update('a', 600, 100);
  expect(seen.map((p) => p.bytes)).toEqual([500, 600, 700]);
  expect(seen[0]!.bytesPerSecond).toBe(0);
  expect(seen.at(-1)!.bytesPerSecond).toBeGreaterThan(200);
  expect(seen.at(-1)!.bytesPerSecond).toBeLessThan(2000);
});
