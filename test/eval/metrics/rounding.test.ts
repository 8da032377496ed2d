import { describe, expect, test } from 'vitest';
import { bucketScore, meanScore, roundHalfEven, roundTwo } from '../../../eval/metrics/rounding.js';

const repeat = (value: number, count: number): number[] => Array.from({ length: count }, () => value);

describe('rounding', () => {
  test('halves to the even number', () => {
    expect([0.5, 1.5, 2.5, 2.49, 2.51, 3].map(roundHalfEven)).toEqual([0, 2, 2, 2, 3, 3]);
  });

  test('two decimals of the binary value', () => {
    expect(roundTwo(3.125)).toBe(3.12); // exactly between
    expect(roundTwo(3.375)).toBe(3.38);
    expect(roundTwo(2.675)).toBe(2.67); // a little below in binary
    expect(roundTwo(1.005)).toBe(1);
    expect(roundTwo(33.3333)).toBe(33.33);
    expect(roundTwo(100)).toBe(100);
  });

  test('a task: 100 x mean', () => {
    expect(meanScore([1, 0, 0])).toBe(33.33);
    expect(meanScore([...repeat(1, 1), ...repeat(0, 31)])).toBe(3.12);
    expect(meanScore([])).toBeUndefined();
    // Summed from left to right: 0.1 + 0.2 + 0.3 is a little more than 0.6.
    expect(meanScore([0.1, 0.2, 0.3])).toBe(20);
  });

  test('a bucket of LongBench-E: summed and rounded as NumPy does, which can differ in the last digit', () => {
    const scores = [0.57, 0.58, 0.59, 0.29];
    expect(bucketScore(scores)).toBe(50.75);
    expect(bucketScore([])).toBeUndefined();
    // 200 scores in whole percent can have a mean in the middle between two hundredths of a percent.
    const apart = [...repeat(0, 199), 0.01];
    expect([meanScore(apart), bucketScore(apart)]).toEqual([0.01, 0]);
  });

  test('sums of any length', () => {
    for (const n of [1, 7, 8, 9, 127, 128, 129, 136, 200, 1000])
      expect(bucketScore(repeat(0.25, n))).toBe(25);
  });
});
