/**
 * Byte-pair merging of one word: O(n log n) with small constants, so that a million equal characters take no longer per
 * token than prose. Put in the place of the tokenizer library's own merging, which gives the same tokens.
 */

/** Words up to this many UTF-16 units are remembered. */
const CACHED_LENGTH = 64;
const CACHED_WORDS = 1 << 16;
/** Positions and ranks are packed into one double: rank * 2^27 + position. */
const POSITIONS = 1 << 27;

/**
 * Makes a function word -> tokens. `merges` are pairs in the order of preference; `ranks`, where given, is each pair's rank
 * (ascending, equal ranks allowed: the leftmost pair of the lowest rank is joined first).
 */
export function makeBpe(
  merges: readonly (readonly [string, string])[],
  ranks?: readonly number[],
): (word: string) => string[] {
  const { symbols, ids, joins } = compile(merges, ranks);
  const cache = new Map<string, string[]>();
  const merge = (word: string): string[] => {
    const chars = Array.from(word);
    if (chars.length < 2) return chars;
    if (chars.length >= POSITIONS) throw new RangeError(`a word of ${chars.length} characters is too long`);
    const line = mergeLine(
      Int32Array.from(chars, (char) => ids.get(char) ?? -1),
      joins,
    );
    const tokens: string[] = [];
    for (let i = 0; i < chars.length; i = line.next[i] as number) {
      const id = line.symbol[i] as number;
      tokens.push(id < 0 ? (chars[i] as string) : (symbols[id] as string));
    }
    return tokens;
  };
  return (word) => {
    const known = cache.get(word);
    if (known) return known;
    const tokens = merge(word);
    if (word.length <= CACHED_LENGTH) {
      if (cache.size >= CACHED_WORDS) cache.clear();
      cache.set(word, tokens);
    }
    return tokens;
  };
}

/** left symbol -> right symbol -> index of the pair in `rank` and `joined`. */
interface Joins {
  pairs: (Map<number, number> | undefined)[];
  rank: Float64Array;
  joined: Int32Array;
}

function compile(merges: readonly (readonly [string, string])[], ranks: readonly number[] | undefined) {
  const symbols: string[] = [];
  const ids = new Map<string, number>();
  const idOf = (text: string) => {
    let id = ids.get(text);
    if (id === undefined) {
      id = symbols.push(text) - 1;
      ids.set(text, id);
    }
    return id;
  };
  const joins: Joins = {
    pairs: [],
    rank: Float64Array.from(merges, (_, i) => ranks?.[i] ?? i),
    joined: new Int32Array(merges.length),
  };
  merges.forEach(([left, right], i) => {
    const row = joins.pairs[idOf(left)] ?? new Map<number, number>();
    joins.pairs[idOf(left)] = row;
    row.set(idOf(right), i);
    joins.joined[i] = idOf(left + right);
  });
  return { symbols, ids, joins };
}

/** Merges a line of symbols (-1: no symbol) in place. `next[i]` is where the symbol after the one at `i` starts. */
function mergeLine(symbol: Int32Array, joins: Joins): { symbol: Int32Array; next: Int32Array } {
  const n = symbol.length;
  const next = Int32Array.from(symbol, (_, i) => i + 1);
  const previous = Int32Array.from(symbol, (_, i) => i - 1);
  const pairAt = (i: number): number => {
    const j = next[i] as number;
    const left = symbol[i] as number;
    return j >= n || left < 0 ? -1 : (joins.pairs[left]?.get(symbol[j] as number) ?? -1);
  };
  const queue = new Queue(n);
  const offer = (i: number) => {
    const pair = pairAt(i);
    if (pair >= 0) queue.push((joins.rank[pair] as number) * POSITIONS + i);
  };
  for (let i = 0; i < n - 1; i++) offer(i);
  while (queue.length > 0) {
    const top = queue.pop();
    const i = top % POSITIONS;
    // An entry is stale when its symbol is gone or now stands before another one.
    const pair = next[i] === i ? -1 : pairAt(i);
    if (pair < 0 || (joins.rank[pair] as number) * POSITIONS + i !== top) continue;
    const j = next[i] as number;
    const after = next[j] as number;
    symbol[i] = joins.joined[pair] as number;
    next[i] = after;
    next[j] = j;
    if (after < n) previous[after] = i;
    const before = previous[i] as number;
    if (before >= 0) offer(before);
    offer(i);
  }
  return { symbol, next };
}

/** A binary min-heap of doubles. */
class Queue {
  private items: Float64Array;
  length = 0;

  constructor(capacity: number) {
    this.items = new Float64Array(Math.max(capacity, 16));
  }

  push(value: number): void {
    if (this.length === this.items.length) {
      const grown = new Float64Array(this.length * 2);
      grown.set(this.items);
      this.items = grown;
    }
    const { items } = this;
    let at = this.length++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if ((items[parent] as number) <= value) break;
      items[at] = items[parent] as number;
      at = parent;
    }
    items[at] = value;
  }

  /** The smallest value; the queue must not be empty. */
  pop(): number {
    const { items } = this;
    const top = items[0] as number;
    const value = items[--this.length] as number;
    const { length } = this;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= length) break;
      if (child + 1 < length && (items[child + 1] as number) < (items[child] as number)) child++;
      if ((items[child] as number) >= value) break;
      items[at] = items[child] as number;
      at = child;
    }
    items[at] = value;
    return top;
  }
}
