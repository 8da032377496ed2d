import stringWidth from 'string-width';
import { describe, expect, test } from 'vitest';
import { layColumns, printable, wrap } from '../../src/cli/columns.js';

describe('columns', () => {
  test('breaks at spaces, cuts words that are wider than a line, keeps line feeds', () => {
    expect(wrap('one two three', 7)).toEqual(['one two', 'three']);
    expect(wrap('abcdefghij k', 4)).toEqual(['abcd', 'efgh', 'ij k']);
    expect(wrap('a\n\nb', 5)).toEqual(['a', '', 'b']);
    expect(wrap('', 5)).toEqual(['']);
    expect(wrap('one    two', 4)).toEqual(['one', 'two']);
  });

  test('counts cells, not characters', () => {
    expect(wrap('你好世界', 4)).toEqual(['你好', '世界']);
    expect(wrap('你好世', 5)).toEqual(['你好', '世']);
    const family = '👩‍👩‍👧‍👦';
    expect(wrap(family.repeat(3), 4)).toEqual([family.repeat(2), family]);
    expect(wrap('e\u0301e\u0301e\u0301', 2)).toEqual(['e\u0301e\u0301', 'e\u0301']);
  });

  test('a text cannot move the cursor, colour the screen or turn the writing round', () => {
    const hostile = 'a\u001b[2J\u001b]0;title\u0007b\rc\u0000d\u202ee\u009bf\tg';
    expect(printable(hostile)).toBe('a\ufffd[2J\ufffd]0;title\ufffdb\ufffdc\ufffdd\ufffde\ufffdf    g');
    expect(printable('a\r\nb')).toBe('a\nb');
  });

  test.each([20, 41, 80, 200])(
    '%d cells wide: every line fits, and the last lines of each text show',
    (width) => {
      const lines = layColumns(
        [
          {
            title: 'full',
            text: Array.from({ length: 40 }, (_, i) => `line ${i}`).join('\n'),
            status: ['40 tokens', 'KV read 100%'],
          },
          {
            title: 'quest 256',
            text: '你好，世界。'.repeat(30),
            status: ['7 tokens, 12.5 tokens/s, done', 'KV read 3.2%'],
          },
        ],
        width,
        6,
      );
      expect(lines).toHaveLength(11);
      for (const line of lines) expect(stringWidth(line)).toBeLessThanOrEqual(width);
      expect(lines[2]).toMatch(/^line 34/);
      expect(lines[7]).toMatch(/^line 39/);
      expect(new Set(lines.map((line) => line.search(/[│┼]/))).size).toBeLessThanOrEqual(2);
    },
  );
});
