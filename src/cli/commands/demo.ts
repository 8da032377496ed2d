/** quest demo: the full cache and a sparse method side by side, streaming, with the speed and the KV read of each. */
import { encodePrefix, MOBY_DICK } from '../../../datasets/texts.js';
import { type Cell, cellName, cellOptions } from '../../../eval/methods.js';
import { QuestError } from '../../errors.js';
import type { Checkpoint, Tokenizer } from '../../model/index.js';
import { columnsOf, type Format, fixed } from '../../report/table.js';
import { branchMemory, describeReading, describeSpeed, openBranches, readPct } from '../branches.js';
import { type Column, layColumns } from '../columns.js';
import type { CommandContext } from '../commands.js';
import { describeMemory } from '../memory.js';
import { checkRoom, type Prompt, readPrompt } from '../prompt.js';
import { type Runner, race } from '../race.js';
import { openScreen } from '../screen.js';
import { checkRunMemory, openRun, singleCell } from '../session.js';
import type { Settings } from '../settings.js';

/** Long enough that a sparse method is much faster, short enough that two cores prefill it in seconds. */
const DEFAULT_CONTEXT = 16_000;
/** Terminals below this are given one text after the other. */
const MIN_COLUMNS = 40;
const MIN_ROWS = 10;

/** The prompt of the options, or the first `--context` tokens of a novel to go on with. */
async function choosePrompt(
  settings: Settings,
  checkpoint: Checkpoint,
  note: (text: string) => void,
): Promise<Prompt> {
  if (['prompt', 'prompt-file', 'instruction'].some((name) => settings.maybeString(name) !== undefined)) {
    if (settings.source('context') !== 'default')
      throw new QuestError(
        'E_USAGE',
        '--context is the length of the built-in text, and a prompt was given',
        {
          hint: 'leave one of them out',
        },
      );
    return readPrompt(settings, checkpoint, note);
  }
  if (settings.source('max-length') !== 'default')
    throw new QuestError('E_USAGE', '--max-length cuts a prompt, and none was given', {
      hint: 'the length of the built-in text is --context',
    });
  const tokenizer = await checkpoint.tokenizer();
  const room = checkpoint.spec.maxContext - settings.number('max-tokens');
  const context = settings.maybeNumber('context') ?? Math.max(1, Math.min(DEFAULT_CONTEXT, room));
  return {
    prefillIds: encodePrefix(MOBY_DICK.books[0]!.read(), context, (text) => tokenizer.encode(text)),
    stepIds: new Int32Array(0),
    format: undefined,
  };
}

function status(runner: Runner): string[] {
  const steps = runner.ids.length;
  const speed = runner.seconds > 0 ? (steps / runner.seconds).toFixed(1) : '-';
  const pct = readPct(runner.sequence.counters());
  return [
    // The speed first: narrow columns cut the end.
    `${speed} tokens/s, ${steps} tokens${runner.done ? ', done' : ''}`,
    `KV read ${pct === undefined ? '-' : `${pct.toFixed(1)}%`}`,
  ];
}

/** Draws the race on the terminal until it ends, and leaves its last picture there. */
async function showRace(
  context: CommandContext,
  cells: readonly Cell[],
  decode: (ids: number[]) => string,
  run: (onTurn: (runners: readonly Runner[]) => void) => Promise<Runner[]>,
): Promise<Runner[]> {
  const { out } = context;
  const screen = openScreen(out);
  const picture = (runners: readonly Runner[]) => () => {
    const { columns, rows } = out.terminal!;
    const shown = runners.map(
      (runner, i): Column => ({
        title: cellName(cells[i]!),
        text: decode(runner.ids),
        status: status(runner),
      }),
    );
    return layColumns(shown, columns - 1, Math.max(3, Math.min(24, rows - 7)));
  };
  try {
    const runners = await run((turned) => screen.draw(picture(turned)));
    screen.draw(picture(runners), true);
    return runners;
  } finally {
    screen.close();
  }
}

/** Runs `quest demo`. */
export async function run(context: CommandContext): Promise<number> {
  const { out, signal } = context;
  const { checkpoint, settings } = await openRun(context);
  const method = settings.string('method');
  if (method === 'full')
    throw new QuestError('E_METHOD', 'the demo shows full beside another method', {
      hint: 'choose another --method, e.g. quest',
    });
  const cells = ['full', method].map((name) => singleCell(settings, checkpoint, name));
  const maxTokens = settings.number('max-tokens');
  const prompt = await choosePrompt(settings, checkpoint, out.note);
  checkRoom(checkpoint, prompt, maxTokens);
  const plan = { context, settings, checkpoint, prompt, cells, maxTokens };
  const { prefillIds, stepIds } = prompt;
  if (settings.flag('dry-run')) {
    const question = stepIds.length === 0 ? '' : `, feed ${stepIds.length} as decode steps`;
    const names = cells.map(cellName).join(' and ');
    out.data(
      `prefill ${prefillIds.length} tokens${question}, then at most ${maxTokens} steps of each of ${names}\n`,
    );
    const memory = checkRunMemory(settings, checkpoint.spec, branchMemory(plan));
    out.data(`memory  about ${describeMemory(memory)}\n`);
    return 0;
  }
  const tokenizer: Tokenizer = await checkpoint.tokenizer();
  const decode = (ids: number[]) => tokenizer.decode(ids, { skipSpecial: true });
  using branches = await openBranches(plan);
  const { model, sequences, prefillSeconds } = branches;
  out.note(
    `${checkpoint.name} on ${model.info.device}; prefill ${describeSpeed(prefillIds.length, prefillSeconds)}`,
  );
  const start = (onTurn: (runners: readonly Runner[]) => void) =>
    race(model, sequences, { maxTokens, stopIds: checkpoint.eosIds, signal, onTurn });
  const format = settings.string('format') as Format;
  const { terminal } = out;
  const wide = terminal !== undefined && terminal.columns >= MIN_COLUMNS && terminal.rows >= MIN_ROWS;
  if (format === 'table' && wide) {
    await showRace(context, cells, decode, start);
    return 0;
  }
  const runners = await start(() => {});
  if (format === 'table') {
    for (const [i, runner] of runners.entries()) {
      const cell = cells[i]!;
      out.data(`== ${cellName(cell)}\n${decode(runner.ids)}\n`);
      out.note(`${cellName(cell)}: ${describeSpeed(runner.ids.length, runner.seconds)}`);
      out.note(describeReading(cell, runner.sequence.counters()));
    }
    return 0;
  }
  await out.table(
    {
      columns: columnsOf(['method', 'budget_tokens', 'tokens', 'tokens_per_s', 'kv_read_pct', 'text'], {
        tokens_per_s: fixed(2),
        kv_read_pct: fixed(2),
      }),
      rows: runners.map((runner, i) => [
        cells[i]!.method.method,
        cellOptions(cells[i]!).budget_tokens,
        runner.ids.length,
        runner.ids.length / Math.max(runner.seconds, 1e-9),
        readPct(runner.sequence.counters()),
        decode(runner.ids),
      ]),
    },
    format,
  );
  return 0;
}
