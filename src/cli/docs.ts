/** The option table as Markdown, so that documentation cannot drift from the parser. */
import { renderMarkdown } from '../report/table.js';
import { COMMANDS } from './commands.js';
import { type CommandName, configKey, OPTIONS, optionsOf } from './options.js';
import { helpText } from './parser.js';

/** A table of the options of one command, or of all commands. */
export function optionsMarkdown(command?: CommandName): string {
  const specs = (command === undefined ? OPTIONS : optionsOf(command)).filter((spec) => !spec.hidden);
  const columns = ['option', 'config key', ...(command === undefined ? ['commands'] : []), 'meaning'];
  return renderMarkdown({
    columns: columns.map((key) => ({ key })),
    rows: specs.map((spec) => [
      `\`--${spec.name}${spec.placeholder === undefined ? '' : ` ${spec.placeholder}`}\``,
      spec.cliOnly ? '' : `\`${configKey(spec.name)}\``,
      ...(command === undefined
        ? [spec.commands.length === COMMANDS.length ? 'all' : spec.commands.join(', ')]
        : []),
      helpText(spec),
    ]),
  });
}
