/** Runs the real command line, as a user would. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const BIN = join(ROOT, 'bin/quest.js');

if (!existsSync(join(ROOT, 'dist/src/cli/main.js'))) {
  throw new Error('dist/ is missing: run `npm run build:ts` before the CLI tests');
}

export interface Finished {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface SpawnOptions {
  cwd?: string;
  env?: Record<string, string>;
  stdin?: string;
  /** Sees the process as soon as it runs. */
  started?: (child: ChildProcess) => void;
  /** Wraps the command, e.g. ['bash', '-c', 'ulimit -f 4; exec "$@"', '-']. */
  wrapper?: string[];
}

/** Runs `quest ARGS...` to its end. */
export function quest(args: string[], options: SpawnOptions = {}): Promise<Finished> {
  const [command, ...rest] = [...(options.wrapper ?? []), process.execPath, BIN, ...args];
  const child = spawn(command!, rest, {
    cwd: options.cwd ?? tmpdir(),
    env: { ...process.env, NO_COLOR: '1', QUEST_TOKEN_CACHE: 'off', ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  child.stdin.on('error', () => {}); // a command that does not read it
  child.stdin.end(options.stdin ?? '');
  options.started?.(child);
  const parts = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    parts.stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    parts.stderr += text;
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, ...parts }));
  });
}

/** A new folder for one test. */
export const temporaryFolder = (): string => mkdtempSync(join(tmpdir(), 'quest-cli-'));

/** Whether the native runtime is built and loads; tests that compute need it. */
export const hasAddon: boolean = (() => {
  try {
    createRequire(import.meta.url)(join(ROOT, 'native/build/Release/quest.node'));
    return true;
  } catch {
    process.stderr.write('the native runtime is not built: CLI tests that compute are skipped\n');
    return false;
  }
})();
