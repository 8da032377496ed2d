import { describe, expect, it } from 'vitest';
import { Fields } from '../../src/model/fields.js';
import { extendedContext, readRope, ropeSpec } from '../../src/model/rope.js';
import { errorOf } from './helpers.js';

const spec = (config: object, headDim: number, maxContext = 4096) =>
  ropeSpec(readRope(new Fields('config.json', { ...config }), maxContext, 10000), headDim);

/** Largest relative difference between fp32 numbers and the formulas in doubles. */
function distance(found: Float32Array, wanted: (i: number) => number): number {
  return Math.max(...Array.from(found, (value, i) => Math.abs(value / wanted(i) - 1)));
}

const EPS = 4e-7;
const plain = (theta: number, dim: number) => (i: number) => theta ** ((-2 * i) / dim);

describe('rope', () => {
  it('default: theta^(-2i/d) in fp32', () => {
    const { invFreq, attentionFactor } = spec({ rope_theta: 10000, rope_scaling: null }, 8);
    expect([...invFreq]).toEqual([1, 0.1, 0.01, 0.001].map(Math.fround));
    expect(attentionFactor).toBe(1);
    expect(distance(spec({ rope_theta: 500000 }, 128).invFreq, plain(500000, 128))).toBeLessThan(EPS);
    // The default theta where the config has none.
    expect(distance(spec({}, 64).invFreq, plain(10000, 64))).toBeLessThan(EPS);
  });

  it('linear: everything divided by the factor, in both notations', () => {
    const v4 = spec({ rope_theta: 10000, rope_scaling: { type: 'linear', factor: 8 } }, 64);
    const v5 = spec({ rope_parameters: { rope_type: 'linear', factor: 8, rope_theta: 10000 } }, 64);
    expect(v4).toEqual(v5);
    expect(v4.invFreq[0]).toBe(0.125);
    expect(distance(v4.invFreq, (i) => plain(10000, 64)(i) / 8)).toBeLessThan(EPS);
    expect(v4.attentionFactor).toBe(1);
    // LongChat's, alone and beside the same in words.
    expect(spec({ rope_condense_ratio: 8, rope_scaling: null }, 64)).toEqual(v4);
    expect(spec({ rope_condense_ratio: 8, rope_scaling: { type: 'linear', factor: 8 } }, 64)).toEqual(v4);
    expect(spec({ rope_condense_ratio: 1 }, 64).invFreq[0]).toBe(1);
  });

  it('llama3: short waves kept, long ones stretched, those between blended', () => {
    const scaling = {
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    };
    const { invFreq } = spec({ rope_theta: 500000, rope_scaling: scaling }, 128, 131072);
    const wanted = (i: number) => {
      const f = plain(500000, 128)(i);
      const turns = (8192 * f) / (2 * Math.PI);
      if (turns > 4) return f;
      if (turns < 1) return f / 8;
      const keep = (turns - 1) / 3;
      return (1 - keep) * (f / 8) + keep * f;
    };
    expect(distance(invFreq, wanted)).toBeLessThan(1e-6);
    const plainFreq = spec({ rope_theta: 500000 }, 128).invFreq;
    const kept = plainFreq.filter((f, i) => invFreq[i] === f).length;
    const stretched = plainFreq.filter((f, i) => invFreq[i] === Math.fround(f / 8)).length;
    // turns(i) = 8192 * 500000^(-i/64) / 2 pi: over 4 up to i = 28, under 1 from i = 35.
    expect([kept, stretched]).toEqual([29, 29]);
    expect(spec({ rope_parameters: { ...scaling, rope_theta: 500000 } }, 128, 131072).invFreq).toEqual(
      invFreq,
    );
  });

  it('yarn: the ramp between the correction dimensions, and the attention factor', () => {
    const scaling = { type: 'yarn', factor: 32, original_max_position_embeddings: 4096, finetuned: true };
    const { invFreq, attentionFactor } = spec({ rope_theta: 10000, rope_scaling: scaling }, 128, 131072);
    // 128 ln(4096 / (32 * 2 pi)) / (2 ln 10000) = 20.94, and with 1 turn 45.03: floor and ceil give 20 and 46.
    const wanted = (i: number) => {
      const ramp = Math.min(Math.max((i - 20) / 26, 0), 1);
      const f = plain(10000, 128)(i);
      return (f / 32) * ramp + f * (1 - ramp);
    };
    expect(distance(invFreq, wanted)).toBeLessThan(1e-6);
    expect(attentionFactor).toBeCloseTo(0.1 * Math.log(32) + 1, 12);
    expect(attentionFactor).toBeCloseTo(1.3465735903, 9);
  });

  it('yarn: optional keys', () => {
    const yarn = (more: object) =>
      spec(
        {
          rope_parameters: {
            rope_type: 'yarn',
            rope_theta: 10000,
            factor: 4,
            original_max_position_embeddings: 2048,
            ...more,
          },
        },
        64,
        8192,
      );
    expect(yarn({ attention_factor: 1.25 }).attentionFactor).toBe(1.25);
    expect(yarn({ mscale: 1, mscale_all_dim: 1 }).attentionFactor).toBe(1);
    expect(yarn({ mscale: 2, mscale_all_dim: 1 }).attentionFactor).toBeCloseTo(
      (0.2 * Math.log(4) + 1) / (0.1 * Math.log(4) + 1),
      12,
    );
    expect(yarn({ factor: 1 }).attentionFactor).toBe(1);
    // Without truncation the ramp's ends are not whole: 64 ln(2048 / 64 pi) / (2 ln 10000), and for 1 turn.
    const low = (64 * Math.log(2048 / (64 * Math.PI))) / (2 * Math.log(10000));
    const high = (64 * Math.log(2048 / (2 * Math.PI))) / (2 * Math.log(10000));
    const wanted = (i: number) => {
      const ramp = Math.min(Math.max((i - low) / (high - low), 0), 1);
      return plain(10000, 64)(i) * (ramp / 4 + 1 - ramp);
    };
    expect(distance(yarn({ truncate: false }).invFreq, wanted)).toBeLessThan(1e-6);
    expect(yarn({ beta_fast: 16, beta_slow: 2 }).invFreq).not.toEqual(yarn({}).invFreq);
    // Where the factor is absent, the contexts give it; where the original context is, the model's own one.
    expect(yarn({ factor: null })).toEqual(yarn({}));
    // Equal ends of the ramp do not divide by zero.
    expect(yarn({ beta_fast: 1e6, beta_slow: 1e6, truncate: false }).invFreq.every(Number.isFinite)).toBe(
      true,
    );
  });

  it('rounds to fp32 at every step, as torch does', () => {
    // float32(10000) ** float32(2/96) = 1.2115277; 1 / that; both rounded. The double would differ in the last bit.
    const period = Math.fround(10000 ** Math.fround(2 / 96));
    expect(spec({ rope_theta: 10000 }, 96).invFreq[1]).toBe(Math.fround(1 / period));
  });

  it.each([
    [
      { rope_scaling: { type: 'dynamic', factor: 2 } },
      /type is "dynamic"; supported: default, linear, llama3, yarn/,
    ],
    [{ rope_parameters: { rope_type: 'longrope' } }, /rope_type is "longrope"/],
    [{ rope_scaling: { factor: 2 } }, /rope_type is nothing/],
    [
      { rope_condense_ratio: 8, rope_scaling: { type: 'linear', factor: 4 } },
      /rope_condense_ratio is 8; supported: 4, the linear factor/,
    ],
    [{ rope_condense_ratio: 0 }, /rope_condense_ratio is 0/],
    [{ rope_scaling: { type: 'linear' } }, /factor is nothing; supported: a number from 1/],
    [{ rope_scaling: { type: 'linear', factor: -1 } }, /factor is -1/],
    [{ rope_scaling: { type: 'linear', factor: '8' } }, /factor is "8"/],
    [
      { rope_scaling: { type: 'linear', rope_type: 'yarn', factor: 8 } },
      /type is "linear"; supported: "yarn"/,
    ],
    [{ rope_scaling: 'linear' }, /rope_scaling is "linear"; supported: an object or null/],
    [
      {
        rope_scaling: {
          rope_type: 'llama3',
          factor: 8,
          low_freq_factor: 4,
          high_freq_factor: 1,
          original_max_position_embeddings: 8,
        },
      },
      /high_freq_factor is 1; supported: more than low_freq_factor/,
    ],
    [
      { rope_scaling: { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 } },
      /original_max_position_embeddings is nothing/,
    ],
    [
      { rope_scaling: { rope_type: 'yarn', factor: 4, beta_fast: 1, beta_slow: 2 } },
      /beta_fast is 1; supported: at least beta_slow/,
    ],
    [
      { rope_scaling: { rope_type: 'yarn', factor: 4, truncate: 1 } },
      /truncate is 1; supported: true or false/,
    ],
    [{ rope_theta: 0 }, /rope_theta is 0/],
    [{ rope_theta: 'big' }, /rope_theta is "big"/],
    [{ rope_parameters: { full_attention: { rope_type: 'default' } } }, /per layer type/],
    [
      { rope_parameters: { rope_type: 'default', partial_rotary_factor: 0.5 } },
      /partial_rotary_factor is 0.5/,
    ],
    [
      { rope_parameters: { rope_type: 'default' }, rope_scaling: { type: 'linear', factor: 2 } },
      /contradict/,
    ],
  ])('refuses %j', async (config, message) => {
    const error = await errorOf(() => spec(config, 64));
    expect(error.code).toBe('E_CONFIG');
    expect(error.message).toMatch(message);
    expect(error.hint).toBeTruthy();
  });

  it('accepts both notations at once when they agree', () => {
    const scaling = { rope_type: 'linear', factor: 2 };
    expect(
      spec({ rope_parameters: { ...scaling, rope_theta: 10000 }, rope_scaling: scaling }, 64).invFreq[0],
    ).toBe(0.5);
  });

  it('says how far the model reaches: linear and yarn extend, llama3 states the end', () => {
    const reach = (scaling: object | undefined, positions: number) => {
      const config = new Fields('config.json', { rope_scaling: scaling ?? null });
      return extendedContext(readRope(config, positions, 10000), positions);
    };
    expect(reach(undefined, 4096)).toBe(4096);
    expect(reach({ type: 'linear', factor: 8 }, 4096)).toBe(32768);
    const yarn = { type: 'yarn', factor: 32, original_max_position_embeddings: 4096, finetuned: true };
    expect(reach(yarn, 131072)).toBe(131072);
    expect(reach(yarn, 4096)).toBe(131072);
    const llama3 = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 };
    expect(reach({ ...llama3, original_max_position_embeddings: 8192 }, 131072)).toBe(131072);
    expect(reach({ type: 'linear', factor: 1e6 }, 1 << 28)).toBe(1 << 28);
  });
});
