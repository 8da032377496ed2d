/**
 * ROUGE-L as the Python package `rouge` 1.0.1 computes it, which is what the benchmark's published scores mean:
 * sentences end at every full stop, words are kept in sets (a repeated word counts once), and each sentence of the
 * reference adds what its union of longest common subsequences brings that was not there before.
 *
 * One difference is deliberate. The package recurses once per word and gives up when Python's stack is full, at two
 * sentences of together about a thousand words; the benchmark then counts 0. Here such sentences get their score.
 */
import { words } from './text.js';

/** Sentences as lists of words. A sentence of white space is one empty word, as in the package. */
function sentences(text: string): string[][] {
  return text
    .split('.')
    .filter((part) => part !== '')
    .map((part) => words(part).join(' ').split(' '));
}

/** Words of one longest common subsequence; where two are equally long, the one that shortens `b` first. */
function commonSubsequence(a: readonly string[], b: readonly string[]): string[] {
  const width = b.length + 1;
  const lengths = new Uint32Array((a.length + 1) * width);
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      lengths[i * width + j] =
        a[i - 1] === b[j - 1]
          ? lengths[(i - 1) * width + j - 1]! + 1
          : Math.max(lengths[(i - 1) * width + j]!, lengths[i * width + j - 1]!);
    }
  }
  const found: string[] = [];
  for (let i = a.length, j = b.length; i > 0 && j > 0; ) {
    if (a[i - 1] === b[j - 1]) {
      found.push(a[i - 1]!);
      i--;
      j--;
    } else if (lengths[(i - 1) * width + j]! > lengths[i * width + j - 1]!) i--;
    else j--;
  }
  return found;
}

/** F of ROUGE-L, 0 to 1; 0 where either text has no sentence. */
export function rougeL(prediction: string, truth: string): number {
  const [predicted, wanted] = [sentences(prediction), sentences(truth)];
  if (predicted.length === 0 || wanted.length === 0) return 0;
  const union = new Set<string>();
  for (const reference of wanted)
    for (const sentence of predicted)
      for (const word of commonSubsequence(reference, sentence)) union.add(word);
  const recall = union.size / new Set(wanted.flat()).size;
  const precision = union.size / new Set(predicted.flat()).size;
  return 2 * ((precision * recall) / (precision + recall + 1e-8));
}

/** For Chinese: words are made by segmentation first. A Chinese full stop ends no sentence. */
export function rougeLChinese(
  prediction: string,
  truth: string,
  segment: (text: string) => string[],
): number {
  return rougeL(segment(prediction).join(' '), segment(truth).join(' '));
}
