/** Text of a growing list of ids, piece by piece, without ever showing half a character. */

export interface TextStream {
  /** The text that this id completes; often empty. */
  push(id: number): string;
  /** What was held back at the end. */
  flush(): string;
}

/**
 * Decodes incrementally. The last ids of the prompt give the context that decides about leading spaces;
 * text that ends in a replacement character is held back until more bytes complete it.
 */
export function createTextStream(
  decode: (ids: number[]) => string,
  promptTail: ArrayLike<number>,
): TextStream {
  const ids = Array.from(promptTail);
  // Text up to `shown` is out; `from` starts the window that is decoded again for each id.
  let from = 0;
  let shown = ids.length;
  const take = (final: boolean): string => {
    const before = decode(ids.slice(from, shown));
    const now = decode(ids.slice(from));
    if (now.length <= before.length || (!final && now.endsWith('\uFFFD'))) return '';
    from = shown;
    shown = ids.length;
    return now.slice(before.length);
  };
  return {
    push(id) {
      ids.push(id);
      return take(false);
    },
    flush: () => (shown < ids.length ? take(true) : ''),
  };
}

export interface Parting {
  /** First place where the ids differ, or the length of both when they are the same. */
  token: number;
  same: boolean;
}

/** Where two lists of ids part. */
export function whereTheyPart(a: ArrayLike<number>, b: ArrayLike<number>): Parting {
  const shorter = Math.min(a.length, b.length);
  let token = 0;
  while (token < shorter && a[token] === b[token]) token++;
  return { token, same: token === a.length && token === b.length };
}
