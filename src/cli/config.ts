/** `--config FILE.yaml`: options from a file, checked against the option table. Loaded only when a file is given. */
import { parse, YAMLParseError } from 'yaml';
import { z } from 'zod';
import { QuestError } from '../errors.js';
import { readTextFile } from '../reading.js';
import { type CommandName, configKey, OPTIONS, type OptionSpec, optionsOf } from './options.js';
import { nearest } from './suggest.js';

/** What YAML may hold for an option; ranges and choices are checked where the command line's are. */
function valueSchema(spec: OptionSpec): z.ZodType {
  const text = z.string();
  const number = z.number();
  switch (spec.type) {
    case 'int':
      return number.int();
    case 'number':
      return number;
    case 'flag':
    case 'switch':
      return z.boolean();
    case 'size':
      return z.union([number, text]);
    case 'ints':
    case 'numbers':
      return z.union([number, text, z.array(number)]);
    case 'names':
      return z.union([text, z.array(text)]);
    case 'string':
      return text;
  }
}

/** The schema of a command's config file: every option by its key, nothing else. */
export function configSchema(command: CommandName): z.ZodType<Record<string, unknown>> {
  const shape = Object.fromEntries(
    optionsOf(command)
      .filter((spec) => !spec.cliOnly)
      .map((spec) => [configKey(spec.name), valueSchema(spec).optional()]),
  );
  return z.strictObject(shape);
}

function unknownKey(key: string, command: CommandName, source: string): QuestError {
  const keys = optionsOf(command)
    .filter((o) => !o.cliOnly)
    .map((o) => configKey(o.name));
  const elsewhere = OPTIONS.find((o) => configKey(o.name) === key && !o.cliOnly);
  const flag = OPTIONS.find((o) => o.name === key);
  const near = nearest(key.replaceAll('-', '_'), keys);
  let hint = `the keys of quest ${command} are ${keys.join(', ')}`;
  if (near !== undefined) hint = `did you mean ${near}?`;
  else if (elsewhere !== undefined && flag === undefined)
    hint = `it is an option of quest ${elsewhere.commands.join(', ')}`;
  return new QuestError('E_CONFIG', `${source} has an unknown key "${key}"`, { hint });
}

/** Checks options that came from a file or preset. `source` names it in messages. */
export function checkConfig(values: unknown, command: CommandName, source: string): Record<string, unknown> {
  if (values === null || values === undefined) return {};
  if (typeof values !== 'object' || Array.isArray(values)) {
    throw new QuestError('E_CONFIG', `${source} holds no keys`, {
      hint: 'write one `key: value` per line, e.g. `budget: 64,128`',
    });
  }
  const result = configSchema(command).safeParse(values);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  if (issue.code === 'unrecognized_keys') throw unknownKey(issue.keys[0]!, command, source);
  const key = issue.path.join('.');
  const value = (values as Record<string, unknown>)[String(issue.path[0])];
  const seen = typeof value === 'number' ? String(value) : JSON.stringify(value); // JSON has no infinity
  throw new QuestError('E_CONFIG', `${key} in ${source} is ${seen}: ${issue.message}`, {
    hint: `write it as \`quest ${command} --help\` shows for --${key.replaceAll('_', '-')}`,
  });
}

/** Reads and checks a config file. */
export function readConfig(file: string, command: CommandName): Record<string, unknown> {
  const what = 'the config file ';
  const text = readTextFile(file, { code: 'E_CONFIG', hint: 'check the path after --config', what });
  return checkConfig(parseYaml(text, file, 'write one `key: value` per line'), command, file);
}

/** What a YAML file holds. `hint` is what its reader should do where it is none. */
export function parseYaml(text: string, file: string, hint: string): unknown {
  try {
    return parse(text, { logLevel: 'error' }); // warnings would go past our output
  } catch (cause) {
    // Aliases that multiply into more than any memory holds are a ReferenceError of the parser.
    if (!(cause instanceof YAMLParseError || cause instanceof ReferenceError)) throw cause;
    throw new QuestError('E_CONFIG', `${file} is not valid YAML: ${cause.message.split('\n')[0]}`, {
      hint,
      cause,
    });
  }
}
