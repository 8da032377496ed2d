/**
 * Text as the reference implementation's language sees it. Its notions of white space, word characters, digits and
 * code points differ from JavaScript's, and scores depend on them.
 */

/** What `str.split()` splits at: not U+FEFF, but the separators U+001C to U+001F and U+0085. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are among the reference's separators
const WHITE_SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;

/** The words of a text, without empty ones. */
export function words(text: string): string[] {
  return text.split(WHITE_SPACE).filter((word) => word !== '');
}

const ASCII_PUNCTUATION = new Set('!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~');
const CHINESE_PUNCTUATION = new Set(
  '！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏.',
);

function without(text: string, ...sets: ReadonlySet<string>[]): string {
  let kept = '';
  for (const char of text) if (!sets.some((set) => set.has(char))) kept += char;
  return kept;
}

/** The articles as whole words; `\b` would take an accented letter for the end of a word. */
const ARTICLES = /(?<![\p{L}\p{N}_])(?:a|an|the)(?![\p{L}\p{N}_])/gu;

/** Lower case, without punctuation and articles, single spaces. */
export function normalizeAnswer(text: string): string {
  return words(without(text.toLowerCase(), ASCII_PUNCTUATION).replace(ARTICLES, ' ')).join(' ');
}

/** Lower case, without punctuation of both scripts and without any white space. */
export function normalizeChineseAnswer(text: string): string {
  return words(without(text.toLowerCase(), ASCII_PUNCTUATION, CHINESE_PUNCTUATION)).join('');
}

/** Every run of decimal digits, of any script, as written. */
export function numbersIn(text: string): string[] {
  return text.match(/\p{Nd}+/gu) ?? [];
}

/** The first line after leading line feeds. */
export function firstLine(text: string): string {
  return text.replace(/^\n+/, '').split('\n')[0]!;
}
