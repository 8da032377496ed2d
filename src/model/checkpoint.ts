import { stat } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../errors.js';
import { type ModelConfig, parseConfig } from './config.js';
import { Fields, readJsonObject, tokenIds } from './fields.js';
import { fingerprint } from './fingerprint.js';
import { findInHubCache, hubIdOfFolder, parseHubId } from './hub.js';
import { BUILT_IN, packageRoot } from './package_root.js';
import { findPreset } from './presets.js';
import type { ModelSpec } from './spec.js';
import type { Tokenizer } from './tokenizer.js';
import { loadTokenizer, tokenizerHash } from './tokenizer_files.js';
import { locateWeights } from './weights.js';

/** Defaults that a model brings with it, from `configs/models/<name>.yaml`. Keys are the option table's. */
export interface ModelPreset {
  name: string;
  /** Hub ids, built-in names or folder names this preset applies to. */
  matches: string[];
  /** Option defaults, snake_case keys as on the command line and in config files, e.g. `{ skip_layers: 0 }`. */
  defaults: Record<string, unknown>;
  /** Prompt format, for models whose files do not carry it (or, with `none`, carry one that does not count). */
  chat?: 'vicuna-v1.1' | 'none';
  /** Tokens that the model was made for, where config.json does not say it. */
  max_context?: number;
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
  /** From generation_config.json, else config.json, else the tokenizer. */
  eosIds: number[];
  preset: ModelPreset | undefined;
  tokenizer(): Promise<Tokenizer>;
  /** Of the tokenizer's files: what was tokenised under the same hash has the same ids. */
  tokenizerHash(): Promise<string>;
}

/**
 * Opens a checkpoint: a folder in Hugging Face layout, a hub id in the local hub cache, or a built-in name (`quest-tiny`).
 * Reads headers and indexes only; no tensor bytes. Throws a QuestError that names key, value found and values supported.
 */
export async function openCheckpoint(ref: string): Promise<Checkpoint> {
  const { name, dir, repo } = await resolveModel(ref);
  const json = await readJsonObject(path.join(dir, 'config.json'));
  if (!json)
    throw new QuestError('E_MODEL', `${dir} holds no config.json`, {
      hint: 'give a folder in Hugging Face layout: config.json, weights, tokenizer files',
    });
  const config = parseConfig(json);
  const weights = await locateWeights(dir, config);
  let loading: Promise<Tokenizer> | undefined;
  const tokenizer = () => {
    loading ??= loadTokenizer(dir, { bosId: config.bosId, eosIds: config.eosIds });
    return loading;
  };
  const preset = await findPreset([name, repo ?? name, path.basename(dir)]);
  const maxContext = preset?.max_context ?? config.shape.maxContext;
  return {
    name,
    dir,
    spec: { ...config.shape, maxContext, files: weights.files, tensors: weights.tensors },
    weightBytes: weights.bytes,
    fingerprint: await fingerprint(dir, weights),
    eosIds: await findEosIds(dir, config, tokenizer),
    preset,
    tokenizer,
    tokenizerHash: () => tokenizerHash(dir, { bosId: config.bosId, eosIds: config.eosIds }),
  };
}

/** Folder and name of what `--model` was given; `repo` is a hub id without its revision. */
async function resolveModel(ref: string): Promise<{ name: string; dir: string; repo?: string }> {
  if (Object.hasOwn(BUILT_IN, ref))
    return { name: ref, dir: path.join(packageRoot(), BUILT_IN[ref] as string) };
  const dir = path.resolve(ref);
  const info = ref === '' ? undefined : await stat(dir).catch(() => undefined);
  if (info?.isDirectory()) return { name: hubIdOfFolder(dir) ?? path.basename(dir), dir };
  if (info)
    throw new QuestError('E_MODEL', `${ref} is a file; supported: the folder that holds the model`, {
      hint: `try --model ${path.dirname(ref)}`,
    });
  const id = parseHubId(ref);
  if (id) return { name: ref, dir: await findInHubCache(id), repo: id.repo };
  throw new QuestError(
    'E_MODEL',
    `no model ${JSON.stringify(ref)}: no such folder, and neither a hub id nor a built-in name`,
    {
      hint: `give a folder, a hub id like ORG/NAME that is in the hub cache, or a built-in name: ${Object.keys(BUILT_IN).join(', ')}`,
    },
  );
}

async function findEosIds(
  dir: string,
  config: ModelConfig,
  tokenizer: () => Promise<Tokenizer>,
): Promise<number[]> {
  const file = 'generation_config.json';
  const generation = await readJsonObject(path.join(dir, file));
  const ids = generation ? tokenIds(new Fields(file, generation), 'eos_token_id') : [];
  if (ids.length > 0) return ids;
  if (config.eosIds.length > 0) return config.eosIds;
  // Rare: only then is the tokenizer worth its loading time. A model may do without one.
  return tokenizer().then(
    ({ eosIds }) => eosIds,
    () => [],
  );
}
