/** Figure 6 of the Quest paper: running perplexity of a PG-19 test book with a budget of 4096 tokens, read off the figure. */

const TOKENS = [4000, 8000, 12_000, 16_000, 20_000, 24_000, 28_000, 31_999];
const BUDGET = 4096;
const QUEST = [7.251, 7.231, 7.137, 7.072, 6.938, 6.988, 6.904, 6.818];
const FIGURE_6: Readonly<Record<string, readonly number[]>> = {
  full: [7.289, 7.248, 7.136, 7.073, 6.936, 6.978, 6.9, 6.808],
  quest: QUEST,
  'quest-paper': QUEST,
  h2o: [7.289, 7.238, 7.126, 7.079, 6.95, 6.994, 6.921, 6.84],
  tova: [7.289, 7.312, 7.218, 7.195, 7.056, 7.113, 7.05, 6.963],
};

export interface PaperPerplexity {
  title: string;
  tokens: readonly number[];
  /** The paper's perplexity, where it has one. Its last point, 31999, stands beside 32000 too. */
  ppl(method: string, budgetTokens: number | undefined, tokens: number): number | undefined;
}

/** The paper's curves, when the model and the texts are the paper's. */
export function paperPerplexity(modelName: string, dataset: string): PaperPerplexity | undefined {
  if (dataset !== 'pg19' || !/longchat-7b-v1\.5-32k/i.test(modelName)) return undefined;
  return {
    title: 'Figure 6, LongChat-7b-v1.5-32k, one PG-19 test book, budget 4096 (read off the figure)',
    tokens: TOKENS,
    ppl(method, budgetTokens, tokens) {
      if (budgetTokens !== undefined && budgetTokens !== BUDGET) return undefined;
      return FIGURE_6[method]?.[TOKENS.findIndex((at) => Math.abs(at - tokens) <= 1)];
    },
  };
}
