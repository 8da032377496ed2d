/** The tasks of LongBench: what kind each is, and its prompt and answer length as the benchmark published them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../src/model/package_root.js';

export type TaskFamily =
  | 'single-document QA'
  | 'multi-document QA'
  | 'summarization'
  | 'few-shot learning'
  | 'synthetic'
  | 'code';

export interface TaskKind {
  name: string;
  /** As the paper's figures write it. */
  title: string;
  family: TaskFamily;
  language: 'en' | 'zh' | 'code';
  /** Also part of LongBench-E, the variant with even lengths. */
  even: boolean;
}

const kind = (
  name: string,
  title: string,
  family: TaskFamily,
  language: TaskKind['language'],
  even = false,
): TaskKind => ({ name, title, family, language, even });

/** In the benchmark's own order. */
export const LONGBENCH_TASKS: readonly TaskKind[] = [
  kind('narrativeqa', 'NarrativeQA', 'single-document QA', 'en'),
  kind('qasper', 'Qasper', 'single-document QA', 'en', true),
  kind('multifieldqa_en', 'MultiFieldQA', 'single-document QA', 'en', true),
  kind('multifieldqa_zh', 'MultiFieldQA-zh', 'single-document QA', 'zh'),
  kind('hotpotqa', 'HotpotQA', 'multi-document QA', 'en', true),
  kind('2wikimqa', '2WikiMultihopQA', 'multi-document QA', 'en', true),
  kind('musique', 'MuSiQue', 'multi-document QA', 'en'),
  kind('dureader', 'DuReader', 'multi-document QA', 'zh'),
  kind('gov_report', 'GovReport', 'summarization', 'en', true),
  kind('qmsum', 'QMSum', 'summarization', 'en'),
  kind('multi_news', 'MultiNews', 'summarization', 'en', true),
  kind('vcsum', 'VCSUM', 'summarization', 'zh'),
  kind('trec', 'TREC', 'few-shot learning', 'en', true),
  kind('triviaqa', 'TriviaQA', 'few-shot learning', 'en', true),
  kind('samsum', 'SAMSum', 'few-shot learning', 'en', true),
  kind('lsht', 'LSHT', 'few-shot learning', 'zh'),
  kind('passage_count', 'PassageCount', 'synthetic', 'en', true),
  kind('passage_retrieval_en', 'PassageRetrieval-en', 'synthetic', 'en', true),
  kind('passage_retrieval_zh', 'PassageRetrieval-zh', 'synthetic', 'zh'),
  kind('lcc', 'LCC', 'code', 'code', true),
  kind('repobench-p', 'RepoBench-P', 'code', 'code', true),
];

export const TASK_NAMES = LONGBENCH_TASKS.map((task) => task.name);
/** The six tasks of the Quest paper's Figure 7, in its order. */
export const PAPER_TASKS = ['qasper', 'hotpotqa', 'gov_report', 'triviaqa', 'narrativeqa', 'multifieldqa_en'];

/** The kind of a task that the option parser or the reader has accepted. */
export function taskKind(name: string): TaskKind {
  return LONGBENCH_TASKS.find((task) => task.name === name)!;
}

export interface TaskPrompt {
  /** With `{context}` and `{input}`. */
  prompt: string;
  maxNewTokens: number;
}

let prompts: Record<string, { prompt: string; max_new_tokens: number }> | undefined;

/** Prompt and answer length of a task, from the one file that holds the benchmark's own wording. */
export function taskPrompt(name: string): TaskPrompt {
  prompts ??= (
    JSON.parse(readFileSync(join(packageRoot(), 'datasets', 'longbench_prompts.json'), 'utf8')) as {
      tasks: NonNullable<typeof prompts>;
    }
  ).tasks;
  const { prompt, max_new_tokens } = prompts[name]!;
  return { prompt, maxNewTokens: max_new_tokens };
}

/** Fills in a prompt. Both parts go in at once, so that braces in a document stay what they are. */
export function fillPrompt(prompt: string, row: { context: string; input: string }): string {
  return prompt.replace(/\{(context|input)\}/g, (_, part: 'context' | 'input') => row[part]);
}
