/** The models that have presets, by the numbers that their repositories publish: shapes add up to the known parameter counts. */
import { expect, it } from 'vitest';
import { parseConfig } from '../../src/model/config.js';
import { neededTensors } from '../../src/model/weights.js';

const LLAMA2_7B = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  hidden_size: 4096,
  intermediate_size: 11008,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 32,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: false,
  vocab_size: 32000,
};

it.each([
  [
    'LongChat-7B v1.5',
    { ...LLAMA2_7B, rope_scaling: { factor: 8, type: 'linear' } },
    { parameters: 6_738_415_616, maxContext: 32768, headDim: 128, nKvHeads: 32 },
  ],
  [
    'LongChat-7B v1.5, first revision',
    { ...LLAMA2_7B, rope_condense_ratio: 8, rope_scaling: null },
    { parameters: 6_738_415_616, maxContext: 32768, headDim: 128, nKvHeads: 32 },
  ],
  [
    'Yarn-Llama-2-7B 128K',
    {
      ...LLAMA2_7B,
      rope_scaling: { factor: 32, original_max_position_embeddings: 4096, type: 'yarn', finetuned: true },
    },
    { parameters: 6_738_415_616, maxContext: 131072, headDim: 128, nKvHeads: 32 },
  ],
  [
    'Llama-3.1-8B',
    {
      ...LLAMA2_7B,
      eos_token_id: [128001, 128008, 128009],
      intermediate_size: 14336,
      num_key_value_heads: 8,
      max_position_embeddings: 131072,
      rope_theta: 500000,
      rope_scaling: {
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 8192,
        rope_type: 'llama3',
      },
      vocab_size: 128256,
      attention_bias: false,
      mlp_bias: false,
    },
    { parameters: 8_030_261_248, maxContext: 131072, headDim: 128, nKvHeads: 8 },
  ],
  [
    'Mistral-7B v0.3',
    {
      ...LLAMA2_7B,
      architectures: ['MistralForCausalLM'],
      model_type: 'mistral',
      intermediate_size: 14336,
      num_key_value_heads: 8,
      max_position_embeddings: 32768,
      rope_theta: 1e6,
      sliding_window: null,
      vocab_size: 32768,
    },
    { parameters: 7_248_023_552, maxContext: 32768, headDim: 128, nKvHeads: 8 },
  ],
  [
    'Qwen2.5-7B',
    {
      architectures: ['Qwen2ForCausalLM'],
      model_type: 'qwen2',
      attention_dropout: 0,
      hidden_act: 'silu',
      hidden_size: 3584,
      intermediate_size: 18944,
      max_position_embeddings: 32768,
      max_window_layers: 28,
      num_attention_heads: 28,
      num_hidden_layers: 28,
      num_key_value_heads: 4,
      rms_norm_eps: 1e-6,
      rope_theta: 1e6,
      sliding_window: 131072,
      tie_word_embeddings: false,
      use_sliding_window: false,
      vocab_size: 152064,
    },
    { parameters: 7_615_616_512, maxContext: 32768, headDim: 128, nKvHeads: 4 },
  ],
  [
    'Qwen2.5-0.5B, tied',
    {
      architectures: ['Qwen2ForCausalLM'],
      model_type: 'qwen2',
      hidden_size: 896,
      intermediate_size: 4864,
      num_attention_heads: 14,
      num_hidden_layers: 24,
      num_key_value_heads: 2,
      rope_theta: 1e6,
      tie_word_embeddings: true,
      use_sliding_window: false,
      vocab_size: 151936,
    },
    { parameters: 494_032_768, maxContext: 32768, headDim: 64, nKvHeads: 2 },
  ],
])('%s', (_, config, { parameters, ...numbers }) => {
  const { shape } = parseConfig(config);
  expect(shape).toMatchObject(numbers);
  const counted = [...neededTensors(shape).values()].reduce(
    (sum, dims) => sum + dims.reduce((product, n) => product * n, 1),
    0,
  );
  expect(counted).toBe(parameters);
});
