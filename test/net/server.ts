/** A server on 127.0.0.1 that behaves as badly as a test asks. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RetryPolicy } from '../../src/net/retry.js';

export type Handler = (request: IncomingMessage, response: ServerResponse, call: number) => void;

export interface Seen {
  path: string;
  headers: IncomingMessage['headers'];
}

export interface TestServer {
  url: string;
  /** Every request that came, in order. */
  seen: Seen[];
  /** Sets what a path answers; `call` counts from 1 for each path. */
  on(path: string, handler: Handler): void;
  close(): Promise<void>;
}

export async function startServer(): Promise<TestServer> {
  const handlers = new Map<string, Handler>();
  const calls = new Map<string, number>();
  const seen: Seen[] = [];
  const server: Server = createServer((request, response) => {
    const path = request.url ?? '';
    seen.push({ path, headers: request.headers });
    const handler = handlers.get(path) ?? handlers.get(path.split('?')[0]!);
    if (handler === undefined) {
      response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end('no');
      return;
    }
    const call = (calls.get(path) ?? 0) + 1;
    calls.set(path, call);
    handler(request, response, call);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    on: (path, handler) => {
      handlers.set(path, handler);
      calls.delete(path);
    },
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

export interface FileOptions {
  etag?: string;
  /** Breaks the connection after this many bytes of the body. */
  breakAfter?: number;
  ignoreRange?: boolean;
  headers?: Record<string, string>;
  /** Bytes per write and the pause between them. */
  slow?: { bytes: number; ms: number };
}

/** Serves bytes as a well-behaved server does: Range, If-Range, ETag; then as badly as asked. */
export function sendFile(
  request: IncomingMessage,
  response: ServerResponse,
  content: Buffer,
  options: FileOptions = {},
): void {
  const etag = options.etag ?? `"${createHash('md5').update(content).digest('hex')}"`;
  const found = /^bytes=(\d+)-$/.exec(request.headers.range ?? '');
  const ifRange = request.headers['if-range'];
  const useRange =
    found !== null && options.ignoreRange !== true && (ifRange === undefined || ifRange === etag);
  const start = useRange ? Number(found[1]) : 0;
  if (useRange && start >= content.length) {
    response.writeHead(416, { 'content-range': `bytes */${content.length}` }).end();
    return;
  }
  const body = content.subarray(start);
  response.writeHead(useRange ? 206 : 200, {
    etag,
    'content-length': String(body.length),
    ...(useRange
      ? { 'content-range': `bytes ${start}-${content.length - 1}/${content.length}` }
      : { 'accept-ranges': 'bytes' }),
    ...options.headers,
  });
  const { breakAfter, slow } = options;
  if (slow !== undefined) {
    let at = 0;
    const timer = setInterval(() => {
      if (response.destroyed || at >= body.length) {
        clearInterval(timer);
        response.end();
        return;
      }
      response.write(body.subarray(at, at + slow.bytes));
      at += slow.bytes;
    }, slow.ms);
    return;
  }
  if (breakAfter !== undefined && breakAfter < body.length) {
    response.write(body.subarray(0, breakAfter), () => setTimeout(() => response.destroy(), 20));
    return;
  }
  response.end(body);
}

/** Retries without the long waits. */
export const QUICK: RetryPolicy = {
  attempts: 4,
  unreachableAttempts: 2,
  firstWaitMs: 2,
  maxWaitMs: 10,
  maxRetryAfterMs: 2000,
};

export const bytes = (count: number): Buffer => randomBytes(count);
export const sha256 = (content: Uint8Array): string => createHash('sha256').update(content).digest('hex');
export const md5 = (content: Uint8Array): string => createHash('md5').update(content).digest('hex');
export const gitSha1 = (content: Uint8Array): string =>
  createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex');

/** A folder that is gone when the process ends. */
export function tempFolder(): string {
  if (folders.length === 0) {
    process.on('exit', () => {
      for (const folder of folders) rmSync(folder, { recursive: true, force: true });
    });
  }
  const folder = mkdtempSync(join(tmpdir(), 'quest-net-'));
  folders.push(folder);
  return folder;
}
const folders: string[] = [];
