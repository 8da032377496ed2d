/** quest model info: what a model is, what a context costs in memory, and the longest that fits. */
import { type Checkpoint, openCheckpoint } from '../../model/index.js';
import type { Format } from '../../report/table.js';
import type { CommandContext } from '../commands.js';
import { availableMemory, estimateMemory, formatBytes, type MemoryEstimate } from '../memory.js';

interface Plan {
  estimate: MemoryEstimate;
  longest: number;
  available: number;
}

/** What a run at this context needs, and the longest context that this machine has room for. */
function planMemory(
  checkpoint: Checkpoint,
  tokens: number,
  batch: number,
  pageSize: number,
  limit: number | undefined,
): Plan {
  const estimate = (context: number) =>
    estimateMemory({
      spec: checkpoint.spec,
      weightBytes: checkpoint.weightBytes,
      tokens: batch * Math.ceil(context / pageSize) * pageSize,
      pageSize,
      branches: 0,
      branchTokens: 0,
      evictors: 0,
    });
  const available = Math.min(availableMemory(), limit ?? Number.POSITIVE_INFINITY);
  let [fits, fails] = [0, checkpoint.spec.maxContext + 1];
  while (fails - fits > 1) {
    const middle = Math.floor((fits + fails) / 2);
    if (estimate(middle).total <= available) fits = middle;
    else fails = middle;
  }
  return { estimate: estimate(tokens), longest: fits, available };
}

const parameterCount = (checkpoint: Checkpoint): number =>
  Object.values(checkpoint.spec.tensors).reduce(
    (sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1),
    0,
  );

/** Prints the numbers that loaders go by. */
export async function info({ settings, out }: CommandContext, ref: string, format: Format): Promise<number> {
  const revision = settings.maybeString('revision');
  const checkpoint = await openCheckpoint(revision === undefined ? ref : `${ref}@${revision}`);
  const { spec } = checkpoint;
  const context = settings.maybeNumber('context') ?? spec.maxContext;
  if (context > spec.maxContext)
    out.note(`${checkpoint.name} was made for ${spec.maxContext} tokens; ${context} are more`);
  const [batch, pageSize] = [settings.number('batch'), settings.number('page-size')];
  const { estimate, longest, available } = planMemory(
    checkpoint,
    context,
    batch,
    pageSize,
    settings.maybeNumber('max-memory'),
  );
  const dtypes = [...new Set(Object.values(spec.tensors).map(({ dtype }) => dtype))].join(' ');
  const values: [key: string, value: string | number, shown?: string][] = [
    ['model', checkpoint.name],
    ['folder', checkpoint.dir],
    ['fingerprint', checkpoint.fingerprint],
    ['parameters', parameterCount(checkpoint), `${(parameterCount(checkpoint) / 1e6).toFixed(1)} million`],
    ['dtype', dtypes],
    ['layers', spec.nLayers],
    ['hidden', spec.hidden],
    ['query_heads', spec.nHeads],
    ['kv_heads', spec.nKvHeads],
    ['head_dim', spec.headDim],
    ['vocab', spec.vocab],
    ['max_context_tokens', spec.maxContext],
    ['context_tokens', context],
    ['batch', batch],
    ['page_size_tokens', pageSize],
    ['weight_bytes', estimate.weights, formatBytes(estimate.weights)],
    ['kv_bytes', estimate.kv, formatBytes(estimate.kv)],
    ['metadata_bytes', estimate.metadata, formatBytes(estimate.metadata)],
    ['workspace_bytes', estimate.workspace, formatBytes(estimate.workspace)],
    ['total_bytes', estimate.total, formatBytes(estimate.total)],
    ['available_bytes', available, formatBytes(available)],
    [
      'longest_context_tokens',
      longest,
      longest === spec.maxContext
        ? `${longest}, all that the model supports`
        : `${longest}, more does not fit`,
    ],
  ];
  const forReaders = format === 'table' || format === 'md';
  await out.table(
    forReaders
      ? {
          columns: [{ key: 'what' }, { key: 'value' }],
          rows: values.map(([key, value, shown]) => [key, shown ?? value]),
        }
      : { columns: values.map(([key]) => ({ key })), rows: [values.map(([, value]) => value)] },
    format,
  );
  if (estimate.total > available)
    out.note(`${context} tokens need ${formatBytes(estimate.total)}; ${formatBytes(available)} can be used`);
  return 0;
}
