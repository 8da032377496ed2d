import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { openLongBenchFile, resolveTasks } from '../../datasets/longbench.js';
import { openLongBenchSample, SAMPLE_ITEMS, sampleRow } from '../../datasets/longbench_sample.js';
import {
  fillPrompt,
  LONGBENCH_TASKS,
  PAPER_TASKS,
  TASK_NAMES,
  taskKind,
  taskPrompt,
} from '../../datasets/longbench_tasks.js';
import { openCheckpoint } from '../../src/model/index.js';
import { hasShared, sharedDir } from '../support/shared.js';

const folder = mkdtempSync(join(tmpdir(), 'quest-longbench-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const row = {
  input: 'Who?',
  context: 'A text.',
  answers: ['Nobody'],
  length: 2,
  dataset: 'qasper',
  language: 'en',
  all_classes: null,
  _id: 'a1',
};
let files = 0;
/** A file of these lines: rows as objects, anything else as it is. */
function write(...lines: (object | string | Uint8Array)[]): string {
  const file = join(folder, `${files++}.jsonl`);
  const bytes = lines.map((line) => {
    const text = typeof line === 'string' || line instanceof Uint8Array ? line : JSON.stringify(line);
    return Buffer.concat([Buffer.from(text), Buffer.from('\n')]);
  });
  writeFileSync(file, Buffer.concat(bytes));
  return file;
}

describe('reading a task', () => {
  test('rows in order, by index', () => {
    const set = openLongBenchFile(write(row, { ...row, _id: 'a2', length: 9 }), 'qasper');
    expect(set.count).toBe(2);
    expect(set.row(1)).toEqual({
      input: 'Who?',
      context: 'A text.',
      answers: ['Nobody'],
      length: 9,
      language: 'en',
      classes: [],
      id: 'a2',
    });
    expect(set.row(0).id).toBe('a1');
  });

  test('the limit keeps the first rows, and the hash is about them', () => {
    const both = openLongBenchFile(write(row, { ...row, _id: 'a2' }), 'qasper');
    const first = openLongBenchFile(write(row, { ...row, _id: 'a2' }), 'qasper', 1);
    const single = openLongBenchFile(write(row), 'qasper');
    expect(first.count).toBe(1);
    expect(first.hash).toBe(single.hash);
    expect(first.hash).not.toBe(both.hash);
  });

  test('the longest row is known', () => {
    const set = openLongBenchFile(write(row, { ...row, context: 'x'.repeat(50) }, row), 'qasper');
    expect(set.longest).toBe(1);
  });

  test('a mark at the beginning, Windows line ends, blank lines and no last line end are no error', () => {
    const file = join(folder, 'odd.jsonl');
    writeFileSync(file, `\ufeff${JSON.stringify(row)}\r\n\r\n${JSON.stringify({ ...row, _id: 'a2' })}`);
    const set = openLongBenchFile(file, 'qasper');
    expect([set.count, set.row(1).id]).toEqual([2, 'a2']);
  });

  test('LongBench-E may carry its own name in dataset', () => {
    expect(openLongBenchFile(write({ ...row, dataset: 'qasper_e' }), 'qasper').count).toBe(1);
  });

  const { input: _, ...noInput } = row;
  test.each([
    ['no JSON', 'oops', /line 2: not JSON/],
    ['a torn line', JSON.stringify(row).slice(0, 30), /line 2: not JSON/],
    ['a list', '[]', /line 2: \[\] is no JSON object/],
    ['bytes that are no UTF-8', Uint8Array.of(0x22, 0xff, 0x22), /line 2: not UTF-8/],
    ['a missing field', noInput, /line 2: input is nothing; wanted: text/],
    ['a number for a text', { ...row, context: 3 }, /line 2: context is 3; wanted: text/],
    ['no answers', { ...row, answers: [] }, /line 2: answers is \[\]; wanted: a list of texts/],
    ['answers of another type', { ...row, answers: [1] }, /line 2: answers is a list of 1/],
    ['a length that is no count', { ...row, length: 1.5 }, /line 2: length is 1.5; wanted: a whole number/],
    ['another task', { ...row, dataset: 'trec' }, /line 2: dataset is "trec"; wanted: "qasper"/],
    ['classes of another type', { ...row, all_classes: 'x' }, /line 2: all_classes is "x"/],
  ])('%s is refused with file, line and field', (_name, line, message) => {
    const file = write(row, line);
    expect(() => openLongBenchFile(file, 'qasper')).toThrow(message);
    expect(() => openLongBenchFile(file, 'qasper')).toThrow(file);
  });

  test('classification tasks need their classes', () => {
    const trec = { ...row, dataset: 'trec' };
    expect(() => openLongBenchFile(write(trec), 'trec')).toThrow(/all_classes is null/);
    expect(openLongBenchFile(write({ ...trec, all_classes: ['A', 'B'] }), 'trec').row(0).classes).toEqual([
      'A',
      'B',
    ]);
  });

  test('rows beyond the limit are checked too, empty files are refused', () => {
    expect(() => openLongBenchFile(write(row, 'oops'), 'qasper', 1)).toThrow(/line 2/);
    expect(() => openLongBenchFile(write(''), 'qasper')).toThrow(/no rows/);
    expect(() => openLongBenchFile(join(folder, 'absent.jsonl'), 'qasper')).toThrow(/cannot read/);
  });

  test.skipIf(!hasShared)('real rows', () => {
    for (const task of ['multi_news', 'multifieldqa_zh', 'passage_retrieval_zh']) {
      const set = openLongBenchFile(join(sharedDir, 'data/longbench', `${task}.jsonl`), task);
      expect(set.count).toBe(12);
      const last = set.row(11);
      expect(last.context.length).toBeGreaterThan(1000);
      expect(last.language).toBe(task === 'multi_news' ? 'en' : 'zh');
      const sizes = Array.from({ length: 12 }, (_, i) => Buffer.byteLength(set.row(i).context));
      expect(sizes[set.longest]).toBe(Math.max(...sizes));
    }
  });
});

describe('tasks and prompts', () => {
  test('21 tasks, 13 of them in LongBench-E, six in the paper', () => {
    expect(LONGBENCH_TASKS).toHaveLength(21);
    expect(LONGBENCH_TASKS.filter(({ even }) => even)).toHaveLength(13);
    expect(resolveTasks(['all'], false)).toEqual(TASK_NAMES);
    expect(resolveTasks(['paper'], false)).toEqual(PAPER_TASKS);
    expect(resolveTasks(['lcc', 'paper', 'qasper'], false)).toEqual(['lcc', ...PAPER_TASKS]);
    expect(resolveTasks(['all'], true)).toHaveLength(13);
    expect(resolveTasks(['paper'], true)).toEqual(PAPER_TASKS.filter((task) => task !== 'narrativeqa'));
    expect(() => resolveTasks(['narrativeqa'], true)).toThrow(/not part of LongBench-E/);
  });

  test('the prompts are the published ones', () => {
    // Hash of the benchmark's dataset2prompt.json and dataset2maxlen.json, both as `name prompt length` lines.
    const text = TASK_NAMES.map((task) => {
      const { prompt, maxNewTokens } = taskPrompt(task);
      return `${task}\t${prompt}\t${maxNewTokens}\n`;
    }).join('');
    expect(createHash('sha256').update(text).digest('hex')).toBe(
      '941261197daada77fac01e378033e60c3ca54af101d310c02e004e890e461adf',
    );
  });

  test('document and question go in as they are', () => {
    const filled = fillPrompt('[{context}|{input}]', { context: '{input} $& $1', input: '{context}' });
    expect(filled).toBe('[{input} $& $1|{context}]');
  });

  test('the file of prompts names source and licence', () => {
    const file = new URL('../../datasets/longbench_prompts.json', import.meta.url);
    expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({
      licence: 'MIT',
      source: expect.stringContaining('THUDM/LongBench'),
    });
  });
});

describe('the built-in sample', () => {
  test('at least four items for every task, in the format of the benchmark', () => {
    for (const task of TASK_NAMES) {
      const set = openLongBenchSample(task);
      expect(set.count).toBeGreaterThanOrEqual(SAMPLE_ITEMS);
      for (let i = 0; i < set.count; i++) {
        const { answers, context, input, language, classes, length, id } = set.row(i);
        const line = { answers, context, input, language, length, dataset: task, _id: id };
        const file = write({ ...line, all_classes: classes.length === 0 ? null : classes });
        expect(openLongBenchFile(file, task).row(0)).toEqual(set.row(i));
      }
    }
  });

  test('the answer stands in the document, and no other fact answers the question', () => {
    for (const task of TASK_NAMES) {
      if (!taskKind(task).family.endsWith('QA')) continue;
      for (let i = 0; i < SAMPLE_ITEMS; i++) {
        const { context, input, answers } = sampleRow(task, i);
        expect(context).toContain(answers[0]);
        const who = /(?:for|Did|did|to|does) ([A-Z]\w+ [A-Z]\w+)/.exec(input)?.[1] ?? input.slice(0, 3);
        expect(context.split('\n').filter((text) => text.includes(who))).toHaveLength(1);
      }
    }
  });

  test('the same rows every time, whatever was made before', () => {
    const again = sampleRow('hotpotqa', 2);
    openLongBenchSample('samsum');
    expect(sampleRow('hotpotqa', 2)).toEqual(again);
    expect(openLongBenchSample('hotpotqa', 1).count).toBe(1);
    expect(openLongBenchSample('hotpotqa', 1).hash).not.toBe(openLongBenchSample('hotpotqa').hash);
  });

  test('every item has 2K to 12K tokens of the built-in model', async () => {
    const tokenizer = await (await openCheckpoint('quest-tiny')).tokenizer();
    for (const task of TASK_NAMES) {
      for (let i = 0; i < SAMPLE_ITEMS; i++) {
        const tokens = tokenizer.encode(fillPrompt(taskPrompt(task).prompt, sampleRow(task, i))).length;
        expect(tokens, `${task} ${i}`).toBeGreaterThanOrEqual(2000);
        expect(tokens, `${task} ${i}`).toBeLessThanOrEqual(12_000);
      }
    }
  });
});
