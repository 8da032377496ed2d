import { appendFileSync, cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { configKey, OPTIONS } from '../../src/cli/options.js';
import { findChatTemplate } from '../../src/model/chat.js';
import { parseHubId } from '../../src/model/hub.js';
import { type Checkpoint, openCheckpoint, readSafetensorsHeader } from '../../src/model/index.js';
import { packageRoot } from '../../src/model/package_root.js';
import { findPreset, loadPresets } from '../../src/model/presets.js';
import {
  CONFIG,
  errorOf,
  folder,
  GOLDEN,
  hasGolden,
  SHAPES,
  SKIPPED,
  safetensors,
  temporaryFolder,
} from './helpers.js';

const root = temporaryFolder();
const WEIGHTS = safetensors(SHAPES);
let serial = 0;
const model = (files: Record<string, Buffer | object | string> = {}, config: object = CONFIG) =>
  folder(root, `m${serial++}`, { 'config.json': config, 'model.safetensors': WEIGHTS, ...files });

afterEach(() => {
  vi.unstubAllEnvs();
});

describe('openCheckpoint', () => {
  it('opens the embedded model by name, with its preset and tokenizer', async () => {
    const tiny = await openCheckpoint('quest-tiny');
    expect(tiny.name).toBe('quest-tiny');
    expect(tiny.dir).toBe(path.join(packageRoot(), 'models', 'quest-tiny'));
    expect(tiny.spec).toMatchObject({ nHeads: 4, nKvHeads: 2, headDim: 64, tiedEmbeddings: true });
    expect(tiny.preset?.defaults).toEqual({});
    const tokenizer = await tiny.tokenizer();
    expect(await tiny.tokenizer()).toBe(tokenizer);
    expect(tokenizer.vocabSize).toBe(tiny.spec.vocab);
    expect(tiny.eosIds).toEqual(tokenizer.eosIds);
  });

  it('opens folders, and cached models by hub id and by snapshot folder', async () => {
    const dir = model();
    expect(await openCheckpoint(dir)).toMatchObject({
      name: path.basename(dir),
      dir,
      preset: undefined,
      eosIds: [2],
    });
    const snapshot = path.join(root, 'hub', 'models--org--tiny', 'snapshots', 'c0ffee');
    cpSync(dir, snapshot, { recursive: true });
    mkdirSync(path.join(root, 'hub', 'models--org--tiny', 'refs'));
    writeFileSync(path.join(root, 'hub', 'models--org--tiny', 'refs', 'main'), 'c0ffee');
    vi.stubEnv('HF_HUB_CACHE', path.join(root, 'hub'));
    expect(await openCheckpoint('org/tiny')).toMatchObject({ name: 'org/tiny', dir: snapshot });
    expect(await openCheckpoint('org/tiny@c0ffee')).toMatchObject({ name: 'org/tiny@c0ffee', dir: snapshot });
    expect(await openCheckpoint(snapshot)).toMatchObject({ name: 'org/tiny' });
    expect((await errorOf(openCheckpoint('org/other'))).code).toBe('E_HUB');
  });

  it.each(['', 'quest-tinny', '../../../etc/nothing', 'a/../b', '/nowhere/at/all', 'a/b/c'])(
    'refuses %j, naming what would do',
    async (ref) => {
      const error = await errorOf(openCheckpoint(ref));
      expect(error.code).toBe('E_MODEL');
      expect(error.hint).toMatch(/a folder, a hub id .* or a built-in name: quest-tiny/);
    },
  );

  it('refuses a file, a folder without config.json, and a config.json that is none', async () => {
    const dir = model();
    expect((await errorOf(openCheckpoint(path.join(dir, 'config.json')))).message).toMatch(
      /is a file; supported: the folder/,
    );
    expect((await errorOf(openCheckpoint(folder(root, 'empty', {})))).message).toMatch(
      /holds no config\.json/,
    );
    for (const text of ['', '{', '[]', '"x"', '\0\0'])
      expect((await errorOf(openCheckpoint(model({}, Buffer.from(text))))).code).toBe('E_JSON');
    // What a file says does not reach the terminal's control sequences.
    const hostile = await errorOf(openCheckpoint(model({}, Buffer.from('\u001b]0;title\u0007\n{'))));
    expect(hostile.message).toMatch(/is not valid JSON/);
    expect(hostile.message).not.toMatch(/\p{Cc}/u);
  });

  it('takes eos ids from generation_config.json, config.json, then the tokenizer', async () => {
    const eos = async (files: object, config: object = CONFIG) =>
      (await openCheckpoint(model({ ...files }, config))).eosIds;
    const { eos_token_id, ...silent } = CONFIG;
    const tokenizer = {
      'tokenizer.json': { model: { type: 'BPE', vocab: { a: 0, '</s>': 6 }, merges: [] } },
      'tokenizer_config.json': { eos_token: '</s>' },
    };
    expect(await eos({ 'generation_config.json': { eos_token_id: [5, 7] } })).toEqual([5, 7]);
    expect(await eos({ 'generation_config.json': { eos_token_id: 4 } })).toEqual([4]);
    expect(await eos({ 'generation_config.json': {} })).toEqual([2]);
    expect(await eos(tokenizer, silent)).toEqual([6]);
    expect(await eos({}, silent)).toEqual([]);
    expect((await errorOf(eos({ 'generation_config.json': { eos_token_id: 'x' } }))).message).toMatch(
      /^generation_config\.json: eos_token_id is "x"/,
    );
  });

  it('has a fingerprint of configuration and weights, not of place or time', async () => {
    const print = async (dir: string) => (await openCheckpoint(dir)).fingerprint;
    const one = model();
    const first = await print(one);
    expect(first).toMatch(/^[0-9a-f]{16}$/);
    expect(await print(model())).toBe(first);
    const changed = Buffer.from(WEIGHTS);
    changed[changed.length - 1] = 1;
    expect(await print(model({ 'model.safetensors': changed }))).not.toBe(first);
    expect(await print(model({}, { ...CONFIG, rms_norm_eps: 1e-6 }))).not.toBe(first);
    appendFileSync(path.join(one, 'config.json'), ' ');
    expect(await print(one)).not.toBe(first);
  });

  it('says which tokenizer files it looked for', async () => {
    const error = await errorOf((await openCheckpoint(model())).tokenizer());
    expect(error.code).toBe('E_TOKENIZER');
    expect(error.message).toMatch(/looked for tokenizer\.json and tokenizer\.model/);
  });
});

describe.skipIf(!hasGolden)(`golden checkpoints${SKIPPED}`, () => {
  const cases = hasGolden ? readdirSync(GOLDEN).filter((name) => name !== 'tokenizer') : [];

  it.each(cases)('%s opens, and every tensor lies where its bytes are', async (name) => {
    const { spec, weightBytes } = await openCheckpoint(path.join(GOLDEN, name));
    expect(spec.rope.invFreq).toHaveLength(spec.headDim / 2);
    expect(weightBytes).toBeGreaterThan(500_000);
    // Norm weights of random models lie near 1: a wrong offset would not.
    const { file, offset, dtype } = spec.tensors['layers.0.attn_norm'] as (typeof spec.tensors)[string];
    const bytes = readFileSync(spec.files[file] as string).subarray(offset);
    const first =
      dtype === 'fp32' ? bytes.readFloatLE() : toFloat(bytes.readUInt16LE(), dtype === 'bf16' ? 8 : 5);
    expect(Math.abs(first)).toBeGreaterThan(0.05);
    expect(Math.abs(first)).toBeLessThan(8);
  });

  it('both notations of one model give the same numbers', async () => {
    const [v4, v5] = (await Promise.all(
      ['llama3-gqa4-d64', 'llama3-gqa4-d64-bf16'].map((name) => openCheckpoint(path.join(GOLDEN, name))),
    )) as [Checkpoint, Checkpoint];
    expect(v4.spec.rope).toEqual(v5.spec.rope);
    expect(v4.fingerprint).not.toBe(v5.fingerprint);
  });

  it('reads the golden logits files too', async () => {
    const { tensors } = await readSafetensorsHeader(path.join(GOLDEN, 'mha-d128', 'golden.safetensors'));
    expect(tensors.size).toBeGreaterThan(0);
  });
});

/** A 16-bit float with `exponentBits` of exponent, normal numbers only. */
function toFloat(bits: number, exponentBits: number): number {
  const fraction = 15 - exponentBits;
  const exponent = ((bits & 0x7fff) >> fraction) - (2 ** (exponentBits - 1) - 1);
  return (bits & 0x8000 ? -1 : 1) * 2 ** exponent * (1 + (bits & (2 ** fraction - 1)) / 2 ** fraction);
}

describe('presets', () => {
  it('are read from configs/models and matched by any name', async () => {
    const preset = await findPreset(['some/hub-id', 'quest-tiny']);
    expect(preset).toMatchObject({ name: 'quest-tiny', defaults: {} });
    expect(preset?.notes).toMatch(/two dense layers/);
    expect(await findPreset(['other'])).toBeUndefined();
    expect(await loadPresets(path.join(root, 'no-such-folder'))).toEqual([]);
  });

  it('give their model its context and prompt format', async () => {
    const dir = folder(root, 'Yarn-Llama-2-7b-128k', {
      'config.json': CONFIG,
      'model.safetensors': WEIGHTS,
      'tokenizer_config.json': { chat_template: 'never' },
    });
    const checkpoint = await openCheckpoint(dir);
    expect(checkpoint.spec.maxContext).toBe(131072);
    expect(await findChatTemplate(checkpoint)).toBeUndefined();
    const longchat = folder(root, 'longchat-7b-v1.5-32k', {
      'config.json': CONFIG,
      'model.safetensors': WEIGHTS,
    });
    expect((await findChatTemplate(await openCheckpoint(longchat)))?.name).toBe('vicuna-v1.1');
  });

  it('name each hub id once, and hold defaults that the options have', async () => {
    const presets = await loadPresets();
    const matches = presets.flatMap((preset) => preset.matches);
    expect(new Set(matches).size).toBe(matches.length);
    for (const { name, defaults, matches: own } of presets) {
      expect(Object.keys(defaults).every((key) => OPTIONS.some((o) => configKey(o.name) === key))).toBe(true);
      if (name !== 'quest-tiny') expect(own.some((ref) => parseHubId(ref) !== undefined)).toBe(true);
    }
  });

  it.each([
    ['name: x\nmatches: [x]\n', /x\.yaml: defaults/],
    ['name: x\nmatches: [x]\ndefaults: {}\nchat: chatml\n', /x\.yaml: chat/],
    ['name: x\nmatches: [x]\ndefaults: {}\nmax_context: 0\n', /x\.yaml: max_context/],
    ['name: x\nmatches: []\ndefaults: {}\n', /x\.yaml: matches/],
    ['name: x\nmatches: [x]\ndefaults: {"Skip Layers": 0}\n', /x\.yaml: defaults/],
    ['name: x\nmatches: [x]\ndefaults: {}\nmore: 1\n', /x\.yaml: .*more/],
    ['{', /x\.yaml: /],
  ])('refuses %j', async (text, message) => {
    const error = await errorOf(loadPresets(folder(root, `p${serial++}`, { 'x.yaml': text })));
    expect(error.code).toBe('E_PRESET');
    expect(error.message).toMatch(message);
  });
});

it('loads no library before it is needed', () => {
  const seen = new Set<string>();
  const visit = (file: string) => {
    if (seen.has(file)) return;
    seen.add(file);
    for (const [, statement = '', from = ''] of readFileSync(file, 'utf8').matchAll(
      /^(import|export)\b(?! type)[^;]*? from '([^']+)'/gm,
    )) {
      expect(`${statement} ${from} in ${path.basename(file)}`).toMatch(/ (\.|node:)/);
      if (from.startsWith('.')) visit(path.resolve(path.dirname(file), from.replace(/\.js$/, '.ts')));
    }
  };
  visit(path.join(packageRoot(), 'src', 'model', 'index.ts'));
  expect(seen.size).toBeGreaterThan(10);
});
