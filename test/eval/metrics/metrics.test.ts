import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  classificationScore,
  countScore,
  retrievalScore,
  retrievalScoreChinese,
} from '../../../eval/metrics/choice.js';
import { qaF1, qaF1Chinese, tokenF1 } from '../../../eval/metrics/f1.js';
import { createScore, type MetricName } from '../../../eval/metrics/index.js';
import { rougeL, rougeLChinese } from '../../../eval/metrics/rouge.js';
import { loadSegmenter } from '../../../eval/metrics/segment.js';
import { codeLine, codeSimilarity, fuzzyRatio, sequenceRatio } from '../../../eval/metrics/similarity.js';
import { firstLine, normalizeAnswer, normalizeChineseAnswer, words } from '../../../eval/metrics/text.js';

/** Texts of our own with the scores that the reference implementation gave them. */
const reference = JSON.parse(
  readFileSync(new URL('./fixtures/reference_cases.json', import.meta.url), 'utf8'),
) as {
  scores: [MetricName, string, string, string[], number][];
  segments: [string, string[]][];
};

/** F of ROUGE-L with the package's small number in the denominator. */
const f = (precision: number, recall: number) => (2 * (precision * recall)) / (precision + recall + 1e-8);

describe('against the reference implementation', () => {
  const metrics = [...new Set(reference.scores.map(([metric]) => metric))];

  test('all nine metrics have cases, most of them above 0', () => {
    expect(metrics).toHaveLength(9);
    for (const metric of metrics) {
      const own = reference.scores.filter(([name]) => name === metric);
      expect(own.length, metric).toBeGreaterThanOrEqual(15);
      expect(own.filter(([, , , , score]) => score > 0).length, metric).toBeGreaterThanOrEqual(5);
    }
  });

  test.each(metrics)('%s gives the same bits', async (metric) => {
    const score = await createScore(metric, { firstLineOnly: false });
    for (const [name, prediction, truth, classes, wanted] of reference.scores) {
      if (name !== metric) continue;
      const found = score(prediction, { answers: [truth], classes });
      expect(found, JSON.stringify([prediction, truth])).toBe(wanted);
    }
  });

  test('Chinese words are the same', async () => {
    const segment = await loadSegmenter();
    for (const [text, wanted] of reference.segments) expect(segment(text)).toEqual(wanted);
  });
});

describe('text', () => {
  test('words: separators of the reference, not of JavaScript', () => {
    expect(words(' a\tb\u3000c\u00a0d\x1ce\x85f ')).toEqual(['a', 'b', 'c', 'd', 'e', 'f']);
    expect(words('a\ufeffb')).toEqual(['a\ufeffb']);
    expect(words(' \n')).toEqual([]);
  });

  test('answers lose case, punctuation, articles and extra spaces', () => {
    expect(normalizeAnswer('The  Cat, an A-list (a) thespian!')).toBe('cat alist thespian');
    expect(normalizeAnswer('the, a. an')).toBe('');
    expect(normalizeAnswer('“The” – dash')).toBe('“ ” – dash'); // only ASCII punctuation goes
    expect(normalizeAnswer('théa a é')).toBe('théa é'); // é is a letter: no article begins after it
  });

  test('Chinese answers lose punctuation of both scripts and all white space', () => {
    expect(normalizeChineseAnswer(' 厦门 大学。（A-B）…')).toBe('厦门大学ab');
  });

  test('the first line, after line feeds only', () => {
    expect(firstLine('\n\nfoo\nbar')).toBe('foo');
    expect(firstLine(' \nfoo')).toBe(' ');
    expect(firstLine('\n')).toBe('');
    expect(firstLine('')).toBe('');
  });
});

describe('QA F1', () => {
  test('by hand', () => {
    // 2 of 3 predicted words, 2 of 4 true ones: 2 * (2/3 * 1/2) / (2/3 + 1/2) = 4/7
    expect(qaF1('The old harbour town', 'old town by the sea')).toBeCloseTo(4 / 7, 12);
    expect(qaF1('Paris', 'paris.')).toBe(1);
    expect(qaF1('London', 'Paris')).toBe(0);
  });

  test('a word counts as often as both have it', () => {
    // common: no x2; precision 2/3, recall 1
    expect(qaF1('no no no', 'no no')).toBeCloseTo(0.8, 12);
    expect(tokenF1(['b', 'b'], ['b'])).toBeCloseTo(2 / 3, 12);
  });

  test('nothing, and nothing but articles', () => {
    expect(qaF1('', 'Paris')).toBe(0);
    expect(qaF1('', '')).toBe(0);
    expect(qaF1('the', 'a')).toBe(0);
  });

  test('Chinese: words, not characters', async () => {
    const segment = await loadSegmenter();
    expect(qaF1Chinese('厦门大学', '厦门大学。', segment)).toBe(1);
    // 北京 / 大学 is one word of the dictionary, so it has nothing in common with 大学 alone
    expect(qaF1Chinese('北京大学', '大学', segment)).toBe(0);
    // 他 / 在 / 厦门大学 against 厦门大学: precision 1/3, recall 1
    expect(qaF1Chinese('他在厦门大学', '厦门大学', segment)).toBeCloseTo(0.5, 12);
    expect(qaF1Chinese('', '厦门大学', segment)).toBe(0);
    expect(qaF1Chinese('。，！', '。', segment)).toBe(0);
  });
});

describe('ROUGE-L', () => {
  test('the longest common subsequence, words as sets', () => {
    // a b d of "a b c d" and "a x b d": 3 of 4 and 3 of 4
    expect(rougeL('a b c d', 'a x b d')).toBeCloseTo(f(3 / 4, 3 / 4), 15);
    // the second "the" counts neither in the subsequence nor in the lengths: 2 of 2 and 2 of 3
    expect(rougeL('the cat the cat', 'the cat sat')).toBeCloseTo(f(1, 2 / 3), 15);
  });

  test('sentences end at full stops, and their subsequences are united', () => {
    // From the ROUGE paper's example: w1 w2 and w1 w3 w5 unite to 4 of 5 reference words; 4 of 8 distinct predicted ones.
    expect(rougeL('w1 w2 w6 w7 w8. w1 w3 w8 w9 w5', 'w1 w2 w3 w4 w5')).toBeCloseTo(f(4 / 8, 4 / 5), 15);
    // Order matters within a sentence only.
    expect(rougeL('b a', 'a b')).toBeCloseTo(f(1 / 2, 1 / 2), 15);
    expect(rougeL('b. a', 'a b')).toBeCloseTo(f(1, 1), 15);
  });

  test('a perfect answer is not quite 1', () => {
    expect(rougeL('a b', 'a b')).toBe(0.999999995);
  });

  test('empty texts, and sentences of nothing', () => {
    expect(rougeL('', 'a')).toBe(0);
    expect(rougeL('a', '')).toBe(0);
    expect(rougeL('...', 'a')).toBe(0);
    expect(rougeL(' ', 'a')).toBe(0);
    // White space between two full stops is a sentence of one empty word: 1 of 2 words on both sides.
    expect(rougeL('a. .', 'b. .')).toBeCloseTo(f(1 / 2, 1 / 2), 15);
  });

  test('case and punctuation count', () => {
    expect(rougeL('Paris', 'paris')).toBe(0);
    expect(rougeL('yes,', 'yes')).toBe(0);
  });

  test('sentences longer than the reference can recurse over get a score', () => {
    const long = (from: number) => Array.from({ length: 700 }, (_, i) => `w${from + i}`).join(' ');
    expect(rougeL(long(0), long(350))).toBeCloseTo(f(1 / 2, 1 / 2), 12);
  });

  test('Chinese: segmented, and its full stop ends no sentence', async () => {
    const segment = await loadSegmenter();
    // 大学 / 。 / 年会 against 年会 / 。 / 大学: the longest common subsequence is one word of three
    expect(rougeLChinese('大学。年会', '年会。大学', segment)).toBeCloseTo(f(1 / 3, 1 / 3), 15);
    expect(rougeLChinese('', '年会', segment)).toBe(0);
  });
});

describe('classification', () => {
  test('one over the classes that are named', () => {
    expect(classificationScore('Date', 'Date', ['Date', 'City'])).toBe(1);
    expect(classificationScore('Date or City', 'Date', ['Date', 'City'])).toBe(1 / 2);
    expect(classificationScore('City', 'Date', ['Date', 'City'])).toBe(0);
    expect(classificationScore('', 'Date', ['Date', 'City'])).toBe(0);
    expect(classificationScore('date', 'Date', ['Date'])).toBe(0);
  });

  test('a class whose name is part of the true one does not count', () => {
    expect(classificationScore('体育新闻', '体育新闻', ['体育', '体育新闻'])).toBe(1);
    // but one whose name contains the true one does
    expect(classificationScore('体育新闻', '体育', ['体育', '体育新闻'])).toBe(1 / 2);
  });

  test('the class after a dropped one is not looked at', () => {
    expect(classificationScore('abc', 'abc', ['a', 'b', 'abc'])).toBe(1 / 2);
    expect(classificationScore('abc', 'abc', ['a', 'abc', 'b'])).toBe(1);
  });
});

describe('numbers', () => {
  test('count: the share of the numbers that are right', () => {
    expect(countScore('There are 7 unique paragraphs', '7')).toBe(1);
    expect(countScore('7 of 12, so 7', '7')).toBeCloseTo(2 / 3, 12);
    expect(countScore('17', '7')).toBe(0);
    expect(countScore('seven', '7')).toBe(0);
    expect(countScore('', '7')).toBe(0);
    expect(countScore('07', '7')).toBe(0); // compared as text
  });

  test('retrieval: numbers against the number after the word', () => {
    expect(retrievalScore('Paragraph 12', 'Paragraph 12')).toBe(1);
    expect(retrievalScore('12, maybe 13', 'Paragraph 12')).toBe(1 / 2);
    expect(retrievalScore('', 'Paragraph 12')).toBe(0);
    expect(retrievalScoreChinese('答案是段落7。', '段落7')).toBe(1);
    expect(retrievalScoreChinese('7或8', '段落7')).toBe(1 / 2);
    expect(retrievalScoreChinese('七', '段落7')).toBe(0);
  });

  test('digits of other scripts are numbers, but equal only as written', () => {
    expect(countScore('٧ 7', '7')).toBe(1 / 2);
    expect(countScore('²', '2')).toBe(0); // no decimal digit
  });
});

describe('code similarity', () => {
  test('twice the matching characters over all, in whole percent', () => {
    expect(sequenceRatio('abcd', 'bcde')).toBe(0.75);
    expect(fuzzyRatio('ab', 'abc')).toBe(80);
    // difflib takes the longest block first, which is not always the most characters
    expect(sequenceRatio('tide', 'diet')).toBe(0.25);
    expect(sequenceRatio('diet', 'tide')).toBe(0.5);
  });

  test('halves go to the even percent', () => {
    // 1 of 16 characters twice: 12.5 percent
    expect(fuzzyRatio('a1234567', 'a7654321'.replace(/\d/g, 'x'))).toBe(12);
    // 3 of 16 twice: 37.5 percent
    expect(fuzzyRatio('abc12345', 'abcxxxxx')).toBe(38);
  });

  test('equal texts and empty ones', () => {
    expect(fuzzyRatio('', '')).toBe(100);
    expect(fuzzyRatio('', 'a')).toBe(0);
    expect(fuzzyRatio('a', '')).toBe(0);
  });

  test('characters outside the basic plane are one character', () => {
    expect(sequenceRatio('😀a', '😁a')).toBe(0.5);
  });

  test('from 200 characters on, frequent ones only extend other matches', () => {
    const line = 'x'.repeat(200);
    expect(sequenceRatio(line, line)).toBe(1);
    expect(sequenceRatio(`q${line}`, line)).toBe(0);
    expect(sequenceRatio(`q${line.slice(2)}`, line.slice(1))).toBeCloseTo(396 / 398, 12);
  });

  test('the line that counts: no comment, no fence, after line feeds', () => {
    expect(codeLine('\n\n    return x\nfoo')).toBe('    return x');
    expect(codeLine('```python\n# note\n// note\n  a = 1')).toBe('  a = 1');
    expect(codeLine('# only a note')).toBe('');
    expect(codeLine('\n \nx')).toBe(' ');
    expect(codeSimilarity('`a`\nreturn x', 'return x')).toBe(1);
    expect(codeSimilarity('', 'return x')).toBe(0);
  });
});

describe('scores of a task', () => {
  test('the best answer counts', async () => {
    const score = await createScore('qa_f1', { firstLineOnly: false });
    expect(score('Paris', { answers: ['London', 'Paris, France', 'Paris'], classes: [] })).toBe(1);
    expect(score('Rome', { answers: ['London', 'Paris'], classes: [] })).toBe(0);
  });

  test('few-shot tasks are cut at the first line', async () => {
    const cut = await createScore('qa_f1', { firstLineOnly: true });
    const whole = await createScore('qa_f1', { firstLineOnly: false });
    const answer = { answers: ['Paris'], classes: [] };
    expect(cut('\nParis\nQuestion: more', answer)).toBe(1);
    expect(whole('\nParis\nQuestion: more', answer)).toBe(0.5);
  });
});
