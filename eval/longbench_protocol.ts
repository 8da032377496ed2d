/** How the benchmark runs and scores each task, and where Quest's protocol cuts a prompt into prefill and decode steps. */
import { taskKind } from '../datasets/longbench_tasks.js';
import type { MetricName } from './metrics/index.js';

const METRIC: Readonly<Record<string, MetricName>> = {
  narrativeqa: 'qa_f1',
  qasper: 'qa_f1',
  multifieldqa_en: 'qa_f1',
  multifieldqa_zh: 'qa_f1_zh',
  hotpotqa: 'qa_f1',
  '2wikimqa': 'qa_f1',
  musique: 'qa_f1',
  dureader: 'rouge_zh',
  gov_report: 'rouge',
  qmsum: 'rouge',
  multi_news: 'rouge',
  vcsum: 'rouge_zh',
  trec: 'classification',
  triviaqa: 'qa_f1',
  samsum: 'rouge',
  lsht: 'classification',
  passage_retrieval_en: 'retrieval',
  passage_count: 'count',
  passage_retrieval_zh: 'retrieval_zh',
  lcc: 'code_sim',
  'repobench-p': 'code_sim',
};

/** What a metric is called on axes and in tables. */
export const METRIC_TITLE: Readonly<Record<MetricName, string>> = {
  qa_f1: 'F1',
  qa_f1_zh: 'F1',
  rouge: 'ROUGE-L',
  rouge_zh: 'ROUGE-L',
  classification: 'accuracy',
  retrieval: 'accuracy',
  retrieval_zh: 'accuracy',
  count: 'accuracy',
  code_sim: 'edit similarity',
};

export const metricOf = (task: string): MetricName => METRIC[task]!;

/** Few-shot tasks are scored on the first line of the answer. */
export const scoresFirstLine = (task: string): boolean =>
  ['trec', 'triviaqa', 'samsum', 'lsht'].includes(task);

/** Few-shot and code tasks continue a text, so they get no chat template. */
export const usesChat = (task: string): boolean =>
  !['few-shot learning', 'code'].includes(taskKind(task).family);

/** The benchmark ends SAMSum's answers at the first line feed, since models go on with another dialogue. */
export const stopsAtLineFeed = (task: string): boolean => task === 'samsum';

/** Where the question of a task begins, as Quest's evaluation looks for it; the others take the last characters. */
const QUESTION_MARK: Readonly<Record<string, string>> = {
  qasper: 'Question:',
  hotpotqa: 'Question:',
  multifieldqa_en: 'Now,',
  gov_report: 'Now,',
  triviaqa: 'Answer the question',
  narrativeqa: 'Do not provide',
};

/** Characters (code points) of a prompt that are fed as decode steps, at most. */
export const QUESTION_CHARS = 100;

/** Splits a prompt into what is prefilled and what is fed through the method; neither is empty. */
export function splitQuestion(task: string, prompt: string): { context: string; question: string } {
  let start = prompt.length;
  for (let chars = 0; chars < QUESTION_CHARS && start > 0; chars++) {
    const low = prompt.charCodeAt(start - 1);
    const high = start > 1 ? prompt.charCodeAt(start - 2) : 0;
    const pair = low >= 0xdc00 && low <= 0xdfff && high >= 0xd800 && high <= 0xdbff;
    start -= pair ? 2 : 1;
  }
  const mark = QUESTION_MARK[task];
  start = Math.max(1, start, mark === undefined ? -1 : prompt.lastIndexOf(mark));
  return { context: prompt.slice(0, start), question: prompt.slice(start) };
}

/** LongBench-E's buckets of the rows' lengths. */
export const BUCKETS = ['0-4k', '4-8k', '8k+'] as const;
export type Bucket = (typeof BUCKETS)[number];

export function bucketOf(length: number): Bucket {
  if (length < 4000) return '0-4k';
  return length < 8000 ? '4-8k' : '8k+';
}
