/** Trying again: how often, how long to wait, and what is worth it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { givenUp, networkError, TransientError } from './errors.js';

export interface RetryPolicy {
  /** Tries in a row without progress. */
  attempts: number;
  /** Tries when nothing answers at all and nothing ever did: a machine without network should hear so soon. */
  unreachableAttempts: number;
  firstWaitMs: number;
  maxWaitMs: number;
  /** A server that asks for a longer wait than this is told no. */
  maxRetryAfterMs: number;
}

export const RETRIES: RetryPolicy = {
  attempts: 8, // waits add up to about a minute
  unreachableAttempts: 2,
  firstWaitMs: 500,
  maxWaitMs: 30_000,
  maxRetryAfterMs: 300_000,
};

/** Retry-After in milliseconds: a number of seconds or a date. */
export function parseRetryAfter(value: string | null, now = Date.now()): number | undefined {
  if (value === null) return undefined;
  if (/^\d+(\.\d+)?$/.test(value.trim())) return Math.ceil(Number(value) * 1000);
  const at = Date.parse(value);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}

/** The wait before try number `failures + 1`; spread out so that many clients do not come back together. */
export function waitMs(policy: RetryPolicy, failures: number, random = Math.random()): number {
  const wait = Math.min(policy.maxWaitMs, policy.firstWaitMs * 2 ** (failures - 1));
  return Math.round(wait * (0.8 + 0.4 * random));
}

export interface Attempts<T> {
  url: string;
  policy?: RetryPolicy;
  signal?: AbortSignal;
  /** Where a part of the file is kept, for the message when all tries fail. */
  kept?: () => string | undefined;
  /** Whether the last try got further, so that the count starts anew. */
  progressed?: () => boolean;
  onRetry?: (reason: string, waitMs: number) => void;
  run(): Promise<T>;
}

/** Runs until it works, fails for good, or the tries are used up. */
export async function withRetries<T>(attempts: Attempts<T>): Promise<T> {
  const { url, policy = RETRIES, signal, kept, progressed, onRetry } = attempts;
  let failures = 0;
  let answered = false;
  for (;;) {
    signal?.throwIfAborted();
    try {
      return await attempts.run();
    } catch (thrown) {
      signal?.throwIfAborted();
      const error = networkError(thrown, url);
      if (!(error instanceof TransientError)) throw error;
      const { retryAfterMs, unreachable } = error.options;
      if (!unreachable) answered = true;
      failures = progressed?.() === true ? 1 : failures + 1;
      const limit = unreachable && !answered ? policy.unreachableAttempts : policy.attempts;
      if (failures >= limit) throw givenUp(error, url, kept?.());
      if (retryAfterMs !== undefined && retryAfterMs > policy.maxRetryAfterMs) {
        const minutes = Math.ceil(retryAfterMs / 60_000);
        throw givenUp(
          new TransientError(`${error.message}; it asks to come back in ${minutes} minutes`, {
            cause: error,
          }),
          url,
          kept?.(),
        );
      }
      const wait = Math.max(retryAfterMs ?? 0, waitMs(policy, failures));
      onRetry?.(error.message, wait);
      await sleep(wait, undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
  }
}
