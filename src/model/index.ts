/** Checkpoints: configuration, weights' places, tokenizers, presets. Contract first; filled in by the files beside it. */
export type { Checkpoint, ModelPreset } from './checkpoint.js';
export { openCheckpoint } from './checkpoint.js';
export type { DType, ModelSpec, RopeSpec, TensorRef } from './spec.js';
export type { Tokenizer } from './tokenizer.js';
