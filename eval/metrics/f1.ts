/** QA F1: overlap of two bags of words. */
import { normalizeAnswer, normalizeChineseAnswer, words } from './text.js';

/** Harmonic mean of precision and recall over tokens, each counted as often as both lists have it. */
export function tokenF1(prediction: readonly string[], truth: readonly string[]): number {
  const left = new Map<string, number>();
  for (const token of truth) left.set(token, (left.get(token) ?? 0) + 1);
  let same = 0;
  for (const token of prediction) {
    const count = left.get(token) ?? 0;
    if (count > 0) {
      same++;
      left.set(token, count - 1);
    }
  }
  if (same === 0) return 0;
  const precision = same / prediction.length;
  const recall = same / truth.length;
  return (2 * precision * recall) / (precision + recall);
}

/** For English answers: normalised words. */
export function qaF1(prediction: string, truth: string): number {
  return tokenF1(words(normalizeAnswer(prediction)), words(normalizeAnswer(truth)));
}

/** For Chinese answers: segmented first, then each word normalised; empty ones drop out. */
export function qaF1Chinese(prediction: string, truth: string, segment: (text: string) => string[]): number {
  const tokens = (text: string) =>
    segment(text)
      .map(normalizeChineseAnswer)
      .filter((token) => token !== '');
  return tokenF1(tokens(prediction), tokens(truth));
}
