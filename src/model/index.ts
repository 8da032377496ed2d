/** Checkpoints: configuration, weights' places, tokenizers, presets. */
export type { Checkpoint, ModelPreset } from './checkpoint.js';
export { openCheckpoint } from './checkpoint.js';
export type { StoredFile, StoredTensor } from './safetensors.js';
export { readSafetensorsHeader } from './safetensors.js';
export type { TensorToWrite } from './safetensors_write.js';
export { writeSafetensors } from './safetensors_write.js';
export type { DType, ModelSpec, RopeSpec, TensorRef } from './spec.js';
export type { Tokenizer } from './tokenizer.js';
