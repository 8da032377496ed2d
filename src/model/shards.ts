/** `*.index.json`: which shard holds which tensor. */
import path from 'node:path';
import { QuestError } from '../errors.js';
import { fileSize, isObject, readJsonObject, show } from './fields.js';

/**
 * Reads an index and gives tensor name -> absolute path for the names wanted that it lists; undefined when there is no index.
 * Shards must be plain file names of the same folder (which may be links, as in the hub cache). Throws E_SHARDS.
 */
export async function readShardIndex(
  dir: string,
  index: string,
  wanted: readonly string[],
): Promise<Map<string, string> | undefined> {
  const json = await readJsonObject(path.join(dir, index));
  if (!json) return undefined;
  if (!isObject(json.weight_map))
    throw new QuestError(
      'E_SHARDS',
      `${index}: weight_map is ${show(json.weight_map)}; supported: an object of tensor name to file`,
      {
        hint: 'fetch the index again',
      },
    );
  const checked = new Map<string, string>();
  const found = new Map<string, string>();
  for (const name of wanted) {
    if (!Object.hasOwn(json.weight_map, name)) continue;
    const shard = json.weight_map[name];
    const file = checked.get(shard as string) ?? (await checkShard(dir, index, name, shard));
    checked.set(shard as string, file);
    found.set(name, file);
  }
  return found;
}

async function checkShard(dir: string, index: string, name: string, shard: unknown): Promise<string> {
  const plain = typeof shard === 'string' && /^[^/\\\0]+$/.test(shard) && shard !== '.' && shard !== '..';
  if (!plain)
    throw new QuestError(
      'E_SHARDS',
      `${index}: weight_map puts ${show(name)} into ${show(shard)}; supported: a file name in the same folder`,
      {
        hint: 'an index must not point outside its folder; do not use this checkpoint',
      },
    );
  const file = path.join(dir, shard);
  if ((await fileSize(file)) === undefined)
    throw new QuestError('E_SHARDS', `${index} names ${shard}, which is not in ${dir}`, {
      hint: 'the download is incomplete; fetch the missing file',
    });
  return file;
}
