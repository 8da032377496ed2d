/** What a checkpoint is, in the terms the runtime needs: shapes, rope frequencies, and where each tensor's bytes lie. */

/** `int4`: 4-bit weights as AutoAWQ packs them, see {@link TensorRef.group}. */
export type DType = 'fp32' | 'fp16' | 'bf16' | 'int4';

/** What the layers' matrices are stored as. */
export type WeightType = 'fp16' | 'int4';

/** Where a tensor's bytes begin. */
export interface TensorPlace {
  /** Index into {@link ModelSpec.files}. */
  file: number;
  /** Byte offset of the first element from the start of the file; need not be a multiple of the element's size. */
  offset: number;
}

/** A contiguous row-major tensor inside one of the checkpoint's files. The bytes are mapped by the native side only. */
export interface TensorRef extends TensorPlace {
  dtype: DType;
  shape: number[];
  /** `int4` only: weights that share a scale and a zero; where the zeros and the fp16 scales lie. `shape` is that of the matrix. */
  group?: number;
  zeros?: TensorPlace;
  scales?: TensorPlace;
}

export interface RopeSpec {
  /** Angular frequency of each rotated pair (i, i + headDim / 2), after scaling. [headDim / 2], fp32 as transformers computes it. */
  invFreq: Float32Array;
  /** Multiplies cos and sin (yarn's attention factor; 1 for the other kinds). */
  attentionFactor: number;
}

/**
 * A Llama-shaped decoder. Tensor names are canonical, whatever the checkpoint calls them:
 * `embed` [vocab, hidden], `norm` [hidden], `lm_head` [vocab, hidden] (absent when tied), and per layer i
 * `layers.{i}.attn_norm` [hidden], `.q` [nHeads*headDim, hidden], `.k` and `.v` [nKvHeads*headDim, hidden],
 * with {@link ModelSpec.qkvBias} `.q_bias` [nHeads*headDim], `.k_bias` and `.v_bias` [nKvHeads*headDim],
 * `.o` [hidden, nHeads*headDim], `.ffn_norm` [hidden], `.gate` and `.up` [ffn, hidden], `.down` [hidden, ffn].
 */
export interface ModelSpec {
  nLayers: number;
  hidden: number;
  nHeads: number;
  nKvHeads: number;
  headDim: number;
  ffn: number;
  vocab: number;
  normEps: number;
  /** Longest context the checkpoint supports, in tokens. */
  maxContext: number;
  rope: RopeSpec;
  tiedEmbeddings: boolean;
  /** The projections to queries, keys and values add a bias. */
  qkvBias: boolean;
  /** Weights made up by the runtime, for benchmarks: no files are read. */
  randomWeights?: WeightType;
  /** Absolute paths. */
  files: string[];
  tensors: Record<string, TensorRef>;
}
