/** The commander parser, made from the option table and the list of commands. */
import { Command, type CommanderError, Option } from 'commander';
import { QuestError } from '../errors.js';
import { COMMANDS, type CommandSpec } from './commands.js';
import { configKey, OPTIONS, type OptionSpec, optionsOf } from './options.js';
import { writeOut } from './output.js';
import { nearest } from './suggest.js';

export interface Invocation {
  command: CommandSpec;
  args: string[];
  /** Values as typed, by config key. */
  raw: Record<string, unknown>;
}

const SECTIONS = { Command: 'Options:', Method: 'Method options:', Global: 'General options:' } as const;

function defaultText(spec: OptionSpec): string {
  if (spec.default === undefined) return '';
  return ` (default: ${Array.isArray(spec.default) ? spec.default.join(',') : spec.default})`;
}

function choicesText(spec: OptionSpec): string {
  // The methods are listed with their explanations already.
  return spec.choices === undefined || (spec.section === 'Method' && spec.name === 'method')
    ? ''
    : ` [${spec.choices.join('|')}]`;
}

/** The words of --help for one option. */
export const helpText = (spec: OptionSpec): string => `${spec.help}${choicesText(spec)}${defaultText(spec)}`;

function addOption(command: Command, spec: OptionSpec): void {
  const short = spec.short === undefined ? '' : `-${spec.short}, `;
  const value = spec.type === 'flag' || spec.type === 'switch' ? '' : ` <${spec.placeholder ?? 'VALUE'}>`;
  const option = new Option(`${short}--${spec.name}${value}`, helpText(spec)).helpGroup(
    SECTIONS[spec.section],
  );
  command.addOption(spec.hidden ? option.hideHelp() : option);
  if (spec.type === 'switch') {
    command.addOption(
      new Option(`--no-${spec.name}`, `not --${spec.name}`).helpGroup(SECTIONS[spec.section]),
    );
  }
}

function rawValues(command: Command, specs: readonly OptionSpec[]): Record<string, unknown> {
  const raw: Record<string, unknown> = {};
  for (const spec of specs) {
    const attribute = spec.name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
    if (command.getOptionValueSource(attribute) === 'cli')
      raw[configKey(spec.name)] = command.getOptionValue(attribute);
  }
  return raw;
}

/** The program with all commands; `found` is called with what was asked for. */
export function createParser(version: string, found: (invocation: Invocation) => void): Command {
  const program = new Command('quest')
    .description(
      'Query-aware sparse attention for long-context LLM decoding: run it, measure it, compare it.',
    )
    .version(version, '-V, --version', 'print the version')
    .helpCommand(false)
    .helpOption('-h, --help', 'print this help')
    .addHelpText('after', '\nquest COMMAND --help lists the options of a command.\n')
    .exitOverride()
    .configureOutput({ writeOut, writeErr: () => {} });
  for (const spec of COMMANDS) {
    const specs = optionsOf(spec.name);
    const command = program
      .command(spec.name)
      .summary(spec.summary)
      .description(`${spec.summary[0]!.toUpperCase()}${spec.summary.slice(1)}.`)
      .helpOption('-h, --help', 'print this help')
      .allowExcessArguments(false)
      .exitOverride()
      .configureOutput({ writeOut, writeErr: () => {} })
      .addHelpText('after', `\nExamples:\n${spec.examples.map((line) => `  ${line}`).join('\n')}\n`);
    if (spec.argument !== undefined) command.argument(spec.argument.name, spec.argument.help);
    if (spec.names !== undefined) command.argument(spec.names.name, spec.names.help);
    for (const option of specs) addOption(command, option);
    command.action(() => found({ command: spec, args: command.args, raw: rawValues(command, specs) }));
  }
  return program;
}

/** Commander's complaint as one of our errors, with the nearest name where one was mistyped. */
export function usageError(error: CommanderError, argv: readonly string[]): QuestError {
  const [first = '', ...rest] = error.message.replace(/^error: /, '').split('\n');
  const command = COMMANDS.find((c) => c.name === argv[0]);
  const help = command === undefined ? 'quest --help' : `quest ${command.name} --help`;
  let hint = rest.join(' ').replace(/^\(|\)$/g, '') || `see \`${help}\``;
  const option = /^unknown option '(--?[^'=]*)/.exec(first)?.[1];
  if (option !== undefined && command !== undefined) {
    const specs = optionsOf(command.name).filter((o) => !o.hidden);
    const near = nearest(
      option.replace(/^-+/, ''),
      specs.map((o) => o.name),
    );
    const elsewhere = OPTIONS.find((o) => `--${o.name}` === option && !o.hidden);
    if (near !== undefined) hint = `did you mean --${near}?`;
    else if (elsewhere !== undefined)
      hint = `it is an option of quest ${elsewhere.commands.join(', ')}; see \`${help}\``;
  } else if (option !== undefined) {
    hint = 'options stand after the command: quest COMMAND --option';
  }
  const unknown = /^unknown command '([^']*)'/.exec(first)?.[1];
  if (unknown !== undefined) {
    const near = nearest(
      unknown,
      COMMANDS.map((c) => c.name),
    );
    hint = near === undefined ? 'see `quest --help`' : `did you mean ${near}?`;
  }
  return new QuestError('E_USAGE', first, { hint, cause: error });
}
