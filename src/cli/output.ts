/** The only place that writes to the terminal: data to stdout, notes to stderr. */
import type { QuestError } from '../errors.js';
import { outputError } from '../report/files.js';
import type { Format, Table } from '../report/table.js';

export interface Output {
  /** Results; never decorated. */
  data(text: string): void;
  /** Notes of a table in a format for programs go to stderr. */
  table(table: Table, format: Format): Promise<void>;
  /** For people; silent with --quiet. */
  note(text: string): void;
  /** For people who asked for more with --verbose. */
  detail(text: string): void;
  readonly quiet: boolean;
  readonly verbose: boolean;
  /** Whether progress bars make sense: stderr is a terminal and nobody asked for quiet. */
  readonly interactive: boolean;
  /** Its size where standard output is a terminal on which lines can be drawn again; it may change. */
  readonly terminal: { columns: number; rows: number } | undefined;
}

const colored = (): boolean =>
  process.stderr.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== 'dumb';

const paint = (code: number, text: string): string => (colored() ? `\u001b[${code}m${text}\u001b[0m` : text);

/** Makes the output of one command. */
export function createOutput(options: { quiet: boolean; verbose: boolean }): Output {
  const { quiet, verbose } = options;
  const note = (text: string): void => {
    if (!quiet) process.stderr.write(`${text}\n`);
  };
  return {
    quiet,
    verbose,
    interactive: process.stderr.isTTY === true && !quiet,
    get terminal() {
      const { isTTY, columns, rows } = process.stdout;
      return isTTY === true && process.env.TERM !== 'dumb' ? { columns, rows } : undefined;
    },
    data: (text) => void process.stdout.write(text),
    table: async (table, format) => {
      const { renderTable } = await import('../report/table.js'); // keeps --help quick
      process.stdout.write(renderTable(table, format));
      if (format === 'csv' || format === 'json') table.notes?.forEach(note);
    },
    note,
    detail: (text) => {
      if (verbose) process.stderr.write(`${paint(2, text)}\n`);
    },
  };
}

/** Prints an error as users see it: what is wrong, what to do, and the stack only when asked for. */
export function printError(error: QuestError, verbose: boolean): void {
  process.stderr.write(`${paint(31, 'error:')} ${error.message}\n`);
  if (error.hint !== undefined) process.stderr.write(`${paint(36, 'hint:')} ${error.hint}\n`);
  if (!verbose) return;
  process.stderr.write(`code: ${error.code}\n`);
  for (let e: unknown = error; e instanceof Error; e = e.cause)
    process.stderr.write(`${paint(2, e.stack ?? e.message)}\n`);
}

/** Writes text that commander has made (help, version). */
export const writeOut = (text: string): void => void process.stdout.write(text);

/** Ends the command when its results cannot be written. */
function failOutput(error: NodeJS.ErrnoException): never {
  // A reader that has gone away (`quest ... | head`) is no error. Evaluations print when their results are on disk.
  if (error.code === 'EPIPE') process.exit(0);
  const shown = outputError(error, 'standard output', 'send it to a place with room');
  printError(shown, false);
  process.exit(shown.exitCode);
}

/** Settles what happens when stdout or stderr can no longer be written to. */
export function handleBrokenStreams(): void {
  process.stdout.on('error', failOutput);
  // Nothing of a result is lost with the notes.
  process.stderr.on('error', () => {});
}
