/** Greedy answers of all branches of an item, with the stop tokens that some protocols add. */
import type { FeedResult, Model, Sequence } from '../src/runtime/index.js';
import type { TaskItem } from './task.js';

interface AnswerOptions {
  eosIds: readonly number[];
  signal: AbortSignal;
  onToken: () => void;
}

/** The likeliest token that is not among `banned`, if the likeliest of all is; the lower id of equals. */
export function replacedFirstToken(logits: Float32Array, banned: ReadonlySet<number>): number | undefined {
  let [best, allowed] = [-1, -1];
  for (let id = 0; id < logits.length; id++) {
    const value = logits[id]!;
    if (best < 0 || value > logits[best]!) best = id;
    if (!banned.has(id) && (allowed < 0 || value > logits[allowed]!)) allowed = id;
  }
  return banned.has(best) && allowed >= 0 ? allowed : undefined;
}

/** Generates in lockstep after the steps were fed; `fed` has the last logits where the item has stop tokens of its own. */
export async function generateAnswers(
  model: Model,
  branches: readonly Sequence[],
  fed: readonly FeedResult[],
  item: TaskItem,
  { eosIds, signal, onToken }: AnswerOptions,
): Promise<Int32Array[]> {
  const stopIds = [...eosIds, ...(item.stopIds ?? [])];
  const generate = (sequences: Sequence[], maxTokens: number) =>
    model.generate(sequences, {
      maxTokens,
      stopIds: Int32Array.from(stopIds),
      sampling: { temperature: 0, topP: 1, seed: 0 },
      signal,
      onToken,
    });
  const banned = new Set(stopIds);
  const firsts = branches.map((_, i) =>
    item.stopIds === undefined ? undefined : replacedFirstToken(fed[i]!.logits!, banned),
  );
  if (firsts.every((first) => first === undefined)) return generate([...branches], item.maxNewTokens);

  const outputs: Int32Array[] = [];
  const place = async (indices: number[], maxTokens: number) => {
    if (indices.length === 0) return;
    const texts =
      maxTokens > 0
        ? await generate(
            indices.map((i) => branches[i]!),
            maxTokens,
          )
        : [];
    indices.forEach((i, k) => {
      const first = firsts[i];
      outputs[i] = Int32Array.from([...(first === undefined ? [] : [first]), ...(texts[k] ?? [])]);
    });
  };
  const indices = branches.map((_, i) => i);
  const changed = indices.filter((i) => firsts[i] !== undefined);
  await model.feed(
    changed.map((i) => ({ sequence: branches[i]!, ids: Int32Array.of(firsts[i]!), logits: 'none' as const })),
    { signal },
  );
  await place(changed, item.maxNewTokens - 1);
  await place(
    indices.filter((i) => firsts[i] === undefined),
    item.maxNewTokens,
  );
  return outputs;
}
