/** Small documents: read whole, bounded, with retries. */
import { QuestError } from '../errors.js';
import { shownUrl } from './errors.js';
import { type GetOptions, get, statusError } from './http.js';
import { type RetryPolicy, withRetries } from './retry.js';

/** Reads a whole small document, with retries. */
async function getText(
  url: string,
  options: GetOptions & { maxBytes: number; policy?: RetryPolicy },
): Promise<string> {
  return withRetries({
    url,
    policy: options.policy,
    signal: options.signal,
    run: async () => {
      const answer = await get(url, options);
      if (answer.status !== 200) throw statusError(answer, url);
      const chunks: Uint8Array[] = [];
      let bytes = 0;
      for await (const chunk of answer.body) {
        bytes += chunk.length;
        if (bytes > options.maxBytes) {
          throw new QuestError('E_DOWNLOAD', `${shownUrl(url)} sends more than ${options.maxBytes} bytes`, {
            hint: 'the server does not answer as expected; try another mirror',
            exitCode: 3,
          });
        }
        chunks.push(chunk);
      }
      return Buffer.concat(chunks).toString('utf8');
    },
  });
}

/** Reads a JSON document, with retries. Its shape is the caller's to check. */
export async function getJson(
  url: string,
  options: GetOptions & { maxBytes?: number; policy?: RetryPolicy } = {},
): Promise<unknown> {
  const text = await getText(url, { maxBytes: 64 * 2 ** 20, ...options });
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new QuestError('E_DOWNLOAD', `${shownUrl(url)} does not answer with JSON`, {
      hint: 'a login page or a proxy may stand between; open the address in a browser',
      exitCode: 3,
      cause,
    });
  }
}
