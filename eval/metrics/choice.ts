/** Metrics that look for one right label or number among those that a prediction names. */
import { numbersIn } from './text.js';

/**
 * One over the number of classes that the prediction names, when the true one is among them. Named classes that are
 * part of the true one's name are dropped first, in one pass over the list that is being shortened: the class after a
 * dropped one is not looked at. The benchmark does this, so its scores depend on it.
 */
export function classificationScore(prediction: string, truth: string, classes: readonly string[]): number {
  const named = classes.filter((name) => prediction.includes(name));
  for (let i = 0; i < named.length; i++) {
    const name = named[i]!;
    if (truth.includes(name) && name !== truth) named.splice(named.indexOf(name), 1);
  }
  return named.includes(truth) ? 1 / named.length : 0;
}

function shareOf(numbers: readonly string[], wanted: string | undefined): number {
  if (numbers.length === 0 || wanted === undefined) return 0;
  return numbers.filter((number) => number === wanted).length / numbers.length;
}

/** The share of the prediction's numbers that are the count. */
export function countScore(prediction: string, truth: string): number {
  return shareOf(numbersIn(prediction), truth);
}

/** The share of the prediction's numbers that are the number of the right paragraph. */
export function retrievalScore(prediction: string, truth: string): number {
  return shareOf(numbersIn(prediction), /Paragraph (\p{Nd}+)/u.exec(truth)?.[1]);
}

/** The same for Chinese, where a paragraph is called 段落. */
export function retrievalScoreChinese(prediction: string, truth: string): number {
  return shareOf(numbersIn(prediction), /段落(\p{Nd}+)/u.exec(truth)?.[1]);
}
