/** Defaults that models bring with them: configs/models/*.yaml. */
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { QuestError } from '../errors.js';
import type { ModelPreset } from './checkpoint.js';
import { packageRoot } from './package_root.js';

/** Reads every preset of a folder, in the order of file names. Throws E_PRESET naming file and key. */
export async function loadPresets(
  dir = path.join(packageRoot(), 'configs', 'models'),
): Promise<ModelPreset[]> {
  const files = (await readdir(dir).catch(() => [])).filter((name) => name.endsWith('.yaml')).sort();
  if (files.length === 0) return [];
  const [{ parse }, { z }] = await Promise.all([import('yaml'), import('zod')]);
  const schema = z.strictObject({
    name: z.string().min(1),
    matches: z.array(z.string().min(1)).min(1),
    defaults: z.record(z.string().regex(/^[a-z][a-z0-9_]*$/), z.unknown()),
    chat: z.enum(['vicuna-v1.1', 'none']).optional(),
    max_context: z
      .int()
      .min(1)
      .max(1 << 28)
      .optional(),
    notes: z.string().optional(),
  });
  return Promise.all(
    files.map(async (name) => {
      let value: unknown;
      try {
        value = parse(await readFile(path.join(dir, name), 'utf8'));
      } catch (cause) {
        throw broken(name, (cause as Error).message);
      }
      const checked = schema.safeParse(value);
      if (checked.success) return checked.data;
      const [issue] = checked.error.issues;
      throw broken(
        name,
        `${issue?.path.join('.') || 'the file'}: ${issue?.message.replace('undefined', 'nothing')}`,
      );
    }),
  );
}

function broken(file: string, what: string): QuestError {
  return new QuestError('E_PRESET', `configs/models/${file}: ${what}`, {
    hint: 'a preset has name, matches, defaults and, if you like, chat, max_context and notes',
  });
}

/** The preset for a model that goes by any of `names` (built-in name, hub id, folder name). */
export async function findPreset(names: readonly string[], dir?: string): Promise<ModelPreset | undefined> {
  const presets = await loadPresets(dir);
  return presets.find((preset) => preset.matches.some((match) => names.includes(match)));
}
