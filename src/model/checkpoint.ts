import { QuestError } from '../errors.js';
import type { ModelSpec } from './spec.js';
import type { Tokenizer } from './tokenizer.js';

/** Defaults that a model brings with it, from `configs/models/<name>.yaml`. Keys are the option table's. */
export interface ModelPreset {
  name: string;
  /** Hub ids or built-in names this preset applies to. */
  matches: string[];
  /** Option defaults, snake_case keys as on the command line and in config files, e.g. `{ skip_layers: 0 }`. */
  defaults: Record<string, unknown>;
  /** What a reader should know, one or two sentences. */
  notes?: string;
}

export interface Checkpoint {
  /** Hub id, built-in name, or the folder's name. */
  name: string;
  dir: string;
  spec: ModelSpec;
  /** Bytes of all tensors in memory. */
  weightBytes: number;
  /** Identifies configuration and weights: sha256 (hex, 16 digits) over config.json, tensor index, file sizes and sampled bytes. */
  fingerprint: string;
  /** From config.json and generation_config.json. */
  eosIds: number[];
  preset: ModelPreset | undefined;
  tokenizer(): Promise<Tokenizer>;
}

/**
 * Opens a checkpoint: a folder in Hugging Face layout, a hub id in the local hub cache, or a built-in name (`quest-tiny`).
 * Reads headers and indexes only; no tensor bytes. Throws a QuestError that names key, value found and values supported.
 */
export async function openCheckpoint(_ref: string): Promise<Checkpoint> {
  throw new QuestError('E_TODO', 'not built yet');
}
