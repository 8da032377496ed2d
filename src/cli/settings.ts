/** The options of one run, resolved: command line, then config file, then the model's preset, then the tool's defaults. */

import { QuestError } from '../errors.js';
import type { ModelPreset } from '../model/index.js';
import {
  type CommandName,
  configKey,
  OPTIONS,
  type OptionSpec,
  type OptionValue,
  optionsOf,
} from './options.js';
import { parseValue } from './values.js';

export type Source = 'command line' | 'config file' | 'model preset' | 'default';

export interface Settings {
  readonly command: CommandName;
  string(name: string): string;
  maybeString(name: string): string | undefined;
  number(name: string): number;
  maybeNumber(name: string): number | undefined;
  flag(name: string): boolean;
  maybeFlag(name: string): boolean | undefined;
  numbers(name: string): number[];
  maybeNumbers(name: string): number[] | undefined;
  names(name: string): string[];
  source(name: string): Source;
  /** Everything that has a value, by config key. */
  resolved(): Record<string, { value: OptionValue; source: Source }>;
  /** The same settings with a model's defaults below the config file. */
  withPreset(preset: ModelPreset | undefined): Settings;
}

interface Layers {
  cli: Record<string, OptionValue>;
  config: Record<string, OptionValue>;
  preset: Record<string, OptionValue>;
}

function parseLayer(
  specs: readonly OptionSpec[],
  values: Record<string, unknown>,
  where: (spec: OptionSpec) => string,
): Record<string, OptionValue> {
  const layer: Record<string, OptionValue> = {};
  for (const spec of specs) {
    const raw = values[configKey(spec.name)];
    if (raw !== undefined) layer[spec.name] = parseValue(spec, raw, where(spec));
  }
  return layer;
}

/** Builds settings from raw values by config key, as the command line and the config file gave them. */
export function createSettings(
  command: CommandName,
  cli: Record<string, unknown>,
  config: { file: string; values: Record<string, unknown> } | undefined,
): Settings {
  const specs = optionsOf(command);
  return build(command, specs, {
    cli: parseLayer(specs, cli, (spec) => `--${spec.name}`),
    config: parseLayer(specs, config?.values ?? {}, (spec) => `${configKey(spec.name)} in ${config?.file}`),
    preset: {},
  });
}

function build(command: CommandName, specs: readonly OptionSpec[], layers: Layers): Settings {
  const specOf = (name: string): OptionSpec => {
    const spec = specs.find((s) => s.name === name);
    if (spec === undefined) throw new Error(`quest ${command} has no option --${name}`);
    return spec;
  };
  const find = (name: string): { value: OptionValue | undefined; source: Source } => {
    const spec = specOf(name);
    if (layers.cli[name] !== undefined) return { value: layers.cli[name], source: 'command line' };
    if (layers.config[name] !== undefined) return { value: layers.config[name], source: 'config file' };
    if (layers.preset[name] !== undefined) return { value: layers.preset[name], source: 'model preset' };
    return { value: spec.default ?? (spec.type === 'flag' ? false : undefined), source: 'default' };
  };
  const need = (name: string): OptionValue => {
    const { value } = find(name);
    if (value !== undefined) return value;
    const { placeholder } = specOf(name);
    throw new QuestError('E_OPTION', `quest ${command} needs --${name}`, {
      hint: `give --${name} ${placeholder ?? ''}`.trimEnd(),
    });
  };
  return {
    command,
    string: (name) => need(name) as string,
    maybeString: (name) => find(name).value as string | undefined,
    number: (name) => need(name) as number,
    maybeNumber: (name) => find(name).value as number | undefined,
    flag: (name) => need(name) as boolean,
    maybeFlag: (name) => find(name).value as boolean | undefined,
    numbers: (name) => need(name) as number[],
    maybeNumbers: (name) => find(name).value as number[] | undefined,
    names: (name) => need(name) as string[],
    source: (name) => find(name).source,
    resolved() {
      const all: ReturnType<Settings['resolved']> = {};
      for (const spec of specs) {
        const { value, source } = find(spec.name);
        if (value !== undefined && !spec.hidden) all[configKey(spec.name)] = { value, source };
      }
      return all;
    },
    withPreset(preset) {
      if (preset === undefined) return this;
      const known = new Set(OPTIONS.map((o) => configKey(o.name)));
      const unknown = Object.keys(preset.defaults).find((key) => !known.has(key));
      if (unknown !== undefined) {
        throw new QuestError('E_CONFIG', `the model preset ${preset.name} sets an unknown key "${unknown}"`, {
          hint: 'its keys are the option names with underscores, e.g. skip_layers',
          exitCode: 3,
        });
      }
      const where = (spec: OptionSpec) => `${configKey(spec.name)} in the model preset ${preset.name}`;
      return build(command, specs, { ...layers, preset: parseLayer(specs, preset.defaults, where) });
    },
  };
}
