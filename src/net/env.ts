/** What the environment says about using the network. */
import { homedir } from 'node:os';
import path from 'node:path';
import { QuestError } from '../errors.js';

type Env = NodeJS.ProcessEnv;

const isOn = (value: string | undefined): boolean => /^(1|true|yes|on)$/i.test(value?.trim() ?? '');

/** The variable that forbids the network, if one does. As in Python, TRANSFORMERS_OFFLINE counts where HF_HUB_OFFLINE is not set. */
export function offlineSwitch(env: Env = process.env): string | undefined {
  const hub = env.HF_HUB_OFFLINE ? 'HF_HUB_OFFLINE' : 'TRANSFORMERS_OFFLINE';
  return ['QUEST_OFFLINE', hub].find((name) => isOn(env[name]));
}

/** A folder from the environment, with `~`, `$NAME` and `${NAME}` expanded as Python's tools do. */
export function expandFolder(text: string, env: Env = process.env): string {
  const home = env.HOME || homedir();
  const whole = text.replace(/^~(?=\/|$)/, home);
  return path.resolve(
    whole.replace(
      /\$(?:(\w+)|\{([^}]*)\})/g,
      (found, plain?: string, braced?: string) => env[plain ?? braced!] ?? found,
    ),
  );
}

/** HF_HOME: where Python's tools keep the hub cache and the token. */
export const hubHome = (env: Env = process.env): string =>
  expandFolder(env.HF_HOME || path.join(env.XDG_CACHE_HOME || '~/.cache', 'huggingface'), env);

/** The variable that forbids downloads which nobody asked for by name; continuous integration counts. */
export function noFirstUseSwitch(env: Env = process.env): string | undefined {
  const { CI } = env;
  return offlineSwitch(env) ?? (CI && !/^(0|false|no|off)$/i.test(CI.trim()) ? 'CI' : undefined);
}

/** A server's address from the environment: http or https, no slash at the end. */
export function endpointFrom(name: string, fallback: string, env: Env = process.env): string {
  const value = env[name]?.trim() || fallback;
  let url: URL | undefined;
  try {
    url = new URL(value);
  } catch {
    // refused below
  }
  if (url?.protocol !== 'https:' && url?.protocol !== 'http:') {
    throw new QuestError('E_URL', `${name} is ${JSON.stringify(value)}, which is no address of a server`, {
      hint: `give e.g. ${name}=${fallback}, or unset it`,
    });
  }
  return value.replace(/\/+$/, '');
}
