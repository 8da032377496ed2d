/** LongBench as a task: the document is prefilled, the question and the answer go through each cell's method. */
import type { LongBenchSet } from '../datasets/longbench.js';
import { fillPrompt, taskPrompt } from '../datasets/longbench_tasks.js';
import { QuestError } from '../src/errors.js';
import type { ChatTemplate } from '../src/model/chat.js';
import type { Tokenizer } from '../src/model/index.js';
import { type BuiltPrompt, buildPrompt } from './longbench_prompt.js';
import { metricOf, scoresFirstLine, stopsAtLineFeed } from './longbench_protocol.js';
import { createScore, type Score } from './metrics/index.js';
import type { Task, TaskItem } from './task.js';
import { NO_TOKEN_CACHE, type TokenCache, textHash } from './token_cache.js';

/** Which data a run is about; every output names it. */
export type LongBenchData = 'longbench' | 'longbench-e' | 'sample' | 'sample-e';

export interface LongBenchOptions {
  data: LongBenchData;
  sets: readonly LongBenchSet[];
  tokenizer: Tokenizer;
  chat: ChatTemplate | undefined;
  /** Absent: what the model holds beside the answer, or the published limit of models that the benchmark has run. */
  maxLength: number | undefined;
  maxContext: number;
  modelName: string;
  /** Where tokenised prompts are kept; absent: nowhere. */
  cache?: TokenCache;
}

/** Prompt limits that the benchmark set for models of its own table, below their context. */
const PUBLISHED_LIMITS: readonly { model: RegExp; maxLength: number }[] = [
  { model: /longchat-7b-v1\.5-32k/i, maxLength: 31_500 },
  { model: /vicuna-7b-v1\.5-16k/i, maxLength: 15_500 },
  { model: /llama-2-7b-chat/i, maxLength: 3500 },
];

/** The prompt limit of a task. */
export function promptLimit(options: LongBenchOptions, task: string): number {
  const { maxContext, modelName } = options;
  const room = maxContext - taskPrompt(task).maxNewTokens;
  const published = PUBLISHED_LIMITS.find(({ model }) => model.test(modelName))?.maxLength;
  return Math.min(options.maxLength ?? published ?? room, room);
}

/** Refuses a limit that the model cannot hold together with the answer. */
export function checkMaxLength(options: LongBenchOptions): void {
  const { maxLength, maxContext, modelName, sets } = options;
  const longest = Math.max(...sets.map((set) => taskPrompt(set.task).maxNewTokens));
  if (maxLength === undefined || maxLength + longest <= maxContext) return;
  throw new QuestError(
    'E_CONTEXT',
    `prompts of ${maxLength} tokens and ${longest} generated ones exceed the ${maxContext} that ${modelName} supports`,
    { hint: `use --max-length ${maxContext - longest} or less` },
  );
}

export interface LongBenchTask extends Task {
  /** Upper bounds of any item's tokens, steps included, and of its steps; from the longest row of each task. */
  bounds(): { tokens: number; steps: number };
}

/** Makes the task of a run over one or more of the benchmark's tasks; items are tokenised when asked for. */
export async function createLongBenchTask(options: LongBenchOptions): Promise<LongBenchTask> {
  const { data, sets, tokenizer, chat, maxContext } = options;
  const scores = new Map<string, Score>();
  for (const { task } of sets)
    scores.set(task, await createScore(metricOf(task), { firstLineOnly: scoresFirstLine(task) }));
  const places = sets.flatMap((set) => Array.from({ length: set.count }, (_, index) => ({ set, index })));
  const lineFeed = tokenizer.encode('\n', { bos: false }).at(-1);

  const cache = options.cache ?? NO_TOKEN_CACHE;
  const template = chat === undefined ? 'none' : textHash(chat.render('{text}'));
  const build = ({ task, row }: LongBenchSet, index: number): BuiltPrompt => {
    const maxLength = promptLimit(options, task);
    const item = row(index);
    const text = fillPrompt(taskPrompt(task).prompt, item);
    const { ids, facts } = cache.through(
      ['longbench', task, textHash(text), template, maxLength, maxContext],
      () => {
        const { prefillIds, stepIds, truncated, hash } = buildPrompt(task, item, {
          ...{ tokenizer, chat, maxContext, maxLength },
        });
        return { ids: [prefillIds, stepIds], facts: { truncated, hash } };
      },
    );
    return {
      prefillIds: ids[0]!,
      stepIds: ids[1]!,
      truncated: facts.truncated === true,
      hash: String(facts.hash),
    };
  };
  // The first item is asked for more than once, and the longest ones to estimate memory.
  const kept = new Map<string, BuiltPrompt>();
  const builtPrompt = (set: LongBenchSet, index: number): BuiltPrompt => {
    const key = `${set.task}/${index}`;
    const built = kept.get(key) ?? build(set, index);
    if (index === set.longest) kept.set(key, built);
    return built;
  };

  const item = (index: number): TaskItem => {
    const { set, index: row } = places[index]!;
    const { task } = set;
    const { prefillIds, stepIds, truncated, hash } = builtPrompt(set, row);
    const { length, id, answers, classes } = set.row(row);
    return {
      id: `longbench/${task}/${row}`,
      index,
      prefillIds,
      stepIds,
      maxNewTokens: taskPrompt(task).maxNewTokens,
      ...(stopsAtLineFeed(task) && lineFeed !== undefined && { stopIds: [lineFeed], minNewTokens: 1 }),
      fields: { task, row, row_id: id, length, truncated: truncated ? 1 : 0, prompt_sha256: hash },
      score: (text) => scores.get(task)!(text, { answers, classes }),
    };
  };

  return {
    name: 'longbench',
    params: {
      data,
      tasks: sets.map((set) => set.task),
      rows: sets.map((set) => set.count),
      data_hash: sets.map((set) => set.hash),
      max_length: options.maxLength ?? 'model',
      chat: chat?.name ?? 'none',
    },
    count: places.length,
    item,
    bounds() {
      let [tokens, steps] = [0, 0];
      for (const set of sets) {
        const { maxNewTokens } = taskPrompt(set.task);
        const { prefillIds, stepIds } = builtPrompt(set, set.longest);
        const own = Math.ceil(1.5 * stepIds.length) + maxNewTokens;
        // The row with the most bytes may not have the most tokens.
        const all = Math.ceil(1.15 * prefillIds.length) + own;
        tokens = Math.max(tokens, Math.min(all, maxContext));
        steps = Math.max(steps, own);
      }
      return { tokens, steps };
    },
  };
}
