/** quest generate: continues a text through a KV method, streaming; with --compare through two methods at once. */
import { type Cell, cellName, cellOptions } from '../../../eval/methods.js';
import { QuestError } from '../../errors.js';
import type { Tokenizer } from '../../model/index.js';
import type { Format } from '../../report/table.js';
import { branchMemory, describeReading, describeSpeed, openBranches } from '../branches.js';
import type { CommandContext } from '../commands.js';
import { describeMemory } from '../memory.js';
import type { Output } from '../output.js';
import { checkRoom, readPrompt } from '../prompt.js';
import { checkRunMemory, openRun, singleCell } from '../session.js';
import { createTextStream, whereTheyPart } from '../stream.js';

function describeParting(
  out: Output,
  cells: readonly Cell[],
  outputs: readonly Int32Array[],
  tokenizer: Tokenizer,
): void {
  const [a, b] = outputs as [Int32Array, Int32Array];
  const { token, same } = whereTheyPart(a, b);
  if (same) {
    out.note(`${cellName(cells[0]!)} and ${cellName(cells[1]!)} give the same ${a.length} tokens`);
    return;
  }
  const next = (ids: Int32Array) =>
    token < ids.length ? JSON.stringify(tokenizer.decode(ids.subarray(token, token + 6))) : 'the end';
  const place = token === 0 ? 'at the first token' : `after ${token} equal tokens`;
  out.note(
    `they part ${place}: ${cellName(cells[0]!)} goes on with ${next(a)}, ${cellName(cells[1]!)} with ${next(b)}`,
  );
}

/** Runs `quest generate`. */
export async function run(context: CommandContext): Promise<number> {
  const { out, signal } = context;
  const { checkpoint, settings } = await openRun(context);
  const method = settings.string('method');
  const other = settings.maybeString('compare');
  if (other === method) {
    throw new QuestError('E_METHOD', `--compare ${other} is the method itself`, {
      hint: 'compare with another one, e.g. full',
    });
  }
  const cells = [method, ...(other === undefined ? [] : [other])].map((name) =>
    singleCell(settings, checkpoint, name),
  );
  const format = settings.string('format') as Format;
  const maxTokens = settings.number('max-tokens');
  const prompt = await readPrompt(settings, checkpoint, out.note);
  checkRoom(checkpoint, prompt, maxTokens);
  const { prefillIds, stepIds } = prompt;
  const plan = { context, settings, checkpoint, prompt, cells, maxTokens };
  if (settings.flag('dry-run')) {
    const question = stepIds.length === 0 ? '' : `, feed ${stepIds.length} as decode steps`;
    const names = cells.map(cellName).join(' and ');
    out.data(`prefill ${prefillIds.length} tokens${question}, then at most ${maxTokens} steps of ${names}\n`);
    const memory = checkRunMemory(settings, checkpoint.spec, branchMemory(plan));
    out.data(`memory  about ${describeMemory(memory)}\n`);
    return 0;
  }
  if (prompt.format !== undefined) out.note(`chat format: ${prompt.format}`);

  const tokenizer = await checkpoint.tokenizer();
  using branches = await openBranches(plan);
  const { model, sequences, prefillSeconds } = branches;
  const streaming = cells.length === 1 && format === 'table';
  const decode = (part: ArrayLike<number>) => tokenizer.decode(part, { skipSpecial: true });
  const stream = createTextStream(decode, (stepIds.length > 0 ? stepIds : prefillIds).slice(-6));
  let streamed = 0;
  const show = (id: number) => {
    streamed++;
    const piece = stream.push(id);
    if (piece !== '') out.data(piece);
  };
  const started = performance.now();
  const outputs = await model.generate(sequences, {
    maxTokens,
    stopIds: Int32Array.from(checkpoint.eosIds),
    sampling: {
      temperature: settings.number('temperature'),
      topP: settings.number('top-p'),
      seed: settings.number('seed'),
    },
    signal,
    onToken: (_, id) => {
      if (streaming) show(id);
    },
  });
  const decodeSeconds = (performance.now() - started) / 1000;

  const texts = outputs.map(decode);
  if (streaming) {
    // Callbacks may lag behind the result.
    for (const id of outputs[0]!.subarray(streamed)) show(id);
    out.data(`${stream.flush()}\n`);
  } else if (format === 'table') {
    cells.forEach((cell, i) => {
      out.data(`== ${cellName(cell)}\n${texts[i]}\n`);
    });
  } else {
    await out.table(
      {
        columns: ['method', 'budget_tokens', 'tokens', 'text'].map((key) => ({ key })),
        rows: cells.map((cell, i) => [
          cell.method.method,
          cellOptions(cell).budget_tokens,
          outputs[i]!.length,
          texts[i],
        ]),
      },
      format,
    );
  }
  if (cells.length === 2) describeParting(out, cells, outputs, tokenizer);
  const tokens = Math.max(...outputs.map((o) => o.length));
  const together = cells.length > 1 ? `, ${cells.length} branches together` : '';
  out.note(
    `prefill ${describeSpeed(prefillIds.length, prefillSeconds)}; decode ${describeSpeed(tokens, decodeSeconds)}${together}`,
  );
  cells.forEach((cell, i) => {
    out.note(describeReading(cell, sequences[i]!.counters()));
  });
  return 0;
}
