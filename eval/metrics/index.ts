/** The benchmark's metrics by name. All give 0 to 1 for one prediction and one true answer. */
import { classificationScore, countScore, retrievalScore, retrievalScoreChinese } from './choice.js';
import { qaF1, qaF1Chinese } from './f1.js';
import { rougeL, rougeLChinese } from './rouge.js';
import { loadSegmenter, type Segment } from './segment.js';
import { codeSimilarity } from './similarity.js';
import { firstLine } from './text.js';

export type MetricName =
  | 'qa_f1'
  | 'qa_f1_zh'
  | 'rouge'
  | 'rouge_zh'
  | 'classification'
  | 'retrieval'
  | 'retrieval_zh'
  | 'count'
  | 'code_sim';

type Metric = (prediction: string, truth: string, classes: readonly string[], segment: Segment) => number;

const METRICS: Readonly<Record<MetricName, Metric>> = {
  qa_f1: qaF1,
  qa_f1_zh: (prediction, truth, _, segment) => qaF1Chinese(prediction, truth, segment),
  rouge: rougeL,
  rouge_zh: (prediction, truth, _, segment) => rougeLChinese(prediction, truth, segment),
  classification: classificationScore,
  retrieval: retrievalScore,
  retrieval_zh: retrievalScoreChinese,
  count: countScore,
  code_sim: codeSimilarity,
};

/** What a prediction is compared with. */
export interface Truth {
  answers: readonly string[];
  classes: readonly string[];
}

export type Score = (prediction: string, truth: Truth) => number;

/** Makes the scoring of a task: best over the answers. Loads the segmenter where a metric needs it. */
export async function createScore(metric: MetricName, options: { firstLineOnly: boolean }): Promise<Score> {
  const needsWords = metric === 'qa_f1_zh' || metric === 'rouge_zh';
  const segment: Segment = needsWords ? await loadSegmenter() : () => [];
  const compare = METRICS[metric];
  return (prediction, { answers, classes }) => {
    const text = options.firstLineOnly ? firstLine(prediction) : prediction;
    return answers.reduce((best, answer) => Math.max(best, compare(text, answer, classes, segment)), 0);
  };
}
