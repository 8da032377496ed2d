/** Files of quest-tiny as a hub serves them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { FakeFile } from '../net/fake_hub.js';
import { ROOT } from './spawn.js';

/** `large`: behind a redirect to a store, as the hub keeps weights. */
export const tinyFile = (name: string, large = false): FakeFile => ({
  content: readFileSync(join(ROOT, 'models', 'quest-tiny', name)),
  large,
});
