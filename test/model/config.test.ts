import { describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/model/config.js';
import { CONFIG, errorOf } from './helpers.js';

describe('config.json', () => {
  it('gives the numbers', () => {
    const { shape, bosId, eosIds } = parseConfig(CONFIG);
    expect(shape).toMatchObject({
      nLayers: 1,
      hidden: 64,
      nHeads: 2,
      nKvHeads: 1,
      headDim: 32,
      ffn: 16,
      vocab: 8,
      normEps: 1e-5,
      maxContext: 128,
      tiedEmbeddings: false,
    });
    expect(shape.rope.invFreq).toHaveLength(16);
    expect([bosId, eosIds]).toEqual([1, [2]]);
  });

  it('takes an explicit head_dim, several eos ids, and the defaults of transformers', () => {
    const { num_key_value_heads, rms_norm_eps, max_position_embeddings, hidden_act, ...rest } = CONFIG;
    const { shape, eosIds } = parseConfig({ ...rest, head_dim: 128, eos_token_id: [2, 5] });
    expect(shape).toMatchObject({ headDim: 128, nKvHeads: 2, normEps: 1e-6, maxContext: 2048 });
    expect(eosIds).toEqual([2, 5]);
  });

  it('goes by model_type where architectures is absent', () => {
    expect(parseConfig({ ...CONFIG, architectures: undefined }).architecture.name).toBe('LlamaForCausalLM');
  });

  const MISTRAL = { architectures: ['MistralForCausalLM'], model_type: 'mistral' };
  const QWEN2 = { architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2' };

  it('knows Mistral: no sliding window, or one that the context does not exceed', () => {
    for (const window of [null, 128, 4096])
      expect(parseConfig({ ...CONFIG, ...MISTRAL, sliding_window: window }).shape.qkvBias).toBe(false);
    const { num_key_value_heads, max_position_embeddings, ...rest } = CONFIG;
    const bare = { ...rest, ...MISTRAL, sliding_window: null, num_attention_heads: 16, head_dim: 32 };
    expect(parseConfig(bare).shape).toMatchObject({ nKvHeads: 8, maxContext: 131072 });
    expect(parseConfig({ ...bare, num_key_value_heads: null }).shape.nKvHeads).toBe(16);
  });

  it('knows Qwen2: biases, and a sliding window that is switched off', () => {
    const { shape } = parseConfig({ ...CONFIG, ...QWEN2, use_sliding_window: false, sliding_window: 64 });
    expect(shape.qkvBias).toBe(true);
    expect(parseConfig({ ...CONFIG, ...QWEN2, tie_word_embeddings: true }).shape.tiedEmbeddings).toBe(true);
  });

  it.each([
    [
      { architectures: ['GemmaForCausalLM'] },
      /architectures is \["GemmaForCausalLM"\]; supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM/,
    ],
    [
      { ...MISTRAL, sliding_window: 64 },
      /sliding_window is 64; supported: a number of at least max_position_embeddings, which is 128 or null/,
    ],
    [{ ...MISTRAL, max_position_embeddings: 32768 }, /sliding_window is nothing; supported/],
    [{ ...MISTRAL, sliding_window: '4096' }, /sliding_window is "4096"/],
    [{ ...QWEN2, use_sliding_window: true }, /use_sliding_window is true; supported: false or null/],
    [{ ...QWEN2, layer_types: ['sliding_attention'] }, /layer_types is a list of 1/],
    [{ architectures: [], model_type: 'gpt2' }, /model_type is "gpt2"/],
    [{ hidden_act: 'gelu' }, /hidden_act is "gelu"; supported: "silu" or null/],
    [{ attention_bias: true }, /attention_bias is true; supported: false or null/],
    [{ mlp_bias: true }, /mlp_bias is true/],
    [{ quantization_config: { quant_method: 'awq' } }, /quantization_config: bits is nothing; supported: 4/],
    [{ sliding_window: 4096 }, /sliding_window is 4096/],
    [{ layer_types: ['full_attention', 'sliding_attention'] }, /layer_types is a list of 2/],
    [{ partial_rotary_factor: 0.5 }, /partial_rotary_factor is 0.5/],
    [{ hidden_size: undefined }, /hidden_size is nothing; supported: a whole number from 1/],
    [{ hidden_size: '64' }, /hidden_size is "64"/],
    [{ hidden_size: 64.5 }, /hidden_size is 64.5/],
    [{ hidden_size: -64 }, /hidden_size is -64/],
    [{ hidden_size: 1e30 }, /hidden_size is 1e\+30/],
    [{ num_hidden_layers: 0 }, /num_hidden_layers is 0/],
    [{ num_hidden_layers: 1e9 }, /num_hidden_layers is 1000000000/],
    [{ num_attention_heads: Number.NaN }, /num_attention_heads is NaN/],
    [{ num_attention_heads: [2] }, /num_attention_heads is a list of 1/],
    [
      { num_attention_heads: 3, num_key_value_heads: 2, head_dim: 32 },
      /num_key_value_heads is 2; supported: a divisor/,
    ],
    [{ num_key_value_heads: 0 }, /num_key_value_heads is 0/],
    [{ intermediate_size: null }, /intermediate_size is null/],
    [{ vocab_size: true }, /vocab_size is true/],
    [{ max_position_embeddings: 0 }, /max_position_embeddings is 0/],
    [{ rms_norm_eps: -1e-5 }, /rms_norm_eps is -0.00001/],
    [{ rms_norm_eps: Number.POSITIVE_INFINITY }, /rms_norm_eps is Infinity/],
    [{ head_dim: 80 }, /head_dim is 80; supported: 8, 32, 64, 96, 128/],
    [{ hidden_size: 100, num_attention_heads: 2 }, /gives a head_dim of 50; supported/],
    [{ tie_word_embeddings: 'yes' }, /tie_word_embeddings is "yes"/],
    [{ eos_token_id: -1 }, /eos_token_id is -1/],
    [{ eos_token_id: [2, 'x'] }, /eos_token_id is a list of 2/],
  ])('refuses %j', async (change, message) => {
    const error = await errorOf(() => parseConfig({ ...CONFIG, ...change }));
    expect(error.code).toBe('E_CONFIG');
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(/^config\.json: /);
    expect(error.hint).toBeTruthy();
  });
});
