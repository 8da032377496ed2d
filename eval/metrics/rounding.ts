/** Means and rounding exactly as the reference computes them, so that the last printed digit is the same. */

/** To the nearest whole number, halves to the even one. */
export function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Two decimals of the number's exact binary value, halves to the even digit: Python's `round(x, 2)`. */
export function roundTwo(x: number): number {
  // Only multiples of 1/8 can lie exactly between two hundredths; toFixed is exact but takes the larger one there.
  return Number.isInteger(x * 8) ? roundHalfEven(x * 100) / 100 : Number(x.toFixed(2));
}

/** Adds up as NumPy does: eight running sums over blocks of at most 128 numbers, halves added pairwise above that. */
function pairwiseSum(values: readonly number[], from: number, count: number): number {
  if (count < 8) {
    let sum = 0;
    for (let i = 0; i < count; i++) sum += values[from + i]!;
    return sum;
  }
  if (count > 128) {
    const half = Math.floor(count / 2);
    const first = half - (half % 8);
    return pairwiseSum(values, from, first) + pairwiseSum(values, from + first, count - first);
  }
  const r = values.slice(from, from + 8);
  const whole = count - (count % 8);
  for (let i = 8; i < whole; i++) r[i % 8]! += values[from + i]!;
  let sum = r[0]! + r[1]! + (r[2]! + r[3]!) + (r[4]! + r[5]! + (r[6]! + r[7]!));
  for (let i = whole; i < count; i++) sum += values[from + i]!;
  return sum;
}

/** The benchmark's score of a task: 100 x mean with two decimals; undefined without samples. */
export function meanScore(scores: readonly number[]): number | undefined {
  if (scores.length === 0) return undefined;
  let total = 0;
  for (const score of scores) total += score;
  return roundTwo((100 * total) / scores.length);
}

/** The benchmark's score of a length bucket of LongBench-E, which goes through NumPy's mean and rounding. */
export function bucketScore(scores: readonly number[]): number | undefined {
  if (scores.length === 0) return undefined;
  const mean = pairwiseSum(scores, 0, scores.length) / scores.length;
  return roundHalfEven(100 * mean * 100) / 100;
}
