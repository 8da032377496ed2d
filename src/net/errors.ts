/** What can go wrong between here and a server, as errors that users can act on. */
import { QuestError } from '../errors.js';

/** The server answered, and the answer is final. */
export class HttpStatusError extends QuestError {
  constructor(
    readonly status: number,
    readonly url: string,
    /** Response headers that explain the refusal, lower case. */
    readonly details: Readonly<Record<string, string>>,
    message: string,
    hint: string,
  ) {
    super('E_HTTP', message, { hint, exitCode: 3 });
    this.name = 'HttpStatusError';
  }
}

/** Worth another try: a broken connection, a busy server. Never leaves this room. */
export class TransientError extends Error {
  constructor(
    message: string,
    readonly options: {
      /** What the server asked for in Retry-After. */
      retryAfterMs?: number;
      /** Nothing answered at all: most likely there is no network. */
      unreachable?: boolean;
      cause?: unknown;
    } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = 'TransientError';
  }
}

/** A URL as messages show it: no user, no password, no query (signed links carry secrets there). */
export function shownUrl(url: string): string {
  try {
    const { protocol, host, pathname } = new URL(url);
    return `${protocol}//${host}${pathname}`;
  } catch {
    return JSON.stringify(url);
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOTFOUND: 'the host name cannot be found',
  EAI_AGAIN: 'the name server does not answer',
  ECONNREFUSED: 'the connection was refused',
  ENETUNREACH: 'there is no network',
  EHOSTUNREACH: 'the host cannot be reached',
  ETIMEDOUT: 'the connection timed out',
  UND_ERR_CONNECT_TIMEOUT: 'the connection timed out',
  ECONNRESET: 'the connection was reset',
  EPIPE: 'the connection was closed',
  UND_ERR_SOCKET: 'the connection broke',
};
const UNREACHABLE = new Set([
  'ENOTFOUND',
  'EAI_AGAIN',
  'ECONNREFUSED',
  'ENETUNREACH',
  'EHOSTUNREACH',
  'ETIMEDOUT',
  'UND_ERR_CONNECT_TIMEOUT',
]);
const CERTIFICATE = /CERT|SELF_SIGNED|UNABLE_TO_VERIFY|ERR_TLS|^ERR_SSL/;

/** The first error code along the chain of causes; one of several addresses of a host counts for all. */
function codeOf(error: unknown): string {
  for (let e: unknown = error, depth = 0; e instanceof Error && depth < 8; e = e.cause, depth++) {
    const { code, errors } = e as NodeJS.ErrnoException & { errors?: unknown[] };
    if (typeof code === 'string') return code;
    if (Array.isArray(errors) && errors.length > 0) return codeOf(errors[0]);
  }
  return '';
}

/** What fetch threw, as something to try again or as the final error. */
export function networkError(error: unknown, url: string): TransientError | QuestError {
  if (error instanceof TransientError || error instanceof QuestError) return error;
  const code = codeOf(error);
  const message = error instanceof Error ? error.message : String(error);
  if (CERTIFICATE.test(code)) {
    return new QuestError('E_TLS', `${shownUrl(url)}: the server's certificate is not trusted (${code})`, {
      hint: 'behind a proxy with its own certificates, set NODE_EXTRA_CA_CERTS to their file',
      exitCode: 3,
      cause: error,
    });
  }
  const reason = REASONS[code] ?? (code === '' ? message : `${message} (${code})`);
  return new TransientError(reason, { unreachable: UNREACHABLE.has(code), cause: error });
}

/** What users see when all tries are used up. */
export function givenUp(error: TransientError, url: string, kept: string | undefined): QuestError {
  const unreachable = error.options.unreachable === true;
  const proxy = ['HTTPS_PROXY', 'https_proxy', 'HTTP_PROXY', 'http_proxy'].find((name) => process.env[name]);
  const hints = [
    kept === undefined ? undefined : `what arrived is kept in ${kept}; the same command goes on from there`,
    unreachable && proxy !== undefined
      ? `${proxy} is set: Node uses it only from version 24 on, with NODE_USE_ENV_PROXY=1`
      : undefined,
    kept === undefined ? 'check the network connection and try again' : undefined,
  ].filter((hint) => hint !== undefined);
  return new QuestError(
    unreachable ? 'E_OFFLINE' : 'E_DOWNLOAD',
    `${unreachable ? 'cannot reach' : 'cannot download'} ${shownUrl(url)}: ${error.message}`,
    { hint: hints.join('; '), exitCode: 3, cause: error },
  );
}

const DISK: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  EROFS: 'the file system is read-only',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  ENOTDIR: 'part of the path is a file, not a folder',
  EISDIR: 'a folder of that name is in the way',
};

/** A file system error on the receiving side. */
export function diskError(error: unknown, path: string): QuestError {
  if (error instanceof QuestError) return error;
  const { code = '', message } = error as NodeJS.ErrnoException;
  return new QuestError('E_DISK', `cannot write ${path}: ${DISK[code] ?? message}`, {
    hint: 'free some space or choose another folder; what arrived before is kept',
    exitCode: 3,
    cause: error,
  });
}
