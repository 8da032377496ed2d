/** Entry of the command line: parse, load the one command that was asked for, run it, turn errors into exit codes. */
import { CommanderError } from 'commander';
import { QuestError } from '../errors.js';
import { createOutput, handleBrokenStreams, printError } from './output.js';
import { createParser, type Invocation, usageError } from './parser.js';
import { onParentGone } from './progress.js';
import { createSettings } from './settings.js';
import { questVersion } from './version.js';

/** Ctrl-C, or the end of a sweep that runs this, aborts the running job so that it can flush; a second one does not wait. */
function interruptSignal(): { signal: AbortSignal; dispose(): void } {
  const controller = new AbortController();
  const interrupt = () => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new QuestError('E_INTERRUPTED', 'interrupted', { exitCode: 130 }));
  };
  process.on('SIGINT', interrupt);
  process.on('SIGTERM', interrupt);
  onParentGone(interrupt);
  return {
    signal: controller.signal,
    dispose() {
      process.off('SIGINT', interrupt);
      process.off('SIGTERM', interrupt);
    },
  };
}

/** Anything that was thrown, as the error that users see. */
function asQuestError(error: unknown): QuestError {
  if (error instanceof QuestError) return error;
  const cause = error instanceof Error ? error : new Error(String(error));
  const { code, hint } = cause as NodeJS.ErrnoException & { hint?: string };
  if (code === 'E_CANCELLED') return new QuestError('E_INTERRUPTED', 'interrupted', { exitCode: 130, cause });
  return new QuestError(code ?? 'E_INTERNAL', cause.message, {
    hint: cause.message.startsWith('QUEST_SIMD')
      ? 'set it to one of these levels, or leave it out to use the fastest'
      : (hint ?? 'run again with --verbose to see where it comes from'),
    exitCode: 3,
    cause,
  });
}

async function runInvocation(
  invocation: Invocation,
  argv: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  const { command, args, raw } = invocation;
  const file = raw.config as string | undefined;
  const config =
    file === undefined
      ? undefined
      : { file, values: (await import('./config.js')).readConfig(file, command.name) };
  const settings = createSettings(command.name, raw, config);
  const out = createOutput({ quiet: settings.flag('quiet'), verbose: settings.flag('verbose') });
  const { run } = await command.load();
  return run({ settings, args, argv, out, signal });
}

/** Runs `quest ARGV...` and returns the exit code: 0 ok, 1 failed check, 2 usage, 3 environment, 130 interrupted. */
export async function main(argv: readonly string[]): Promise<number> {
  handleBrokenStreams();
  const interrupt = interruptSignal();
  let invocation: Invocation | undefined;
  try {
    const parser = createParser(questVersion(), (found) => {
      invocation = found;
    });
    if (argv.length === 0) {
      parser.outputHelp();
      return 2;
    }
    await parser.parseAsync(argv, { from: 'user' });
    return invocation === undefined ? 0 : await runInvocation(invocation, argv, interrupt.signal);
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    const shown = error instanceof CommanderError ? usageError(error, argv) : asQuestError(error);
    printError(shown, argv.includes('--verbose') || argv.includes('-v'));
    return shown.exitCode;
  } finally {
    interrupt.dispose();
  }
}
