/**
 * Generates from several branches by turns, a few tokens at a time, always the branch whose own clock is behind: on the
 * screen they run as if each had the machine to itself, and each is timed alone.
 */
import type { Model, Sequence } from '../runtime/index.js';

export interface Runner {
  sequence: Sequence;
  ids: number[];
  /** Of its own turns. */
  seconds: number;
  done: boolean;
}

export interface RaceOptions {
  maxTokens: number;
  stopIds: readonly number[];
  signal: AbortSignal;
  /** Called after every turn. */
  onTurn(runners: readonly Runner[]): void;
}

/** Tokens of a turn: few enough to look smooth, enough that starting a job costs nothing beside them. */
const TURN = 8;
const GREEDY = { temperature: 0, topP: 1, seed: 0 };

async function turn(model: Model, runner: Runner, options: RaceOptions): Promise<void> {
  const { maxTokens, stopIds, signal } = options;
  const { sequence, ids } = runner;
  const wanted = Math.min(TURN, maxTokens - ids.length);
  const started = performance.now();
  // The last token that `generate` returned is not in the cache yet.
  const last = ids.at(-1);
  if (last !== undefined) await model.feed([{ sequence, ids: Int32Array.of(last) }], { signal });
  const [more] = await model.generate([sequence], {
    maxTokens: wanted,
    stopIds: Int32Array.from(stopIds),
    sampling: GREEDY,
    signal,
  });
  runner.seconds += (performance.now() - started) / 1000;
  ids.push(...more!);
  runner.done = more!.length < wanted || ids.length >= maxTokens;
}

/** Runs all branches to their end, greedily. */
export async function race(
  model: Model,
  sequences: readonly Sequence[],
  options: RaceOptions,
): Promise<Runner[]> {
  const runners: Runner[] = sequences.map((sequence) => ({ sequence, ids: [], seconds: 0, done: false }));
  for (;;) {
    const running = runners.filter(({ done }) => !done);
    if (running.length === 0) return runners;
    options.signal.throwIfAborted();
    const behind = running.reduce((a, b) => (b.seconds < a.seconds ? b : a));
    await turn(model, behind, options);
    options.onTurn(runners);
  }
}
