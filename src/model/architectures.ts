/** The model families this tool runs. Adding one whose decoder is Llama-shaped is one entry here. */

/** Canonical tensor name -> the family's own name; `{i}` is the layer. */
export type TensorNames = Readonly<Record<string, string>>;

/** A key with the values under which the decoder stays Llama-shaped; anything else is refused with this list. */
export interface KeyRule {
  key: string;
  /** Accepted besides an absent key and null. */
  accepts: readonly unknown[];
  /** Accepted too: a whole number of at least the context that the model was made for. */
  orContext?: boolean;
  /** What transformers assumes where the key is absent, if that is not accepted; null still is. */
  absent?: unknown;
  /** What the key would need that the runtime does not have. */
  because: string;
}

export interface Architecture {
  /** As in config.json's `architectures`. */
  name: string;
  /** As in config.json's `model_type`. */
  modelType: string;
  tensors: TensorNames;
  rules: readonly KeyRule[];
  /** The projections to queries, keys and values add a bias. */
  qkvBias: boolean;
  /** What transformers assumes where the key is absent; `kvHeads` absent: as many as query heads. */
  defaults: {
    normEps: number;
    maxContext: number;
    ropeTheta: number;
    tiedEmbeddings: boolean;
    kvHeads?: number;
  };
  /** Extra tensors that such checkpoints are known to carry and that hold nothing the decoder needs. */
  harmless: RegExp;
}

const LLAMA_TENSORS: TensorNames = {
  embed: 'model.embed_tokens.weight',
  norm: 'model.norm.weight',
  lm_head: 'lm_head.weight',
  'layers.{i}.attn_norm': 'model.layers.{i}.input_layernorm.weight',
  'layers.{i}.q': 'model.layers.{i}.self_attn.q_proj.weight',
  'layers.{i}.k': 'model.layers.{i}.self_attn.k_proj.weight',
  'layers.{i}.v': 'model.layers.{i}.self_attn.v_proj.weight',
  'layers.{i}.o': 'model.layers.{i}.self_attn.o_proj.weight',
  'layers.{i}.ffn_norm': 'model.layers.{i}.post_attention_layernorm.weight',
  'layers.{i}.gate': 'model.layers.{i}.mlp.gate_proj.weight',
  'layers.{i}.up': 'model.layers.{i}.mlp.up_proj.weight',
  'layers.{i}.down': 'model.layers.{i}.mlp.down_proj.weight',
};

const QKV_BIAS: TensorNames = {
  'layers.{i}.q_bias': 'model.layers.{i}.self_attn.q_proj.bias',
  'layers.{i}.k_bias': 'model.layers.{i}.self_attn.k_proj.bias',
  'layers.{i}.v_bias': 'model.layers.{i}.self_attn.v_proj.bias',
};

/** What every family here has in common. */
const DECODER_RULES: readonly KeyRule[] = [
  { key: 'hidden_act', accepts: ['silu'], because: 'only the SiLU-gated feed-forward exists' },
  { key: 'partial_rotary_factor', accepts: [1], because: 'the whole head is rotated' },
  { key: 'is_encoder_decoder', accepts: [false], because: 'only decoders run' },
];

const WHOLE_CONTEXT = 'every layer attends to the whole context';

export const ARCHITECTURES: readonly Architecture[] = [
  {
    name: 'LlamaForCausalLM',
    modelType: 'llama',
    tensors: LLAMA_TENSORS,
    rules: [
      ...DECODER_RULES,
      { key: 'attention_bias', accepts: [false], because: 'projections have no bias' },
      { key: 'mlp_bias', accepts: [false], because: 'projections have no bias' },
      { key: 'sliding_window', accepts: [], because: WHOLE_CONTEXT },
      { key: 'use_sliding_window', accepts: [false], because: WHOLE_CONTEXT },
    ],
    qkvBias: false,
    defaults: { normEps: 1e-6, maxContext: 2048, ropeTheta: 10000, tiedEmbeddings: false },
    harmless: /rotary_emb\.inv_freq$/,
  },
  {
    name: 'MistralForCausalLM',
    modelType: 'mistral',
    tensors: LLAMA_TENSORS,
    rules: [
      ...DECODER_RULES,
      // Version 0.1 reads a window of 4096 tokens in every layer; later versions say null.
      { key: 'sliding_window', accepts: [], orContext: true, absent: 4096, because: WHOLE_CONTEXT },
    ],
    qkvBias: false,
    defaults: { normEps: 1e-6, maxContext: 131072, ropeTheta: 10000, tiedEmbeddings: false, kvHeads: 8 },
    harmless: /rotary_emb\.inv_freq$/,
  },
  {
    name: 'Qwen2ForCausalLM',
    modelType: 'qwen2',
    tensors: { ...LLAMA_TENSORS, ...QKV_BIAS },
    // `sliding_window` counts only with `use_sliding_window`.
    rules: [...DECODER_RULES, { key: 'use_sliding_window', accepts: [false], because: WHOLE_CONTEXT }],
    qkvBias: true,
    defaults: { normEps: 1e-6, maxContext: 32768, ropeTheta: 10000, tiedEmbeddings: false, kvHeads: 32 },
    harmless: /rotary_emb\.inv_freq$/,
  },
];

/** Names of the supported families, for messages. */
export function supportedArchitectures(): string {
  return ARCHITECTURES.map((family) => family.name).join(', ');
}
