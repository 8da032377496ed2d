/** The peers of `quest bench compare`, timed by scripts/peers.py in a Python that has PyTorch. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { z } from 'zod';
import { packageRoot } from '../../src/model/package_root.js';
import { startReason } from '../../src/reading.js';

export interface PeerRequest {
  device: string;
  attention: { heads: string; nHeads: number; nKvHeads: number; contextTokens: number }[];
  steps: { name: string; shape: object; contextTokens: number; count: number }[];
}

const answer = z.union([
  z.object({ torch: z.string(), transformers: z.string().nullable() }),
  z.looseObject({ heads: z.string(), contextTokens: z.number(), median: z.number(), noise_pct: z.number() }),
  z.looseObject({ name: z.string(), contextTokens: z.number(), median: z.number(), noise_pct: z.number() }),
  z.looseObject({ name: z.string(), contextTokens: z.number(), failed: z.string() }),
]);

export interface PeerTimes {
  /** `PyTorch 2.11.0`, and transformers' version where it was asked for and is there. */
  torch?: string;
  transformers?: string;
  /** Microseconds by heads and context; milliseconds by shape and context. */
  attention: Map<string, number>;
  steps: Map<string, number>;
  /** Why something was not timed. */
  skipped: string[];
}

/** The key of a case in {@link PeerTimes}. */
export const peerKey = (name: string, contextTokens: number): string => `${name} ${contextTokens}`;

/** Runs the Python program; a machine without Python or PyTorch gives empty times and the reason. */
export async function timePeers(
  python: string,
  request: PeerRequest,
  signal: AbortSignal,
): Promise<PeerTimes> {
  const times: PeerTimes = { attention: new Map(), steps: new Map(), skipped: [] };
  const child = spawn(python, [join(packageRoot(), 'scripts', 'peers.py')], {
    stdio: ['pipe', 'pipe', 'pipe'],
    signal,
  });
  child.stdin.on('error', () => {}); // it ended before it read the request
  child.stdin.end(JSON.stringify(request));
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const failure = await new Promise<string | undefined>((resolve) => {
    child.on('error', (error) => resolve(startReason(error)));
    child.on('close', (code) =>
      resolve(code === 0 ? undefined : (stderr.trim().split('\n').at(-1) ?? `status ${code}`)),
    );
  });
  signal.throwIfAborted();
  for (const line of stdout.split('\n').filter((text) => text.startsWith('{'))) {
    const one = answer.parse(JSON.parse(line));
    if ('torch' in one) {
      times.torch = `PyTorch ${one.torch}`;
      if (one.transformers !== null) times.transformers = `transformers ${one.transformers}`;
      else if (request.steps.length > 0)
        times.skipped.push(`${python} has no transformers: whole models are not compared`);
    } else if ('failed' in one) {
      times.skipped.push(
        `transformers did not run ${one.name} at ${one.contextTokens} tokens: ${one.failed}`,
      );
    } else if ('heads' in one) {
      times.attention.set(peerKey(one.heads as string, one.contextTokens), one.median);
    } else {
      times.steps.set(peerKey(one.name, one.contextTokens), one.median);
    }
  }
  if (failure !== undefined)
    times.skipped.push(
      `the peers were ${times.torch === undefined ? 'not timed' : 'not all timed'}: ${python}: ${failure}`,
    );
  return times;
}
