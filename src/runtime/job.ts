/** Native jobs: long calls on their own thread, with progress and cancellation. */
import { addon, type NativeJob, type ProgressCallback } from './addon.js';

export interface JobOptions {
  signal?: AbortSignal;
  onProgress?: ProgressCallback;
}

export const ignore = () => {};

/** Runs one native job; an aborted signal cancels it and the promise rejects with the signal's reason. */
export async function runJob<T>(
  signal: AbortSignal | undefined,
  start: (job: NativeJob) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const job = addon().createJob();
  const cancel = () => job.cancel();
  signal?.addEventListener('abort', cancel, { once: true });
  try {
    return await start(job);
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener('abort', cancel);
  }
}
