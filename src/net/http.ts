/** One GET: redirects under our own rules, a watch against silence, and which answers are worth another try. */
import { QuestError } from '../errors.js';
import { HttpStatusError, networkError, shownUrl, TransientError } from './errors.js';
import { parseRetryAfter } from './retry.js';

export interface GetOptions {
  headers?: Readonly<Record<string, string>>;
  /** Value of the Authorization header; goes to the URL's own origin only, never along a redirect to another. */
  authorization?: string;
  signal?: AbortSignal;
  /** Give up on a connection that is silent for this long. */
  stallMs?: number;
}

export interface Answer {
  status: number;
  headers: Headers;
  /** Chunks as they arrive; leaving the loop early closes the connection. */
  body: AsyncIterable<Uint8Array>;
  /** Closes the connection without reading on. */
  close(): void;
}

export const STALL_MS = 60_000;
const MAX_REDIRECTS = 10;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
const BUSY = new Set([408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529]);
/** Headers that say why; the hub's own are among them. */
const TELLING = ['x-error-code', 'x-error-message', 'www-authenticate'];

function checkedUrl(text: string, from: string | undefined): URL {
  const shown = from === undefined ? JSON.stringify(text) : `${shownUrl(from)} redirects to`;
  let url: URL;
  try {
    url = new URL(text, from);
  } catch {
    throw new QuestError(
      'E_URL',
      `${shown}${from === undefined ? '' : ` ${JSON.stringify(text)},`} is no URL`,
      {
        hint: 'give an address that starts with https://',
        exitCode: 3,
      },
    );
  }
  const downgrade = from?.startsWith('https:') === true && url.protocol === 'http:';
  if ((url.protocol !== 'https:' && url.protocol !== 'http:') || downgrade) {
    throw new QuestError(
      'E_URL',
      `${from === undefined ? '' : `${shown} `}${shownUrl(url.href)}, which is refused`,
      {
        hint: downgrade
          ? 'a server must not lead from https to http; try another mirror'
          : 'only https:// and http:// are followed; try another mirror',
        exitCode: 3,
      },
    );
  }
  return url;
}

/** Aborts a connection that is silent for too long, or when the caller's signal fires. */
function watch(signal: AbortSignal | undefined, stallMs: number) {
  const controller = new AbortController();
  const onAbort = () => controller.abort(signal?.reason);
  if (signal?.aborted) onAbort();
  else signal?.addEventListener('abort', onAbort, { once: true });
  const stalled = () =>
    controller.abort(new TransientError(`the server was silent for ${Math.round(stallMs / 100) / 10} s`));
  let timer = setTimeout(stalled, stallMs);
  return {
    signal: controller.signal,
    touch() {
      clearTimeout(timer);
      timer = setTimeout(stalled, stallMs);
    },
    stop() {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    },
    close(this: void) {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      controller.abort();
    },
  };
}

/** What an aborted fetch throws hides why it was aborted. */
const reasonOf = (error: unknown, signal: AbortSignal): unknown =>
  signal.aborted && signal.reason instanceof Error ? signal.reason : error;

async function* watched(
  body: ReadableStream<Uint8Array> | null,
  url: string,
  dog: ReturnType<typeof watch>,
): AsyncGenerator<Uint8Array> {
  let finished = false;
  try {
    if (body !== null) {
      for await (const chunk of body as unknown as AsyncIterable<Uint8Array>) {
        dog.touch();
        yield chunk;
        dog.touch(); // a slow disk is not the server's silence
      }
    }
    finished = true;
  } catch (error) {
    throw networkError(reasonOf(error, dog.signal), url);
  } finally {
    if (finished) dog.stop();
    else dog.close();
  }
}

/** Sends one GET and follows redirects. Throws TransientError where another try makes sense. */
export async function get(start: string, options: GetOptions = {}): Promise<Answer> {
  let url = checkedUrl(start, undefined);
  const { origin } = url;
  const dog = watch(options.signal, options.stallMs ?? STALL_MS);
  try {
    for (let hops = 0; ; hops++) {
      const headers = new Headers(options.headers);
      headers.set('accept-encoding', 'identity'); // lengths and ranges are those of the file itself
      headers.set('user-agent', 'quest-kv');
      if (options.authorization !== undefined && url.origin === origin)
        headers.set('authorization', options.authorization);
      let response: Response;
      try {
        response = await fetch(url, { headers, redirect: 'manual', signal: dog.signal });
      } catch (error) {
        throw networkError(reasonOf(error, dog.signal), url.href);
      }
      dog.touch();
      const location = response.headers.get('location');
      if (!REDIRECTS.has(response.status) || location === null) {
        return {
          status: response.status,
          headers: response.headers,
          body: watched(response.body as ReadableStream<Uint8Array> | null, url.href, dog),
          close: dog.close,
        };
      }
      await response.body?.cancel();
      if (hops >= MAX_REDIRECTS) {
        throw new QuestError('E_URL', `${shownUrl(start)} redirects more than ${MAX_REDIRECTS} times`, {
          hint: 'the server leads in circles; try another mirror',
          exitCode: 3,
        });
      }
      url = checkedUrl(location, url.href);
    }
  } catch (error) {
    dog.close();
    options.signal?.throwIfAborted();
    throw error;
  }
}

const MEANING: Readonly<Record<number, string>> = {
  400: 'the request was refused',
  401: 'it asks for a login',
  403: 'access is denied',
  404: 'there is no such file',
  410: 'the file is gone',
  416: 'the range was refused',
  429: 'too many requests',
  451: 'it may not be shown for legal reasons',
};

/** An answer that is not the one wanted, as an error: transient for busy servers, final for the others. */
export function statusError(answer: Answer, url: string): TransientError | HttpStatusError {
  answer.close();
  const { status, headers } = answer;
  const meaning = MEANING[status] ?? (status >= 500 ? 'the server is in trouble' : 'an unexpected answer');
  if (BUSY.has(status)) {
    return new TransientError(`status ${status}: ${meaning}`, {
      retryAfterMs: parseRetryAfter(headers.get('retry-after')),
    });
  }
  const details = Object.fromEntries(
    TELLING.map((name) => [name, headers.get(name)]).filter((entry) => entry[1] !== null),
  ) as Record<string, string>;
  return new HttpStatusError(
    status,
    url,
    details,
    `${shownUrl(url)} answers with status ${status}: ${meaning}`,
    status === 401 || status === 403
      ? 'check that you may read it, and the token if one is needed'
      : 'check the address; the file may have moved',
  );
}
