/** Telling runs apart in words: what was asked of them, and only where it differs. */

import { plural } from '../words.js';
import type { ReportRun } from './html-run.js';

type Setting = string | number | boolean;

/** What was asked, by name: `context_tokens` -> 600. */
export type Settings = Readonly<Record<string, Setting>>;

const WORDS: Readonly<Record<string, (value: Setting) => string>> = {
  model: String,
  model_fingerprint: (value) => `model ${value}`,
  context_tokens: (value) => `${Number(value).toLocaleString('en-US')} tokens of context`,
  tokens: (value) => plural(Number(value), 'token'),
  samples: (value) => plural(Number(value), 'sample'),
  rows: (value) => plural(Number(value), 'row'),
  tasks: String,
  data_hash: (value) => `data ${value}`,
  max_length: (value) =>
    value === 'model'
      ? 'prompts as long as the model takes'
      : `prompts of at most ${Number(value).toLocaleString('en-US')} tokens`,
};

/** `seed` 1 -> `seed 1`. */
export const settingWords = (key: string, value: Setting): string =>
  WORDS[key]?.(value) ?? `${key.replaceAll('_', ' ')} ${value}`;

/** What a run asked for; of one task, where it had several. */
export function runSettings({ manifest, params }: ReportRun, task?: string): Settings {
  const { name, fingerprint = '' } = manifest.model;
  const tasks = Array.isArray(params.tasks) ? params.tasks : [];
  const place = task === undefined ? -1 : tasks.indexOf(task);
  const own = Object.entries(params).flatMap(([key, value]): [string, Setting][] => {
    // Lists beside the list of tasks hold a value for each.
    const one = Array.isArray(value) && place >= 0 && value.length === tasks.length ? value[place] : value;
    if (one === undefined || one === null) return [];
    return [[key, typeof one === 'object' ? [one].flat().join(', ') : (one as Setting)]];
  });
  return { model: name, model_fingerprint: fingerprint, ...Object.fromEntries(own) };
}

/** They tell apart, but tell a reader nothing. */
const HASHES = ['model_fingerprint', 'data_hash'];

/** For each of several, the words of what is not the same in all of them; hashes where nothing else differs. */
export function differences(all: readonly Settings[]): string[] {
  const keys = [...new Set(all.flatMap((one) => Object.keys(one)))];
  const telling = keys.filter((key) => new Set(all.map((one) => one[key])).size > 1);
  const words = (of: readonly string[]) =>
    all.map((one) =>
      of.flatMap((key) => (one[key] === undefined ? [] : settingWords(key, one[key]))).join(', '),
    );
  const [whole, short] = [words(telling), words(telling.filter((key) => !HASHES.includes(key)))];
  return new Set(short).size === new Set(whole).size ? short : whole;
}

/** Things of one name get what they differ in behind it. */
export function namesApart(all: readonly { name: string; settings: Settings }[], between: string): string[] {
  const names = all.map(({ name }) => name);
  for (const name of new Set(names)) {
    const own = all.flatMap((one, i) => (one.name === name ? [i] : []));
    const words = differences(own.map((i) => all[i]!.settings));
    for (const [at, i] of own.entries()) if (words[at] !== '') names[i] = `${name}${between}${words[at]}`;
  }
  return names;
}
