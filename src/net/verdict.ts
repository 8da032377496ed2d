/** What a server's answer to "the bytes from here on" means, before its body is read. */
import { QuestError } from '../errors.js';
import type { DownloadRequest } from './download.js';
import { shownUrl } from './errors.js';
import { type Answer, statusError } from './http.js';

/** Largest file accepted where no limit is given. */
export const MAX_BYTES = 2 ** 40;

/** Go on, done, or the reason to start anew. Throws what is final. */
export function judge(
  answer: Answer,
  request: DownloadRequest,
  partial: { readonly bytes: number; readonly etag: string | undefined },
): 'append' | 'complete' | (string & {}) {
  const { status, headers } = answer;
  const offset = partial.bytes;
  const encoding = headers.get('content-encoding');
  if ((status === 200 || status === 206) && encoding !== null && encoding !== 'identity') {
    answer.close();
    throw lies(request.url, `the server compresses the file (${encoding}) although it was asked not to`);
  }
  if (status === 200) {
    if (offset === 0) return 'append';
    const etag = headers.get('etag');
    return partial.etag !== undefined && etag !== partial.etag
      ? 'the file has changed on the server'
      : 'the server cannot resume';
  }
  if (status === 206) {
    const range = parseContentRange(headers.get('content-range'));
    if (offset === 0 || range === undefined || range.start !== offset)
      return 'the server sent another part than asked for';
    const etag = headers.get('etag');
    if (partial.etag !== undefined && etag !== null && etag !== partial.etag)
      return 'the file has changed on the server';
    return 'append';
  }
  if (status === 416 && offset > 0) {
    const total = /^bytes \*\/(\d+)$/.exec(headers.get('content-range') ?? '')?.[1];
    answer.close();
    if (request.size === undefined && total !== undefined && Number(total) === offset) return 'complete';
    return 'the server has fewer bytes than an earlier try left';
  }
  throw statusError(answer, request.url);
}

interface ContentRange {
  start: number;
  total: number | undefined;
}

function parseContentRange(value: string | null): ContentRange | undefined {
  const found = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(value ?? '');
  if (found === null) return undefined;
  return { start: Number(found[1]), total: found[2] === '*' ? undefined : Number(found[2]) };
}

/**
 * The file's length, as far as it is known before the body comes. Throws E_SIZE when the server offers another file:
 * a login page in place of the file must not cost what has arrived.
 */
export function totalSize(
  answer: Answer,
  { url, size, maxBytes = MAX_BYTES }: DownloadRequest,
): number | undefined {
  const { status, headers } = answer;
  const length = headers.get('content-length') ?? '';
  let announced: number | undefined;
  if (status === 206) announced = parseContentRange(headers.get('content-range'))?.total;
  else if (status === 200 && /^\d+$/.test(length)) announced = Number(length);
  const refuse = (what: string): never => {
    answer.close();
    throw wrongSize(url, what);
  };
  if (size !== undefined && announced !== undefined && announced !== size)
    refuse(`the server offers ${announced} bytes, but the file should have ${size}`);
  const total = size ?? announced;
  if (total !== undefined && total > maxBytes)
    refuse(`the server offers ${total} bytes; at most ${maxBytes} are accepted`);
  return total;
}

export const wrongSize = (url: string, what: string): QuestError =>
  new QuestError('E_SIZE', `${shownUrl(url)}: ${what}`, {
    hint: 'the server or a proxy gives something else; try again later or from another mirror',
    exitCode: 3,
  });

export const lies = (url: string, what: string): QuestError =>
  new QuestError('E_DOWNLOAD', `${shownUrl(url)}: ${what}`, {
    hint: 'try again later or from another mirror',
    exitCode: 3,
  });
