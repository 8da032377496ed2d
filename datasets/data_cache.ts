/** The data folder, for the commands that read datasets: what is needed is there, or is pulled on first use. */
import { noFirstUseSwitch } from '../src/net/env.js';
import { DATASETS, type DatasetName } from './catalog.js';
import {
  checkKeys,
  dataDir,
  exists,
  findFiles,
  longbenchArchive,
  missingError,
} from './data_cache_places.js';
import { type PullOptions, pullDataset } from './data_cache_pull.js';

export type { DatasetName } from './catalog.js';
export { dataDir } from './data_cache_places.js';

/** `files` are tasks (`qasper`, `qasper_e`) or book ids; all of the dataset when left out. */
export type EnsureOptions = Omit<PullOptions, 'force'>;

export interface FoundDataset {
  /** The data folder. */
  dir: string;
  /** Path of each file, by task or book id. */
  files: Map<string, string>;
}

/**
 * The files of a dataset, pulled now if they are not there. Says how much first. Never pulls in continuous integration or
 * when the environment forbids the network: then, and when the network fails, the error says what to do by hand. A dry run
 * says how much and downloads nothing either; an archive that is there is unpacked all the same.
 */
export async function ensureDataset(name: DatasetName, options: EnsureOptions = {}): Promise<FoundDataset> {
  const env = options.env ?? process.env;
  const dataset = DATASETS[name];
  const dir = dataDir(options.data, env);
  const wanted = options.files ?? dataset.keys;
  checkKeys(dataset, options.files);
  const found = await findFiles(dataset, dir, wanted);
  const missing = wanted.filter((key) => !found.has(key));
  if (missing.length === 0) return { dir, files: found };
  const archive = name === 'longbench' && (await exists(longbenchArchive(dir, env).file));
  const forbidden = noFirstUseSwitch(env);
  const refuse = (reason: string, missing: string[]) => missingError(dataset, dir, missing, env, reason);
  if (forbidden !== undefined && !archive)
    throw refuse(`${forbidden} is set, so that nothing is downloaded on first use`, missing);
  const dryRun = options.dryRun === true && !archive;
  const { files, absent } = await pullDataset(name, { ...options, dryRun });
  if (dryRun) throw refuse('--dry-run is given, so that nothing is downloaded', missing);
  if (absent.length > 0) throw refuse('its source does not have it', absent);
  return { dir, files };
}
