import { copyFileSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { packageRoot } from '../../src/model/package_root.js';
import { decodeBytes, splitsAtSpaces } from '../../src/model/tokenizer_engine.js';
import { loadTokenizer } from '../../src/model/tokenizer_files.js';
import { errorOf, folder, GOLDEN, hasGolden, SHARED, SKIPPED, temporaryFolder } from './helpers.js';

const root = temporaryFolder();
const MODEL = { bosId: undefined, eosIds: [] };
let serial = 0;
const load = (
  files: Record<string, string | Buffer | object>,
  model: Parameters<typeof loadTokenizer>[1] = MODEL,
) => loadTokenizer(folder(root, `t${serial++}`, files), model);

const field = (id: number, bytes: Buffer) =>
  Buffer.concat([Buffer.from([(id << 3) | 2, bytes.length]), bytes]);
const number = (id: number, value: number) =>
  Buffer.from(id < 16 ? [id << 3, value] : [((id << 3) & 127) | 128, id >> 4, value]);
const TYPES = { normal: 1, unknown: 2, control: 3, user: 4, unused: 5, byte: 6 } as const;

/** A SentencePiece model: pieces with scores, and settings beyond those of Llama. */
function sentencePiece(
  pieces: [string, number, keyof typeof TYPES][],
  {
    type = 2,
    bos = 1,
    normalizer = Buffer.alloc(0),
  }: { type?: number; bos?: number; normalizer?: Buffer } = {},
): Buffer {
  const trainer = Buffer.concat([number(3, type), number(35, 1), number(41, bos)]);
  const spaces = Buffer.concat([field(1, Buffer.from('identity')), number(4, 0), normalizer]);
  return Buffer.concat([
    ...pieces.map(([text, score, kind]) => {
      const bytes = Buffer.alloc(5, 0x15);
      bytes.writeFloatLE(score, 1);
      return field(1, Buffer.concat([field(1, Buffer.from(text)), bytes, number(3, TYPES[kind])]));
    }),
    field(2, trainer),
    field(3, spaces),
  ]);
}

const BASE: [string, number, keyof typeof TYPES][] = [
  ['<unk>', 0, 'unknown'],
  ['<s>', 0, 'control'],
  ['</s>', 0, 'control'],
];

describe.skipIf(!hasGolden)(`SentencePiece golden vectors${SKIPPED}`, () => {
  const golden = async () => {
    const dir = folder(root, 'llama2', {});
    copyFileSync(path.join(GOLDEN, 'tokenizer', 'llama2.tokenizer.model'), path.join(dir, 'tokenizer.model'));
    return loadTokenizer(dir, MODEL);
  };

  it('all 104 texts: ids and decoded text', async () => {
    const tokenizer = await golden();
    const lines = readFileSync(path.join(GOLDEN, 'tokenizer', 'llama2-sentencepiece.jsonl'), 'utf8')
      .trim()
      .split('\n');
    expect(lines).toHaveLength(104);
    for (const line of lines) {
      const { text, ids, decoded } = JSON.parse(line) as { text: string; ids: number[]; decoded: string };
      expect([...tokenizer.encode(text, { bos: false })]).toEqual(ids);
      expect([...tokenizer.encode(text)]).toEqual([1, ...ids]);
      expect(tokenizer.decode(ids)).toBe(decoded);
      expect(tokenizer.decode([1, ...ids, 2], { skipSpecial: true })).toBe(decoded);
    }
    expect(tokenizer).toMatchObject({
      vocabSize: 32000,
      bosId: 1,
      eosIds: [2],
      addsBos: true,
      source: 'tokenizer.model',
    });
  });

  it('books come back as they were, and growing ids decode to growing text', async () => {
    const tokenizer = await golden();
    const dir = path.join(SHARED, 'data', 'pg19-test');
    for (const name of readdirSync(dir)) {
      const text = readFileSync(path.join(dir, name), 'utf8');
      expect(tokenizer.decode(tokenizer.encode(text), { skipSpecial: true })).toBe(text);
    }
    const ids = tokenizer.encode('naïve 🙂 text', { bos: false });
    const steps = Array.from(ids, (_, i) => tokenizer.decode(ids.subarray(0, i + 1)));
    expect(steps.at(-1)).toBe('naïve 🙂 text');
    expect(steps.filter((step) => step.endsWith('\ufffd')).length).toBe(3);
  });

  it('takes time in proportion to the text, whatever the text', async () => {
    const tokenizers = [
      await golden(),
      await loadTokenizer(path.join(packageRoot(), 'models', 'quest-tiny'), MODEL),
    ];
    const seconds = (run: () => void) => {
      const before = process.cpuUsage();
      run();
      return process.cpuUsage(before).user / 1e6;
    };
    for (const tokenizer of tokenizers)
      for (const unit of [' ', 'a', 'ab', '7', '\n', '▁']) {
        const text = unit.repeat(100_000 / unit.length);
        // Work that grows with the square would take minutes.
        expect(seconds(() => tokenizer.encode(text))).toBeLessThan(5);
      }
  }, 120_000);
});

describe('SentencePiece', () => {
  it('joins by score, the leftmost of equals first, even where one side is no piece', async () => {
    const bytes = Array.from({ length: 256 }, (_, i): [string, number, 'byte'] => [
      `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`,
      0,
      'byte',
    ]);
    const pieces: typeof BASE = [
      ...BASE,
      ...bytes,
      ['▁', -9, 'normal'],
      ['a', -9, 'normal'],
      ['b', -9, 'normal'],
      ['aa', -1, 'normal'],
      ['aaa', -2, 'normal'],
      ['xy', -3, 'normal'],
    ];
    const { encode, decode } = await load({ 'tokenizer.model': sentencePiece(pieces) });
    const id = (text: string) => pieces.findIndex(([piece]) => piece === text);
    const encoded = (text: string) => [...encode(text, { bos: false })];
    expect(encoded('aaaa')).toEqual([id('▁'), id('aa'), id('aa')]);
    expect(encoded('aaaaa')).toEqual([id('▁'), id('aa'), id('aaa')]);
    expect(encoded('xy')).toEqual([id('▁'), id('xy')]);
    expect(encoded('x\ufeff')).toEqual([id('▁'), id('<0x78>'), id('<0xEF>'), id('<0xBB>'), id('<0xBF>')]);
    expect(decode(encoded('x\ufeffb'))).toBe('x\ufeffb');
    expect(decode([id('<0xE4>'), id('<0xBD>'), id('a')])).toBe('\ufffd\ufffda');
    expect(encoded('')).toEqual([]);
    expect([...encode('')]).toEqual([1]);
    // Control tokens in text are text.
    expect(encoded('<s>')).not.toContain(1);
    expect(decode([1, id('a'), 2])).toBe('<s>a</s>');
    expect(decode([1, id('a'), 2], { skipSpecial: true })).toBe('a');
  });

  it('matches user-defined pieces and added tokens whole', async () => {
    const pieces: typeof BASE = [...BASE, ['▁', -9, 'normal'], ['a', -9, 'normal'], ['[X]', 0, 'user']];
    const tokenizer = await load({
      'tokenizer.model': sentencePiece(pieces),
      'added_tokens.json': { '<pad>': 6 },
    });
    expect([...tokenizer.encode('a[X]a<pad>', { bos: false })]).toEqual([3, 4, 5, 4, 6]);
    expect(tokenizer.vocabSize).toBe(7);
  });

  it('adds BOS as tokenizer_config.json says, and by default', async () => {
    const model = sentencePiece([...BASE, ['▁', -9, 'normal'], ['a', -9, 'normal']]);
    expect((await load({ 'tokenizer.model': model })).addsBos).toBe(true);
    const off = await load({ 'tokenizer.model': model, 'tokenizer_config.json': { add_bos_token: false } });
    expect([...off.encode('a')]).toEqual([3, 4]);
    expect([...off.encode('a', { bos: true })]).toEqual([1, 3, 4]);
    const none = await load({ 'tokenizer.model': sentencePiece(BASE, { bos: 100 }) });
    expect(none).toMatchObject({ bosId: undefined, addsBos: false });
    expect((await errorOf(() => none.encode('a', { bos: true }))).message).toMatch(/has no BOS token/);
  });

  it.each<[string, Buffer, RegExp]>([
    ['a Unigram model', sentencePiece(BASE, { type: 1 }), /is of type UNIGRAM; supported: BPE/],
    [
      'a normaliser',
      sentencePiece(BASE, { normalizer: field(2, Buffer.from('x')) }),
      /rules "identity"; supported: identity/,
    ],
    ['trimmed spaces', sentencePiece(BASE, { normalizer: number(4, 1) }), /treats spaces/],
    ['unused pieces', sentencePiece([...BASE, ['q', 0, 'unused']]), /unused pieces/],
    ['a piece twice', sentencePiece([...BASE, ['q', 0, 'normal'], ['q', 0, 'normal']]), /same piece twice/],
    ['an empty piece', sentencePiece([...BASE, ['', 0, 'normal']]), /piece 3 is empty/],
    ['no pieces', sentencePiece([]), /holds no pieces/],
    ['an empty file', Buffer.alloc(0), /no SentencePiece model/],
    [
      'a text',
      Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:00\n'),
      /no SentencePiece model/,
    ],
    ['a cut file', sentencePiece(BASE).subarray(0, 20), /no SentencePiece model/],
  ])('refuses %s', async (_, bytes, message) => {
    const error = await errorOf(load({ 'tokenizer.model': bytes }));
    expect(error.code).toBe('E_TOKENIZER');
    expect(error.message).toMatch(message);
  });
});

const VOCAB = { '<s>': 0, '</s>': 1, '▁': 2, a: 3, b: 4, ab: 5, '▁ab': 6, '<unk>': 7 };
const JSON_MODEL = {
  type: 'BPE',
  vocab: VOCAB,
  merges: [
    ['a', 'b'],
    ['▁', 'ab'],
  ],
  unk_token: '<unk>',
};
const SPECIALS = [0, 1].map((id) => ({
  id,
  content: Object.keys(VOCAB)[id],
  special: true,
  normalized: false,
}));
const TEMPLATE = {
  type: 'TemplateProcessing',
  single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
  pair: [],
  special_tokens: { '<s>': { id: '<s>', ids: [0], tokens: ['<s>'] } },
};
const tokenizerJson = (more: object = {}) => ({
  added_tokens: SPECIALS,
  normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
  decoder: {
    type: 'Sequence',
    decoders: [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'Fuse' }],
  },
  model: JSON_MODEL,
  ...more,
});

describe('tokenizer.json', () => {
  it('encodes, recognises special tokens, and decodes', async () => {
    const tokenizer = await load({ 'tokenizer.json': tokenizerJson(), 'tokenizer.model': 'not read' });
    expect([...tokenizer.encode('ab ab ba</s>?')]).toEqual([5, 6, 2, 4, 3, 1, 7]);
    expect(tokenizer.decode([5, 6, 1])).toBe('ab ab</s>');
    expect(tokenizer.decode([5, 6, 1], { skipSpecial: true })).toBe('ab ab');
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.decode([99, 5])).toBe('ab');
    for (const id of [-1, 1.5, Number.NaN])
      expect((await errorOf(() => tokenizer.decode([id]))).code).toBe('E_TOKEN_ID');
    expect(tokenizer).toMatchObject({ vocabSize: 8, source: 'tokenizer.json' });
  });

  it('cuts words as Metaspace says', async () => {
    const vocab = { a: 0, '▁': 1, '▁▁': 2, '▁a': 3 };
    const model = {
      type: 'BPE',
      vocab,
      merges: [
        ['▁', '▁'],
        ['▁', 'a'],
      ],
    };
    const encoded = async (more: object) => {
      const pre_tokenizer = { type: 'Metaspace', replacement: '▁', ...more };
      const json = tokenizerJson({ model, pre_tokenizer, added_tokens: [], normalizer: null });
      return [...(await load({ 'tokenizer.json': json })).encode('a  a')];
    };
    expect(await encoded({ prepend_scheme: 'always', split: true })).toEqual([3, 1, 3]);
    expect(await encoded({ prepend_scheme: 'first', split: false })).toEqual([3, 2, 0]);
    expect(await encoded({ prepend_scheme: 'never', split: false })).toEqual([0, 2, 0]);
    expect(await encoded({})).toEqual([3, 1, 3]);
  });

  it('keeps spaces before punctuation when decoding', async () => {
    const vocab = { a: 0, '▁': 1, '.': 2 };
    const { decode } = await load({
      'tokenizer.json': tokenizerJson({ model: { type: 'BPE', vocab, merges: [] }, added_tokens: [] }),
    });
    expect(decode([0, 1, 2])).toBe('a .');
  });

  it.each<[string, object, object, boolean, number | undefined]>([
    ['nothing said', {}, {}, false, 9],
    ['a template', { post_processor: TEMPLATE }, {}, true, 0],
    [
      'a template inside a sequence',
      { post_processor: { type: 'Sequence', processors: [{ type: 'ByteLevel' }, TEMPLATE] } },
      {},
      true,
      0,
    ],
    [
      'a template without BOS',
      { post_processor: { ...TEMPLATE, single: TEMPLATE.single.slice(1) } },
      {},
      false,
      9,
    ],
    ['add_bos_token', {}, { add_bos_token: true, bos_token: '<s>' }, true, 0],
    [
      'add_bos_token false against a template',
      { post_processor: TEMPLATE },
      { add_bos_token: false },
      false,
      0,
    ],
    [
      "Llama's own class",
      {},
      { tokenizer_class: 'LlamaTokenizerFast', bos_token: { content: '<s>' } },
      true,
      0,
    ],
    ['another class', {}, { tokenizer_class: 'PreTrainedTokenizerFast', bos_token: '<s>' }, false, 0],
  ])('BOS: %s', async (_, json, config, adds, bosId) => {
    const files = { 'tokenizer.json': tokenizerJson(json), 'tokenizer_config.json': config };
    const { encode, addsBos, bosId: found } = await load(files, { bosId: 9, eosIds: [1] });
    expect([addsBos, found]).toEqual([adds, bosId]);
    expect([...encode('ab')]).toEqual(adds ? [bosId, 5] : [5]);
    expect([...encode('ab', { bos: false })]).toEqual([5]);
    expect([...encode('ab', { bos: true })]).toEqual([bosId, 5]);
  });

  it('reads merges written as texts, and eos from tokenizer_config.json', async () => {
    const json = tokenizerJson({ model: { ...JSON_MODEL, type: undefined, merges: ['a b', '▁ ab'] } });
    const files = { 'tokenizer.json': json, 'tokenizer_config.json': { eos_token: '</s>' } };
    const { encode, eosIds } = await load(files, { bosId: 0, eosIds: [7] });
    expect([...encode(' ab')]).toEqual([6]);
    expect(eosIds).toEqual([1]);
  });

  it.each<[string, string | object, RegExp]>([
    ['cut JSON', '{"model": {', /not valid JSON/],
    ['a list', '[]', /holds \[\], not a JSON object/],
    ['no model', {}, /model is nothing; supported: a BPE model/],
    [
      'a Unigram model',
      { model: { type: 'Unigram', vocab: [] } },
      /model\.type is "Unigram"; supported: "BPE"/,
    ],
    ['a vocabulary that is a list', { model: { type: 'BPE', vocab: [], merges: [] } }, /model\.vocab/],
    ['ids that are texts', { model: { type: 'BPE', vocab: { a: '0' }, merges: [] } }, /model\.vocab/],
    ['ids beyond 31 bits', { model: { type: 'BPE', vocab: { a: 2 ** 31 }, merges: [] } }, /model\.vocab/],
    ['no merges', { model: { type: 'BPE', vocab: { a: 0 } } }, /model\.merges is nothing/],
    [
      'merges of three',
      { model: { type: 'BPE', vocab: { a: 0 }, merges: ['a b c'] } },
      /model\.merges holds "a b c"/,
    ],
    [
      'an unknown normaliser',
      tokenizerJson({ normalizer: { type: 'Magic' } }),
      /cannot be used: Unknown Normalizer type: Magic/,
    ],
    ['an unknown decoder', tokenizerJson({ decoder: { type: 'Magic' } }), /cannot be used/],
    ['added tokens without id', tokenizerJson({ added_tokens: [{ content: 'x' }] }), /added_tokens/],
  ])('refuses %s', async (_, content, message) => {
    const error = await errorOf(load({ 'tokenizer.json': content }));
    expect(error.code).toBe('E_TOKENIZER');
    expect(error.message).toMatch(message);
    expect(error.hint).toBeTruthy();
  });
});

describe('helpers', () => {
  it('a cut before ▁ is safe only where no merge crosses it', () => {
    expect(
      splitsAtSpaces([
        ['▁', '▁'],
        ['▁a', 'b'],
      ]),
    ).toBe(true);
    expect(splitsAtSpaces([['a', '▁']])).toBe(false);
    expect(splitsAtSpaces([['a▁', 'b']])).toBe(false);
  });

  it('bad bytes become U+FFFD, one each', () => {
    const bytes = Uint8Array.of(0x61, 0xff, 0xc3, 0xa9, 0xe4, 0xbd);
    expect(decodeBytes(bytes, 'byte')).toBe('a\ufffdé\ufffd\ufffd');
    expect(decodeBytes(bytes, 'run')).toBe('\ufffd'.repeat(6));
    expect(decodeBytes(Uint8Array.of(0xef, 0xbb, 0xbf), 'byte')).toBe('\ufeff');
  });
});
