import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { LongBenchRow, LongBenchSet } from '../../datasets/longbench.js';
import { openLongBenchSample } from '../../datasets/longbench_sample.js';
import { fillPrompt, TASK_NAMES, taskPrompt } from '../../datasets/longbench_tasks.js';
import {
  checkMaxLength,
  createLongBenchTask,
  type LongBenchOptions,
  promptLimit,
} from '../../eval/longbench.js';
import { buildPrompt } from '../../eval/longbench_prompt.js';
import {
  bucketOf,
  metricOf,
  scoresFirstLine,
  splitQuestion,
  stopsAtLineFeed,
  usesChat,
} from '../../eval/longbench_protocol.js';
import { openCheckpoint } from '../../src/model/index.js';

const checkpoint = await openCheckpoint('quest-tiny');
const tokenizer = await checkpoint.tokenizer();
const all = (test: (task: string) => boolean) => TASK_NAMES.filter(test);

const row = (context: string, input = 'Who?'): LongBenchRow => ({
  input,
  context,
  answers: ['Nobody'],
  length: 2,
  language: 'en',
  classes: [],
  id: 'a1',
});
const setOf = (task: string, rows: LongBenchRow[]): LongBenchSet => ({
  task,
  count: rows.length,
  hash: 'h',
  longest: 0,
  row: (index) => rows[index]!,
});
const options = (sets: LongBenchSet[], more: Partial<LongBenchOptions> = {}): LongBenchOptions => ({
  data: 'longbench',
  sets,
  tokenizer,
  chat: undefined,
  maxLength: undefined,
  maxContext: 2048,
  modelName: 'some-model',
  ...more,
});

describe('the protocol', () => {
  test('which tasks are cut, chatted and stopped as the benchmark does', () => {
    const raw = ['trec', 'triviaqa', 'samsum', 'lsht', 'lcc', 'repobench-p'];
    expect(all((task) => !usesChat(task))).toEqual(raw);
    expect(all(scoresFirstLine)).toEqual(raw.slice(0, 4));
    expect(all(stopsAtLineFeed)).toEqual(['samsum']);
    expect(TASK_NAMES.map(metricOf)).not.toContain(undefined);
  });

  test('buckets', () => {
    expect([0, 3999, 4000, 7999, 8000].map(bucketOf)).toEqual(['0-4k', '0-4k', '4-8k', '4-8k', '8k+']);
  });

  test('the question begins at its mark, but is at most 100 characters', () => {
    const near = `${'x'.repeat(300)} Question: no. Question: Who?\nAnswer:`;
    expect(splitQuestion('qasper', near).question).toBe('Question: Who?\nAnswer:');
    const far = `Question: ${'y'.repeat(150)}`;
    expect(splitQuestion('qasper', far).question).toBe('y'.repeat(100));
    // gov_report looks for another word, and tasks without one take the last characters
    expect(splitQuestion('gov_report', near).question).toHaveLength(100);
    expect(splitQuestion('lcc', near).question).toHaveLength(100);
    for (const task of TASK_NAMES) {
      const { context, question } = splitQuestion(task, near);
      expect(context + question).toBe(near);
    }
  });

  test('in the prompts of the paper’s tasks', () => {
    const question = (task: string) =>
      splitQuestion(task, fillPrompt(taskPrompt(task).prompt, row('A long text.', 'Who wrote it?'))).question;
    expect(question('qasper')).toBe('Question: Who wrote it?\n\nAnswer:');
    expect(question('hotpotqa')).toBe('Question: Who wrote it?\nAnswer:');
    expect(question('gov_report')).toBe('Now, write a one-page summary of the report.\n\nSummary:');
    expect(question('narrativeqa')).toBe(
      'Do not provide any explanation.\n\nQuestion: Who wrote it?\n\nAnswer:',
    );
    expect(question('multifieldqa_en')).toHaveLength(100); // its mark is further away
    expect(question('triviaqa')).toHaveLength(100);
  });

  test('characters outside the basic plane are never cut in two', () => {
    const { context, question } = splitQuestion('lcc', '😀'.repeat(150));
    expect([[...context].length, [...question].length]).toEqual([50, 100]);
    expect(splitQuestion('lcc', 'short')).toEqual({ context: 's', question: 'hort' });
  });
});

describe('prompts', () => {
  const build = (task: string, item: LongBenchRow, maxLength: number, maxContext = 4096) =>
    buildPrompt(task, item, { tokenizer, chat: undefined, maxLength, maxContext });

  test('a short one goes in whole', () => {
    const { prefillIds, stepIds, truncated } = build('qasper', row('A short text about boats.'), 1000);
    expect(truncated).toBe(false);
    const text = tokenizer.decode([...prefillIds, ...stepIds], { skipSpecial: true });
    expect(text).toBe(fillPrompt(taskPrompt('qasper').prompt, row('A short text about boats.')));
    expect(prefillIds[0] === tokenizer.bosId).toBe(tokenizer.addsBos);
    expect(stepIds).not.toContain(tokenizer.bosId);
  });

  test('a long one keeps the first and the last half of the tokens', () => {
    const words = Array.from({ length: 3000 }, (_, i) => `word${i}`).join(' ');
    const item = row(words);
    const { prefillIds, stepIds, truncated } = build('qasper', item, 400);
    expect(truncated).toBe(true);
    const ids = tokenizer.encode(fillPrompt(taskPrompt('qasper').prompt, item));
    const decode = (part: Int32Array) => tokenizer.decode(part, { skipSpecial: true });
    const wanted = decode(ids.slice(0, 200)) + decode(ids.slice(-200));
    expect(decode(Int32Array.of(...prefillIds, ...stepIds))).toBe(wanted);
    expect(wanted).toMatch(/^You are given a scientific article/);
    expect(wanted).toMatch(/Question: Who\?\n\nAnswer:$/);
    expect(prefillIds.length + stepIds.length).toBeLessThanOrEqual(400);
  });

  test('no prompt that was cut has more tokens than the limit, and where the halves fit they are kept', () => {
    let shortened = 0;
    for (const task of ['qasper', 'gov_report', 'lcc', 'dureader', 'passage_retrieval_zh']) {
      const set = openLongBenchSample(task, 1);
      const text = fillPrompt(taskPrompt(task).prompt, set.row(0));
      const ids = tokenizer.encode(text);
      const decode = (part: Int32Array) => tokenizer.decode(part, { skipSpecial: true });
      for (const limit of [700, 701, 999, 1000, 1500]) {
        const built = build(task, set.row(0), limit, 32_768);
        const tokens = built.prefillIds.length + built.stepIds.length;
        expect(built.truncated).toBe(true);
        expect(tokens).toBeLessThanOrEqual(limit);
        expect(tokens).toBeGreaterThan(limit - 12);
        const half = Math.floor(limit / 2);
        const halves = decode(ids.slice(0, half)) + decode(ids.slice(-half));
        const { context, question } = splitQuestion(task, halves);
        const asFed = tokenizer.encode(context).length + tokenizer.encode(question, { bos: false }).length;
        const hash = createHash('sha256').update(halves).digest('hex').slice(0, 16);
        expect(built.hash === hash).toBe(asFed <= limit);
        if (asFed > limit) shortened++;
      }
    }
    expect(shortened).toBeGreaterThan(0);
  });

  test('the limit itself is not too long', () => {
    const item = row('Some words about boats and harbours, one after the other.');
    const tokens = tokenizer.encode(fillPrompt(taskPrompt('qasper').prompt, item)).length;
    expect(build('qasper', item, tokens).truncated).toBe(false);
    expect(build('qasper', item, tokens - 1).truncated).toBe(true);
  });

  test('the chat format goes around what was cut, and everything fits into the context', () => {
    const chat = { name: 'test', render: (text: string) => `<<${'guide '.repeat(40)}${text}>>` };
    const item = row('boats and harbours '.repeat(2000));
    const maxContext = 1000;
    const { maxNewTokens } = taskPrompt('qasper');
    const inside = { tokenizer, chat, maxLength: maxContext - maxNewTokens, maxContext };
    const { prefillIds, stepIds, truncated } = buildPrompt('qasper', item, inside);
    expect(truncated).toBe(true);
    expect(prefillIds.length + stepIds.length + maxNewTokens).toBeLessThanOrEqual(maxContext);
    expect(prefillIds.length + stepIds.length + maxNewTokens).toBeGreaterThan(maxContext - 20);
    expect(tokenizer.decode(prefillIds, { skipSpecial: true })).toMatch(/^<<guide /);
    expect(tokenizer.decode(stepIds)).toMatch(/>>$/);
    // Few-shot and code tasks continue a text.
    const plain = buildPrompt('lcc', item, { ...inside, maxLength: 300 });
    expect(tokenizer.decode(plain.prefillIds, { skipSpecial: true })).toMatch(/^Please complete/);
  });

  test('a context that holds no prompt at all is refused', () => {
    expect(() => build('qasper', row('x '.repeat(500)), 300, 130)).toThrow(/does not fit/);
    expect(() => build('qasper', row('x'), 0, 128)).toThrow(/does not fit/);
  });
});

describe('the task', () => {
  test('limits: what the model holds, the published ones, --max-length', () => {
    const sets = [setOf('gov_report', [row('x')])];
    expect(promptLimit(options(sets), 'gov_report')).toBe(2048 - 512);
    const longchat = { modelName: 'lmsys/longchat-7b-v1.5-32k', maxContext: 32768 };
    expect(promptLimit(options(sets, longchat), 'gov_report')).toBe(31500);
    expect(promptLimit(options(sets, { ...longchat, maxLength: 1000 }), 'gov_report')).toBe(1000);
    expect(() => checkMaxLength(options(sets, { maxLength: 1537 }))).toThrow(/--max-length|exceed the 2048/);
    expect(() => checkMaxLength(options(sets, { maxLength: 1536 }))).not.toThrow();
  });

  test('items of several tasks one after the other', async () => {
    const sets = [setOf('qasper', [row('One.'), row('Two.')]), setOf('samsum', [row('Three.')])];
    const task = await createLongBenchTask(options(sets));
    expect(task.count).toBe(3);
    const items = await Promise.all([0, 1, 2].map((i) => task.item(i)));
    expect(items.map(({ id }) => id)).toEqual([
      'longbench/qasper/0',
      'longbench/qasper/1',
      'longbench/samsum/0',
    ]);
    expect(items[0]!.fields).toMatchObject({ task: 'qasper', row: 0, row_id: 'a1', length: 2, truncated: 0 });
    expect(items[0]!.fields.prompt_sha256).toMatch(/^[0-9a-f]{16}$/);
    expect(items[1]!.fields.prompt_sha256).not.toBe(items[0]!.fields.prompt_sha256);
    expect(items[0]!.maxNewTokens).toBe(128);
    expect(items[0]!.stopIds).toBeUndefined();
    expect(items[2]!.stopIds).toEqual([tokenizer.encode('\n', { bos: false })[0]]);
    expect(items[0]!.score('nobody.')).toBe(1);
    expect(items[0]!.score('somebody')).toBe(0);
    expect(task.params).toMatchObject({ data: 'longbench', tasks: ['qasper', 'samsum'], rows: [2, 1] });
  });

  test('the bounds hold for every item', async () => {
    const sets = ['qasper', 'lcc', 'dureader'].map((name) => openLongBenchSample(name));
    const task = await createLongBenchTask(options(sets, { maxContext: 8192 }));
    const { tokens, steps } = task.bounds();
    for (let i = 0; i < task.count; i++) {
      const { prefillIds, stepIds, maxNewTokens } = await task.item(i);
      expect(prefillIds.length + stepIds.length + maxNewTokens).toBeLessThanOrEqual(tokens);
      expect(stepIds.length + maxNewTokens).toBeLessThanOrEqual(steps);
    }
    expect(tokens).toBeLessThanOrEqual(8192);
  });
});
