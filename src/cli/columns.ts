/** Texts side by side in terminal columns: wrapping by displayed width, and the last lines of each that fit. */
import stringWidth from 'string-width';

const segmenter = new Intl.Segmenter(undefined, { granularity: 'grapheme' });

/** What a terminal cannot be given as text: control characters and escape sequences of a model's making. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is replaced
const CONTROL = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** Makes a text harmless: tabs become spaces, other control characters a visible sign. */
export const printable = (text: string): string =>
  text.replaceAll('\r\n', '\n').replaceAll('\t', '    ').replace(CONTROL, '\ufffd');

/** Cuts one word that is wider than a line. */
function cutWord(word: string, width: number): string[] {
  const parts: string[] = [];
  let part = '';
  for (const { segment } of segmenter.segment(word)) {
    if (part !== '' && stringWidth(part) + stringWidth(segment) > width) {
      parts.push(part);
      part = '';
    }
    part += segment;
  }
  return [...parts, part];
}

/** Lines of at most `width` cells, broken at spaces where there are some; line feeds stay. */
export function wrap(text: string, width: number): string[] {
  return text.split('\n').flatMap((paragraph) => {
    const lines: string[] = [];
    let line = '';
    for (const piece of paragraph.match(/\S+|\s+/g) ?? []) {
      if (stringWidth(line) + stringWidth(piece) <= width) {
        line += piece;
        continue;
      }
      if (/^\s/.test(piece)) continue; // a break takes the place of the space
      if (line.trim() !== '') lines.push(line.trimEnd());
      const parts = cutWord(piece, width);
      lines.push(...parts.slice(0, -1));
      line = parts.at(-1)!;
    }
    return [...lines, line];
  });
}

/** One text cut or filled up to exactly `width` cells. */
export function fitTo(text: string, width: number): string {
  const [first = ''] = stringWidth(text) > width ? cutWord(text, width) : [text];
  return first + ' '.repeat(Math.max(0, width - stringWidth(first)));
}

export interface Column {
  title: string;
  text: string;
  /** Lines beneath the text. */
  status: readonly string[];
}

const GAP = ' │ ';

/** The picture: titles, a rule, the last `height` lines of each text, a rule, status lines. Every line has `width` cells at most. */
export function layColumns(columns: readonly Column[], width: number, height: number): string[] {
  const each = Math.max(8, Math.floor((width - GAP.length * (columns.length - 1)) / columns.length));
  const row = (cells: readonly string[]) => cells.map((cell) => fitTo(cell, each)).join(GAP);
  const rule = columns.map(() => '─'.repeat(each)).join('─┼─');
  const texts = columns.map(({ text }) => wrap(printable(text), each).slice(-height));
  const body = Array.from({ length: height }, (_, i) => row(texts.map((lines) => lines[i] ?? '')));
  return [
    row(columns.map(({ title }) => title)),
    rule,
    ...body,
    rule,
    ...(columns[0]?.status ?? []).map((_, i) => row(columns.map(({ status }) => status[i] ?? ''))),
  ].map((line) => line.trimEnd());
}
