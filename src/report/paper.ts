/** Numbers of the Quest paper (ICML 2024, arXiv 2406.10774) that our tables stand beside. */

const LONGCHAT = /longchat-7b-v1\.5-32k/i;

/** What a line of the paper's values is called beside ours: with its model, where ours is another one. */
export const paperLine = (modelName: string | undefined): string =>
  modelName === undefined ? 'paper' : `paper (${modelName})`;

/** Whether a table's cell names such a line. */
export const isPaperLine = (cell: string): boolean => /^paper( \(.+\))?$/.test(cell);

/** The paper's model, where it is not ours. */
export const otherThanLongChat = (modelName: string): string | undefined =>
  LONGCHAT.test(modelName) ? undefined : 'LongChat-7B';

interface PaperPasskey {
  title: string;
  /** Matches the checkpoint's name, or its folder's name. */
  model: RegExp;
  modelName: string;
  contextTokens: readonly number[];
  budgets: readonly number[];
  accuracyPct: Readonly<Record<string, readonly number[]>>;
}

/** Table 1. Its Quest rows come from the simulator that we call `quest-paper`; they stand beside both. */
const TABLE_1: readonly PaperPasskey[] = [
  {
    title: 'Table 1, LongChat-7b-v1.5-32k, 10K tokens',
    model: LONGCHAT,
    modelName: 'LongChat-7B',
    contextTokens: [10_000, 10_240],
    budgets: [32, 64, 128, 256, 512],
    accuracyPct: {
      h2o: [0, 1, 1, 1, 3],
      tova: [0, 1, 1, 3, 8],
      streaming: [1, 1, 1, 3, 5],
      quest: [65, 99, 99, 99, 100],
      'quest-paper': [65, 99, 99, 99, 100],
    },
  },
  {
    title: 'Table 1, Yarn-Llama-2-7b-128k, 100K tokens',
    model: /yarn-llama-2-7b-128k/i,
    modelName: 'Yarn-Llama-2-7B',
    contextTokens: [100_000, 102_400],
    budgets: [256, 512, 1024, 2048, 4096],
    accuracyPct: {
      h2o: [2, 2, 2, 2, 4],
      tova: [2, 2, 2, 2, 10],
      streaming: [1, 1, 1, 2, 4],
      quest: [88, 92, 96, 100, 100],
      'quest-paper': [88, 92, 96, 100, 100],
    },
  },
];

export interface PaperReference {
  title: string;
  /** The paper's model, where ours is another one. */
  otherModel: string | undefined;
  /** The paper's accuracy in percent, where it has one. */
  accuracyPct(method: string, budgetTokens: number | undefined): number | undefined;
}

/** The part of Table 1 with the same context, and so the same protocol; its model is named where ours is another one. */
export function paperPasskey(modelName: string, contextTokens: number): PaperReference | undefined {
  const table = TABLE_1.find((t) => t.contextTokens.includes(contextTokens));
  if (table === undefined) return undefined;
  const same = table.model.test(modelName);
  return {
    title: same ? table.title : `${table.title}: the same protocol, another model than ${modelName}`,
    otherModel: same ? undefined : table.modelName,
    accuracyPct(method, budgetTokens) {
      const column = budgetTokens === undefined ? -1 : table.budgets.indexOf(budgetTokens);
      return column < 0 ? undefined : table.accuracyPct[method]?.[column];
    },
  };
}
