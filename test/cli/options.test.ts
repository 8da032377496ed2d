import { describe, expect, test } from 'vitest';
import { checkConfig } from '../../src/cli/config.js';
import { checkMemory, estimateMemory, formatBytes } from '../../src/cli/memory.js';
import { type CommandName, configKey, OPTIONS, optionsOf } from '../../src/cli/options.js';
import { clock } from '../../src/cli/progress.js';
import { createSettings } from '../../src/cli/settings.js';
import { createTextStream, whereTheyPart } from '../../src/cli/stream.js';
import { nearest } from '../../src/cli/suggest.js';
import type { ModelSpec } from '../../src/model/index.js';

const passkey = (cli: Record<string, unknown>, config?: Record<string, unknown>) =>
  createSettings('passkey', cli, config && { file: 'run.yaml', values: config });

describe('the option table', () => {
  test('names no option of a command twice, and no short flag', () => {
    for (const command of ['passkey', 'generate', 'logits', 'tokenize', 'doctor'] as CommandName[]) {
      const specs = optionsOf(command);
      const flags = specs.flatMap((s) => [s.name, ...(s.short ? [s.short] : [])]);
      expect(new Set(flags).size).toBe(flags.length);
    }
  });

  test('has defaults that its own checks accept', () => {
    for (const spec of OPTIONS) {
      if (spec.default === undefined) continue;
      const settings = createSettings(spec.commands[0]!, { [configKey(spec.name)]: spec.default }, undefined);
      expect(settings.resolved()[configKey(spec.name)]?.value).toEqual(spec.default);
    }
  });
});

describe('settings', () => {
  test('command line over config file over preset over default', () => {
    const preset = { name: 'p', matches: [], defaults: { skip_layers: 0, sinks: 8, budget: [16] } };
    const settings = passkey({ budget: '64' }, { budget: '32', sinks: 6 }).withPreset(preset);
    expect(settings.numbers('budget')).toEqual([64]);
    expect(settings.number('sinks')).toBe(6);
    expect(settings.number('skip-layers')).toBe(0);
    expect(settings.number('page-size')).toBe(16);
    expect(['budget', 'sinks', 'skip-layers', 'page-size'].map(settings.source)).toEqual([
      'command line',
      'config file',
      'model preset',
      'default',
    ]);
  });

  test('lists come as text or as YAML lists', () => {
    expect(passkey({}, { budget: [64, 128], method: 'full, quest' }).names('method')).toEqual([
      'full',
      'quest',
    ]);
    expect(passkey({}, { budget: [64, 128] }).numbers('budget')).toEqual([64, 128]);
    expect(passkey({}, { budget: 1024 }).numbers('budget')).toEqual([1024]);
    expect(passkey({ depths: '0,12.5,100' }).numbers('depths')).toEqual([0, 12.5, 100]);
  });

  test.each([
    [{ budget: '' }, /--budget wants a list without gaps/],
    [{ budget: '64,' }, /without gaps/],
    [{ budget: '64,x' }, /--budget wants a whole number of at least 1, got "x"/],
    [{ budget: '6.5' }, /whole number/],
    [{ budget: '0' }, /at least 1/],
    [{ budget: '-4' }, /at least 1/],
    [{ budget: '64,64' }, /names 64 twice/],
    [{ budget: '1e9999' }, /whole number/],
    [{ method: 'full,full' }, /names full twice/],
    [{ method: 'qest' }, /one of full, quest/],
    [{ context: '10k' }, /--context wants a whole number/],
    [{ context: '99999999999999999999' }, /whole number/],
    [{ samples: '0' }, /at least 1/],
    [{ depths: '101' }, /from 0 to 100/],
    [{ page_size: '256' }, /--page-size wants a power of two from 1 to 128, got "256"/],
    [{ page_size: '12' }, /power of two/],
    [{ threads: '-1' }, /from 0 to 1024/],
    [{ threads: '1025' }, /from 0 to 1024/],
    [{ max_memory: 'lots' }, /a size such as 512M or 8G/],
    [{ format: 'xml' }, /one of table, csv, json, md/],
    [{ model: '' }, /--model wants a value/],
  ])('refuse %j', (raw, message) => {
    expect(() => passkey(raw)).toThrow(message);
  });

  test('sizes', () => {
    expect(passkey({ max_memory: '8G' }).number('max-memory')).toBe(8 * 2 ** 30);
    expect(passkey({ max_memory: '1.5 GiB' }).number('max-memory')).toBe(1.5 * 2 ** 30);
    expect(passkey({ max_memory: '1000' }).number('max-memory')).toBe(1000);
  });
});

describe('config files', () => {
  const check = (values: unknown) => checkConfig(values, 'passkey', 'run.yaml');
  const hintOf = (values: unknown): string => {
    try {
      check(values);
    } catch (error) {
      return (error as { hint: string }).hint;
    }
    return '';
  };

  test('take every option by its key', () => {
    expect(check({ model: 'm', budget: [32], h2o_prefill: true, out: 'x' })).toEqual({
      model: 'm',
      budget: [32],
      h2o_prefill: true,
      out: 'x',
    });
    expect(check(null)).toEqual({});
  });

  test('refuse unknown keys with the nearest name', () => {
    expect(() => check({ buget: 3 })).toThrow(/run.yaml has an unknown key "buget"/);
    expect(hintOf({ buget: 3 })).toBe('did you mean budget?');
    expect(hintOf({ 'page-size': 3 })).toBe('did you mean page_size?');
    expect(hintOf({ max_tokens: 3 })).toMatch(/option of quest generate/);
    expect(hintOf({ xyzzy: 3 })).toMatch(/the keys of quest passkey are context, /);
    expect(() => check({ config: 'other.yaml' })).toThrow(/unknown key/);
  });

  test('refuse values of the wrong type, and things that are no mapping', () => {
    expect(() => check({ context: 'long' })).toThrow(/context in run.yaml is "long"/);
    expect(() => check({ context: 1.5 })).toThrow(/context in run.yaml is 1.5/);
    expect(() => check(['a'])).toThrow(/holds no keys/);
    expect(() => check('text')).toThrow(/holds no keys/);
  });
});

describe('memory', () => {
  const spec = {
    nLayers: 32,
    hidden: 4096,
    nHeads: 32,
    nKvHeads: 32,
    headDim: 128,
    ffn: 11008,
    vocab: 32000,
  } as ModelSpec;
  const request = {
    spec,
    weightBytes: 13e9,
    tokens: 32768,
    pageSize: 16,
    branches: 0,
    branchTokens: 0,
    evictors: 0,
  };

  test('a 7B model at 32K: 1 MB of fp32 KV per token, a sixteenth of it in metadata', () => {
    const estimate = estimateMemory(request);
    expect(estimate.kv).toBe(32768 * 2 ** 20);
    expect(estimate.metadata).toBe(2048 * 2 ** 20);
    expect(estimate.total).toBeGreaterThan(estimate.kv + estimate.metadata + 13e9);
  });

  test('branches add a page each and what they are fed', () => {
    const forks = estimateMemory({ ...request, branches: 10, branchTokens: 100 }).forks;
    expect(forks).toBe(10 * 8 * 17 * 2 ** 20);
  });

  test('what cannot fit is refused with the numbers', () => {
    expect(() => checkMemory(estimateMemory({ ...request, tokens: 2 ** 30 }), undefined)).toThrow(
      /needs about [\d.]+ GB \(weights 12.1 GB, KV .* this machine has [\d.]+ (GB|MB) free/,
    );
    expect(() => checkMemory(estimateMemory(request), 2 ** 30)).toThrow(/--max-memory allows 1.0 GB/);
    expect([formatBytes(5), formatBytes(3 * 2 ** 20), formatBytes(1.5 * 2 ** 30)]).toEqual([
      '1 kB',
      '3 MB',
      '1.5 GB',
    ]);
  });
});

describe('small things', () => {
  test('nearest name', () => {
    expect(nearest('bugdet', ['budget', 'model'])).toBe('budget');
    expect(nearest('zzz', ['budget', 'model'])).toBeUndefined();
  });

  test('clock', () => expect([clock(5), clock(65), clock(7389)]).toEqual(['0:05', '1:05', '2:03:09']));

  test('streamed text holds back half characters and keeps spaces', () => {
    const bytes = [...Buffer.from(' zwölf €')];
    const decode = (ids: number[]) => Buffer.from(ids).toString('utf8');
    const stream = createTextStream(decode, Buffer.from('elf'));
    const pieces = bytes.map((id) => stream.push(id));
    expect(pieces.join('')).toBe(' zwölf €');
    expect(pieces.some((piece) => piece.includes('\uFFFD'))).toBe(false);
    stream.push(0xe2);
    expect(stream.flush()).toBe('\uFFFD'); // an end in the middle of a character shows as what it is
    expect(stream.flush()).toBe('');
  });

  test('where two outputs part', () => {
    expect(whereTheyPart([1, 2, 3], [1, 2, 4])).toEqual({ token: 2, same: false });
    expect(whereTheyPart([1, 2], [1, 2, 3])).toEqual({ token: 2, same: false });
    expect(whereTheyPart([1, 2], [1, 2])).toEqual({ token: 2, same: true });
  });
});
