/** Figure 7 of the Quest paper (ICML 2024, arXiv 2406.10774), read off its vector graphics to about 0.01. */
import type { PaperFigure } from './longbench.js';

const MODEL = /longchat-7b-v1\.5-32k/i;
const BUDGETS = [256, 512, 1024, 2048, 4096];

interface PaperTask {
  full: number;
  quest: readonly number[];
  h2o: readonly number[];
  tova: readonly number[];
  streaming: readonly number[];
}

const FIGURE_7: Readonly<Record<string, PaperTask>> = {
  qasper: {
    full: 29.15,
    quest: [26.12, 30.71, 29.78, 31.83, 29.33],
    h2o: [14.84, 17.02, 20.83, 24.2, 28.38],
    tova: [14.34, 17.13, 17.85, 22.42, 26.96],
    streaming: [10.72, 11.34, 14.42, 17.22, 25.48],
  },
  hotpotqa: {
    full: 31.76,
    quest: [19.88, 29.05, 32.36, 33.4, 31.54],
    h2o: [22.6, 22.81, 24.21, 26.1, 30.56],
    tova: [20.09, 21.62, 22.51, 23.87, 27.32],
    streaming: [14.52, 15.96, 18.55, 21.09, 24.16],
  },
  gov_report: {
    full: 30.46,
    quest: [21.78, 27.64, 30.14, 31.56, 31.48],
    h2o: [17.69, 19.6, 22.81, 25.86, 28.4],
    tova: [19.53, 20.58, 21.83, 23.73, 26.33],
    streaming: [14.33, 18.74, 21.87, 24.08, 26.94],
  },
  triviaqa: {
    full: 83.82,
    quest: [67.76, 81.27, 83.35, 85.09, 84.38],
    h2o: [44.54, 53.68, 69.28, 77.05, 81.64],
    tova: [46.7, 54.57, 62.56, 69.97, 77.09],
    streaming: [34.84, 44.17, 56.03, 66.43, 75.83],
  },
  narrativeqa: {
    full: 20.74,
    quest: [14.69, 16.8, 18.51, 19.12, 19.67],
    h2o: [8.71, 10.54, 12.96, 14.84, 18.03],
    tova: [11.12, 11.78, 13.63, 13.67, 15.28],
    streaming: [8.97, 10.55, 12.44, 16.83, 17.42],
  },
  multifieldqa_en: {
    full: 43.26,
    quest: [33.0, 37.09, 42.68, 44.24, 43.92],
    h2o: [20.22, 21.5, 25.0, 30.25, 34.85],
    tova: [20.58, 21.66, 24.71, 31.75, 35.95],
    streaming: [17.85, 20.97, 21.47, 26.79, 34.08],
  },
};

/** Figure 7 where a run compares with it: the paper's model on LongBench itself. */
export function paperLongBench(modelName: string, data: string): PaperFigure | undefined {
  if (!MODEL.test(modelName) || data !== 'longbench') return undefined;
  return {
    title:
      'Figure 7, LongChat-7b-v1.5-32k, read off the figure; its Quest is the simulator called quest-paper here',
    score(task, method, budgetTokens) {
      const row = FIGURE_7[task];
      if (row === undefined) return undefined;
      if (budgetTokens === undefined) return method === 'full' ? row.full : undefined;
      const values = row[(method === 'quest-paper' ? 'quest' : method) as keyof PaperTask];
      return Array.isArray(values) ? (values as number[])[BUDGETS.indexOf(budgetTokens)] : undefined;
    },
  };
}
