/**
 * Code similarity: the ratio of Python's `difflib.SequenceMatcher`, which `fuzzywuzzy` rounds to whole percent. The
 * benchmark installs fuzzywuzzy without python-Levenshtein, whose ratio differs. Works on code points.
 */
import { roundHalfEven } from './rounding.js';

/** Places of each character of `b`. From 200 characters on, those in more than 1% of the places are ignored. */
function placesOf(b: readonly string[]): Map<string, number[]> {
  const places = new Map<string, number[]>();
  b.forEach((char, j) => {
    const list = places.get(char);
    if (list === undefined) places.set(char, [j]);
    else list.push(j);
  });
  if (b.length >= 200) {
    const most = Math.floor(b.length / 100) + 1;
    for (const [char, list] of places) if (list.length > most) places.delete(char);
  }
  return places;
}

interface Match {
  i: number;
  j: number;
  size: number;
}

/** The longest block that a[alo..ahi) and b[blo..bhi) share; of equals the one that starts first in a, then in b. */
function longestMatch(
  a: readonly string[],
  b: readonly string[],
  places: ReadonlyMap<string, number[]>,
  [alo, ahi, blo, bhi]: readonly [number, number, number, number],
): Match {
  let best: Match = { i: alo, j: blo, size: 0 };
  let lengths = new Map<number, number>();
  for (let i = alo; i < ahi; i++) {
    const next = new Map<number, number>();
    for (const j of places.get(a[i]!) ?? []) {
      if (j < blo) continue;
      if (j >= bhi) break;
      const size = (lengths.get(j - 1) ?? 0) + 1;
      next.set(j, size);
      if (size > best.size) best = { i: i - size + 1, j: j - size + 1, size };
    }
    lengths = next;
  }
  // Ignored characters may still extend a block to both sides.
  let { i, j, size } = best;
  while (i > alo && j > blo && a[i - 1] === b[j - 1]) {
    i--;
    j--;
    size++;
  }
  while (i + size < ahi && j + size < bhi && a[i + size] === b[j + size]) size++;
  return { i, j, size };
}

/** Twice the characters in matching blocks over all characters, 0 to 1. */
export function sequenceRatio(first: string, second: string): number {
  const [a, b] = [[...first], [...second]];
  if (a.length + b.length === 0) return 1;
  const places = placesOf(b);
  let matched = 0;
  const open: [number, number, number, number][] = [[0, a.length, 0, b.length]];
  for (let range = open.pop(); range !== undefined; range = open.pop()) {
    const [alo, ahi, blo, bhi] = range;
    const { i, j, size } = longestMatch(a, b, places, range);
    if (size === 0) continue;
    matched += size;
    if (alo < i && blo < j) open.push([alo, i, blo, j]);
    if (i + size < ahi && j + size < bhi) open.push([i + size, ahi, j + size, bhi]);
  }
  return (2 * matched) / (a.length + b.length);
}

/** 0 to 100, whole; equal texts are 100 even when empty, an empty one against another is 0. */
export function fuzzyRatio(first: string, second: string): number {
  if (first === second) return 100;
  if (first === '' || second === '') return 0;
  return roundHalfEven(100 * sequenceRatio(first, second));
}

/** The first line that is neither comment nor Markdown fence; leading line feeds do not count. */
export function codeLine(prediction: string): string {
  const lines = prediction.replace(/^\n+/, '').split('\n');
  return lines.find((line) => !line.includes('`') && !line.includes('#') && !line.includes('//')) ?? '';
}

/** Similarity of the predicted line of code to the true one, 0 to 1 in steps of 0.01. */
export function codeSimilarity(prediction: string, truth: string): number {
  return fuzzyRatio(codeLine(prediction), truth) / 100;
}
