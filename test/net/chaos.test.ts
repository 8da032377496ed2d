/** Any mix of misbehaviour ends in the right file or in one of our errors, never in a wrong file. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { QuestError } from '../../src/errors.js';
import { downloadFile } from '../../src/net/download.js';
import { randomNumbers } from '../support/random_model.js';
import {
  bytes,
  type Handler,
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

const SIZE = 60_000;
const RUNS = 60;

/** Fails in a way that a server with a truthful ETag may fail. */
function honestFault(dice: () => number, content: Buffer, etag: string): Handler {
  const breakAfter = Math.floor(dice() * content.length);
  const faults: Handler[] = [
    (q, r) => sendFile(q, r, content, { etag }),
    (q, r) => sendFile(q, r, content, { etag, breakAfter }),
    (q, r) => sendFile(q, r, content, { etag, breakAfter, ignoreRange: true }),
    (q, r) => sendFile(q, r, content, { etag, ignoreRange: true }),
    (_q, r) => void r.writeHead(503, { 'retry-after': '0' }).end(),
    (_q, r) => void r.destroy(),
  ];
  return faults[Math.floor(dice() * faults.length)]!;
}

/** Lies that only a checksum finds. */
function lie(dice: () => number, content: Buffer): Handler {
  const wrong = Buffer.from(content);
  wrong[Math.floor(dice() * wrong.length)]! ^= 1;
  const lies: Handler[] = [
    (q, r) => sendFile(q, r, wrong, { etag: '"v1"', breakAfter: Math.floor(dice() * SIZE) }),
    (q, r) => sendFile(q, r, wrong, { etag: '"v1"' }),
    (q, r) => sendFile(q, r, content.subarray(0, SIZE - 7), { etag: '"v1"' }),
    (_q, r) => {
      r.writeHead(206, { 'content-range': `bytes 0-9/${SIZE}` });
      r.end(wrong.subarray(0, 10));
    },
    (_q, r) => {
      r.writeHead(200);
      r.end(Buffer.concat([content, wrong]));
    },
  ];
  return lies[Math.floor(dice() * lies.length)]!;
}

const unit = (seed: number) => {
  const next = randomNumbers(seed);
  for (let i = 0; i < 8; i++) next();
  return () => (next() + 1) / 2;
};

test(`${RUNS} servers that break and lie, with a checksum`, async () => {
  const content = bytes(SIZE);
  const wanted = { size: SIZE, checksum: { kind: 'sha256', hex: sha256(content) } } as const;
  let [worked, failed] = [0, 0];
  for (let seed = 0; seed < RUNS; seed++) {
    const dice = unit(seed);
    const url = `${server.url}/chaos${seed}`;
    server.on(`/chaos${seed}`, (q, r, call) =>
      (dice() < 0.25 ? lie(dice, content) : honestFault(dice, content, '"v1"'))(q, r, call),
    );
    const file = join(tempFolder(), 'f');
    const result = await downloadFile({ url, file, policy: QUICK, ...wanted }).catch((e: unknown) => e);
    if (result instanceof Error) {
      failed++;
      expect(result).toBeInstanceOf(QuestError);
      expect(existsSync(file)).toBe(false);
      // Whatever was left, a healthy server makes it whole.
      server.on(`/chaos${seed}`, (q, r) => sendFile(q, r, content, { etag: '"v1"' }));
      await downloadFile({ url, file, policy: QUICK, ...wanted });
    } else worked++;
    expect(readFileSync(file).equals(content)).toBe(true);
    expect(readdirSync(join(file, '..'))).toEqual(['f']);
  }
  expect(worked).toBeGreaterThan(5);
  expect(failed).toBeGreaterThan(5);
});

test(`${RUNS} servers whose file changes under way, without a checksum: one version or the other, never a mix`, async () => {
  const versions = [bytes(SIZE), bytes(SIZE - 1000), bytes(SIZE)];
  let worked = 0;
  for (let seed = 0; seed < RUNS; seed++) {
    const dice = unit(1000 + seed);
    const url = `${server.url}/flux${seed}`;
    let version = 0;
    server.on(`/flux${seed}`, (q, r, call) => {
      if (dice() < 0.3) version = Math.floor(dice() * versions.length);
      honestFault(dice, versions[version]!, `"v${version}"`)(q, r, call);
    });
    const file = join(tempFolder(), 'f');
    for (let run = 0; run < 3 && !existsSync(file); run++)
      await downloadFile({ url, file, policy: QUICK }).catch((error: unknown) => {
        expect(error).toBeInstanceOf(QuestError);
      });
    if (!existsSync(file)) continue;
    worked++;
    const got = readFileSync(file);
    expect(versions.some((content) => content.equals(got))).toBe(true);
  }
  expect(worked).toBeGreaterThan(RUNS / 2);
});
