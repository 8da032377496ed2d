/** Which files of a hub repository a run needs, and whether a folder has them all. */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../errors.js';
import type { RepoFile, RepoInfo } from '../net/hub_api.js';

/** Everything but the weights. Only those that a repository has are fetched. */
export const SMALL_FILES = new Set([
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer.model',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'chat_template.jinja',
  'chat_template.json',
  'quant_config.json',
  'quantize_config.json',
]);

/** As the checkpoint reader prefers them: one file, else the shards of an index. */
const WEIGHTS = [
  { stem: 'model', end: 'safetensors' },
  { stem: 'pytorch_model', end: 'bin' },
] as const;

const single = ({ stem, end }: (typeof WEIGHTS)[number]) => `${stem}.${end}`;
const index = ({ stem, end }: (typeof WEIGHTS)[number]) => `${stem}.${end}.index.json`;
const isShard = ({ stem, end }: (typeof WEIGHTS)[number], name: string) =>
  name.startsWith(`${stem}-`) &&
  name.endsWith(`.${end}`) &&
  /^\d+-of-\d+$/.test(name.slice(stem.length + 1, -end.length - 1));

/** The files to fetch: configuration, tokenizer, and the weights in one format. Throws E_HUB when it is no model that we read. */
export function neededFiles(repo: RepoInfo): RepoFile[] {
  const names = new Set(repo.files.map(({ name }) => name));
  if (!names.has('config.json')) throw notAModel(repo, 'config.json');
  const small = repo.files.filter(({ name }) => SMALL_FILES.has(name));
  for (const layout of WEIGHTS) {
    if (names.has(single(layout)))
      return [...small, ...repo.files.filter(({ name }) => name === single(layout))];
    if (!names.has(index(layout))) continue;
    const shards = repo.files.filter(({ name }) => isShard(layout, name));
    if (shards.length > 0)
      return [...small, ...repo.files.filter(({ name }) => name === index(layout)), ...shards];
  }
  throw notAModel(repo, 'weights that we read');
}

function notAModel(repo: RepoInfo, what: string): QuestError {
  const large = repo.files
    .map(({ name }) => name)
    .filter((name) => /\.(gguf|ggml|pth|pt|msgpack|h5|onnx|bin|safetensors)$/.test(name));
  const seen = large.length === 0 ? '' : `; it has ${large.slice(0, 4).join(', ')}`;
  return new QuestError('E_HUB', `${repo.id} has no ${what}${seen}`, {
    hint: `wanted: config.json and ${WEIGHTS.map(single).join(' or ')}, whole or in shards with an index; look for a repository in that layout`,
    exitCode: 3,
  });
}

const has = (file: string): Promise<boolean> =>
  stat(file).then(
    (info) => info.isFile() && info.size > 0,
    () => false,
  );

/** What a model folder lacks; empty when it can be opened. */
export async function missingFiles(dir: string): Promise<string[]> {
  const at = (name: string) => path.join(dir, name);
  const missing: string[] = [];
  if (!(await has(at('config.json')))) missing.push('config.json');
  if (!(await has(at('tokenizer.json'))) && !(await has(at('tokenizer.model'))))
    missing.push('tokenizer.json or tokenizer.model');
  return [...missing, ...(await missingWeights(at))];
}

async function missingWeights(at: (name: string) => string): Promise<string[]> {
  for (const layout of WEIGHTS) {
    if (await has(at(single(layout)))) return [];
    const text = await readFile(at(index(layout)), 'utf8').catch(() => undefined);
    if (text === undefined) continue;
    const shards = shardNames(text);
    if (shards === undefined) return [index(layout)];
    const missing: string[] = [];
    for (const shard of shards) if (!(await has(at(shard)))) missing.push(shard);
    return missing;
  }
  return [WEIGHTS.map(single).join(' or ')];
}

/** The files that an index names, or undefined when it is broken. */
function shardNames(text: string): string[] | undefined {
  try {
    const { weight_map: map } = JSON.parse(text) as { weight_map?: unknown };
    const names = [...new Set(Object.values(map as object))];
    const isPlain = (name: unknown) =>
      typeof name === 'string' && /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name) && !name.includes('..');
    return names.length > 0 && names.every(isPlain) ? (names as string[]).sort() : undefined;
  } catch {
    return undefined;
  }
}
