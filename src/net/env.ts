/** What the environment says about using the network. */
import { QuestError } from '../errors.js';

type Env = NodeJS.ProcessEnv;

const isOn = (value: string | undefined): boolean => /^(1|true|yes|on)$/i.test(value?.trim() ?? '');

/** The variable that forbids the network, if one does. */
export function offlineSwitch(env: Env = process.env): string | undefined {
  return ['QUEST_OFFLINE', 'HF_HUB_OFFLINE'].find((name) => isOn(env[name]));
}

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
