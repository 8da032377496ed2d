/** quest model quantize: a 4-bit checkpoint in AutoAWQ's layout from a 16-bit one, and what it costs in perplexity. */
import path from 'node:path';
import { openTexts } from '../../../datasets/texts.js';
import { type Calibration, cutCalibration, plainPerplexity } from '../../../eval/calibration.js';
import { QuestError } from '../../errors.js';
import { checkOutput, writeAwqCheckpoint } from '../../model/awq_write.js';
import { type Checkpoint, openCheckpoint } from '../../model/index.js';
import type { Format } from '../../report/table.js';
import { Model } from '../../runtime/index.js';
import { Quantizer, type SearchError } from '../../runtime/quantizer.js';
import type { CommandContext } from '../commands.js';
import { formatBytes } from '../memory.js';
import { type Progress, startProgress } from '../progress.js';

/** Context of a measured token, at most. */
const WINDOW = 2048;

async function readCalibration(context: CommandContext, checkpoint: Checkpoint): Promise<Calibration> {
  const { settings } = context;
  const file = settings.maybeString('calibration');
  const source = await openTexts({
    dataset: file === undefined ? 'moby-dick' : undefined,
    file,
    signal: context.signal,
  });
  return cutCalibration(
    source.books[0]!.read(),
    await checkpoint.tokenizer(),
    settings.number('calibration-tokens'),
    settings.number('tokens'),
    checkpoint.spec.maxContext,
  );
}

async function measure(
  context: CommandContext,
  progress: Progress,
  checkpoint: Checkpoint,
  { held }: Calibration,
  share: [from: number, to: number],
): Promise<number | undefined> {
  if (held.length < 2) return undefined;
  const { settings, signal } = context;
  using model = await Model.load(checkpoint.spec, {
    device: 'cpu',
    threads: settings.number('threads'),
    signal,
  });
  const window = Math.min(WINDOW, checkpoint.spec.maxContext);
  const [from, to] = share;
  return await plainPerplexity(model, held, window, {
    signal,
    onTokens: (done) => progress.update(from + (to - from) * done, `perplexity of ${checkpoint.name}`),
  });
}

/** Mean over layers of each search's error, before and after it. */
function summarize(errors: readonly Record<string, SearchError>[]): string | undefined {
  const names = Object.keys(errors[0] ?? {});
  if (names.length === 0) return undefined;
  const mean = (name: string, key: keyof SearchError) =>
    (errors.reduce((sum, layer) => sum + layer[name]![key], 0) / errors.length).toExponential(1);
  return names.map((name) => `${name} ${mean(name, 'before')} -> ${mean(name, 'after')}`).join(', ');
}

/** Quantises one model; both are measured on the same held-out tokens. */
export async function quantize(context: CommandContext, ref: string, format: Format): Promise<number> {
  const { settings, out, signal } = context;
  const revision = settings.maybeString('revision');
  const checkpoint = await openCheckpoint(revision === undefined ? ref : `${ref}@${revision}`);
  const group = settings.number('group');
  const method = settings.string('method');
  if (Object.values(checkpoint.spec.tensors).some(({ dtype }) => dtype === 'int4'))
    throw new QuestError('E_QUANTIZE', `${checkpoint.name} has 4-bit weights already`, {
      hint: 'quantise the 16-bit model that it came from',
    });
  const target = path.resolve(
    settings.maybeString('out') ?? `${path.basename(checkpoint.name)}-${method}-int4`,
  );
  await checkOutput(target);
  const calibration = await readCalibration(context, checkpoint);
  const errors: Record<string, SearchError>[] = [];
  const progress = await startProgress(out, 'quantize');
  try {
    const before = await measure(context, progress, checkpoint, calibration, [0, 0.1]);
    const activationAware = method === 'awq';
    using quantizer = await Quantizer.create(
      checkpoint.spec,
      activationAware ? calibration.ids : new Int32Array(),
      {
        group,
        activationAware,
        clip: settings.flag('clip'),
        sequence: calibration.sequence,
        threads: settings.number('threads'),
        signal,
      },
    );
    await writeAwqCheckpoint(checkpoint.dir, target, group, {
      layer: async (index) => {
        const label = `layer ${index + 1} of ${checkpoint.spec.nLayers}`;
        const onProgress = (done: number, total: number) =>
          progress.update(0.1 + (0.8 * done) / total, label);
        const layer = await quantizer.next({ signal, onProgress });
        errors.push(layer.errors);
        return layer.tensors;
      },
      plain: (name, firstRow, rows) => quantizer.plain(name, firstRow, rows, signal),
    });
    quantizer.dispose();
    const made = await openCheckpoint(target);
    const after = await measure(context, progress, made, calibration, [0.9, 1]);
    progress.stop();
    const change = before === undefined || after === undefined ? undefined : 100 * (after / before - 1);
    const forReaders = format === 'table' || format === 'md';
    const bytes = (n: number) => (forReaders ? formatBytes(n) : n);
    const fixed = (x: number | undefined, digits: number) =>
      x === undefined ? undefined : Number(x.toFixed(digits));
    await out.table(
      {
        columns: [
          'model',
          'method',
          'group',
          'weight_bytes',
          'int4_bytes',
          'ppl_before',
          'ppl_after',
          'change_pct',
        ].map((key, i) => ({ key, align: i > 1 ? ('right' as const) : ('left' as const) })),
        rows: [
          [
            checkpoint.name,
            method,
            group,
            bytes(checkpoint.weightBytes),
            bytes(made.weightBytes),
            fixed(before, 4),
            fixed(after, 4),
            fixed(change, 2),
          ],
        ],
      },
      format,
    );
    const found = summarize(errors);
    if (found !== undefined) out.note(`relative error of outputs, mean over layers: ${found}`);
    out.note(`${target} holds the 4-bit checkpoint; use it with --model ${target}`);
    return 0;
  } finally {
    progress.stop();
  }
}
