/** quest generate: continues a text through a KV method, streaming; with --compare through two methods at once. */
import { type Cell, cellName, cellOptions, methodDefinition } from '../../../eval/methods.js';
import { QuestError } from '../../errors.js';
import type { Tokenizer } from '../../model/index.js';
import type { Format } from '../../report/table.js';
import type { Counters, Sequence } from '../../runtime/index.js';
import type { CommandContext } from '../commands.js';
import { readText } from '../input.js';
import { describeMemory, estimateMemory } from '../memory.js';
import type { Output } from '../output.js';
import { startProgress } from '../progress.js';
import { loadModel, openRun, singleCell } from '../session.js';
import type { Settings } from '../settings.js';
import { createTextStream, whereTheyPart } from '../stream.js';

async function readPrompt(settings: Settings): Promise<string> {
  const [text, file] = [settings.maybeString('prompt'), settings.maybeString('prompt-file')];
  if ((text === undefined) === (file === undefined)) {
    throw new QuestError(
      'E_USAGE',
      text === undefined ? 'there is no prompt' : 'both --prompt and --prompt-file were given',
      {
        hint: 'give one of --prompt TEXT and --prompt-file FILE',
      },
    );
  }
  const prompt = text ?? (await readText(file!, '--prompt-file'));
  if (prompt === '')
    throw new QuestError('E_INPUT', `${file} is empty`, { hint: 'a prompt needs at least one character' });
  return prompt;
}

function readShare(cell: Cell, counters: Counters): string {
  const name = cellName(cell);
  if (counters.decodeSteps === 0) return `${name} made no decode step`;
  const pct = (100 * (counters.kvBytes + counters.metadataBytes)) / Math.max(1, counters.denseKvBytes);
  const never = methodDefinition(cell.method.method).kind !== 'dense' && counters.sparseSteps === 0;
  return `${name} read ${pct.toFixed(1)}% of the KV cache${never ? ' (it never attended fewer tokens than the cache held: the same as full)' : ''}`;
}

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
  const prompt = await readPrompt(settings);
  const tokenizer = await checkpoint.tokenizer();
  const ids = tokenizer.encode(prompt);
  const { maxContext } = checkpoint.spec;
  if (ids.length + maxTokens > maxContext) {
    throw new QuestError(
      'E_CONTEXT',
      `the prompt's ${ids.length} tokens and ${maxTokens} new ones exceed the ${maxContext} that ${checkpoint.name} supports`,
      { hint: 'use a shorter prompt or fewer --max-tokens' },
    );
  }
  const memory = estimateMemory({
    spec: checkpoint.spec,
    weightBytes: checkpoint.weightBytes,
    tokens: ids.length + maxTokens,
    pageSize: settings.number('page-size'),
    branches: cells.length,
    branchTokens: maxTokens,
    evictors: cells.filter((cell) => methodDefinition(cell.method.method).kind === 'evictor').length,
  });
  if (settings.flag('dry-run')) {
    out.data(
      `prefill ${ids.length} tokens, then at most ${maxTokens} steps of ${cells.map(cellName).join(' and ')}\n`,
    );
    out.data(`memory  about ${describeMemory(memory)}\n`);
    return 0;
  }

  using model = await loadModel(context, settings, checkpoint, memory);
  using base = model.createSequence(settings.number('page-size'));
  const progress = await startProgress(out, 'prefill');
  let started = performance.now();
  try {
    await base.prefill(ids, {
      signal,
      h2oPrefill: cells.some((cell) => cell.method.h2oPrefill),
      onProgress: (done, total) => progress.update(done / total, `${done} of ${total} tokens`),
    });
  } finally {
    progress.stop();
  }
  const prefillSeconds = (performance.now() - started) / 1000;

  const branches: Sequence[] = cells.map((cell) => base.fork(cell.method));
  try {
    const streaming = cells.length === 1 && format === 'table';
    const decode = (part: ArrayLike<number>) => tokenizer.decode(part, { skipSpecial: true });
    const stream = createTextStream(decode, ids.slice(-6));
    let streamed = 0;
    const show = (id: number) => {
      streamed++;
      const piece = stream.push(id);
      if (piece !== '') out.data(piece);
    };
    started = performance.now();
    const outputs = await model.generate(branches, {
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
    const speed = (n: number, s: number) =>
      `${n} tokens in ${s.toFixed(2)} s (${(n / Math.max(s, 1e-9)).toFixed(1)} tokens/s)`;
    out.note(
      `prefill ${speed(ids.length, prefillSeconds)}; decode ${speed(tokens, decodeSeconds)}${cells.length > 1 ? `, ${cells.length} branches together` : ''}`,
    );
    cells.forEach((cell, i) => {
      out.note(readShare(cell, branches[i]!.counters()));
    });
  } finally {
    for (const branch of branches) branch.dispose();
  }
  return 0;
}
