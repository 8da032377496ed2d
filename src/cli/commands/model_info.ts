/** quest model info: what a model is, what a context costs on each device, and the longest that fits there. */
import { QuestError } from '../../errors.js';
import { type Checkpoint, openCheckpoint } from '../../model/index.js';
import type { CellValue, Format } from '../../report/table.js';
import { addon } from '../../runtime/addon.js';
import type { CommandContext } from '../commands.js';
import { availableMemory, estimateMemory, formatBytes, type MemoryEstimate } from '../memory.js';
import { fitGpu } from '../memory_gpu.js';
import type { Settings } from '../settings.js';

interface Wanted {
  checkpoint: Checkpoint;
  tokens: number;
  batch: number;
  pageSize: number;
  limit: number;
}

interface DevicePlan {
  device: string;
  estimate: MemoryEstimate;
  available: number;
  /** The longest context that fits `batch` times; no longer than the model supports. */
  longest: number;
}

/** Memory of `batch` sequences of `tokens`, in the CPU's numbers. */
const memoryOf = ({ checkpoint, batch, pageSize }: Wanted, tokens: number): MemoryEstimate =>
  estimateMemory({
    spec: checkpoint.spec,
    weightBytes: checkpoint.weightBytes,
    tokens: batch * Math.ceil(tokens / pageSize) * pageSize,
    pageSize,
    branches: 0,
    branchTokens: 0,
    evictors: 0,
  });

function planCpu(wanted: Wanted): DevicePlan {
  const available = Math.min(availableMemory(), wanted.limit);
  let [fits, fails] = [0, wanted.checkpoint.spec.maxContext + 1];
  while (fails - fits > 1) {
    const middle = Math.floor((fits + fails) / 2);
    if (memoryOf(wanted, middle).total <= available) fits = middle;
    else fails = middle;
  }
  return { device: 'cpu', estimate: memoryOf(wanted, wanted.tokens), available, longest: fits };
}

function planGpu(wanted: Wanted, device: string, freeBytes: number): DevicePlan {
  const { checkpoint, tokens, batch, pageSize, limit } = wanted;
  const available = Math.min(freeBytes, limit);
  const { plan, estimate } = fitGpu(checkpoint.spec, memoryOf(wanted, tokens), available);
  const longest = Math.min(checkpoint.spec.maxContext, Math.floor(plan.pages / batch) * pageSize);
  return { device, estimate, available, longest };
}

/** The CPU, each GPU that can be used, and the GPU that was asked about. */
function planDevices(context: CommandContext, wanted: Wanted): DevicePlan[] {
  const plans = [planCpu(wanted)];
  const asked = context.settings.maybeNumber('gpu-memory');
  let gpus: [device: string, freeBytes: number][] = [];
  try {
    gpus = addon()
      .gpus()
      .gpus.filter(({ problem }) => problem === undefined)
      .map(({ index, freeBytes }) => [`cuda:${index}`, freeBytes]);
  } catch (error) {
    // Without the native runtime the CPU's numbers are still right.
    if (!(error instanceof QuestError) || asked !== undefined) throw error;
    context.out.note(`${error.message}: no GPU is shown`);
  }
  if (asked !== undefined) gpus.push([`a GPU with ${formatBytes(asked)}`, asked]);
  for (const [device, freeBytes] of gpus) {
    try {
      plans.push(planGpu(wanted, device, freeBytes));
    } catch (error) {
      if (asked !== undefined || (error as { code?: unknown }).code !== 'E_UNSUPPORTED') throw error;
      context.out.note(`${device}: ${(error as Error).message}`);
    }
  }
  return plans;
}

const parameterCount = (checkpoint: Checkpoint): number =>
  Object.values(checkpoint.spec.tensors).reduce(
    (sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1),
    0,
  );

type Fact = [key: string, value: CellValue, shown?: string];

function modelFacts({ checkpoint, tokens, batch, pageSize }: Wanted): Fact[] {
  const { spec } = checkpoint;
  const parameters = parameterCount(checkpoint);
  return [
    ['model', checkpoint.name],
    ['folder', checkpoint.dir],
    ['fingerprint', checkpoint.fingerprint],
    ['parameters', parameters, `${(parameters / 1e6).toFixed(1)} million`],
    ['dtype', [...new Set(Object.values(spec.tensors).map(({ dtype }) => dtype))].join(' ')],
    ['layers', spec.nLayers],
    ['hidden', spec.hidden],
    ['query_heads', spec.nHeads],
    ['kv_heads', spec.nKvHeads],
    ['head_dim', spec.headDim],
    ['vocab', spec.vocab],
    ['max_context_tokens', spec.maxContext],
    ['context_tokens', tokens],
    ['batch', batch],
    ['page_size_tokens', pageSize],
  ];
}

const deviceFacts = ({ device, estimate, available, longest }: DevicePlan): Fact[] => [
  ['device', device],
  ['weight_bytes', estimate.weights, formatBytes(estimate.weights)],
  ['kv_bytes', estimate.kv, formatBytes(estimate.kv)],
  ['metadata_bytes', estimate.metadata, formatBytes(estimate.metadata)],
  ['workspace_bytes', estimate.workspace, formatBytes(estimate.workspace)],
  ['total_bytes', estimate.total, formatBytes(estimate.total)],
  ['available_bytes', available, formatBytes(available)],
  ['longest_context_tokens', longest],
];

const shownValues = (facts: Fact[]): CellValue[] => facts.map(([, value, shown]) => shown ?? value);

function readWanted(settings: Settings, checkpoint: Checkpoint): Wanted {
  return {
    checkpoint,
    tokens: settings.maybeNumber('context') ?? checkpoint.spec.maxContext,
    batch: settings.number('batch'),
    pageSize: settings.number('page-size'),
    limit: settings.maybeNumber('max-memory') ?? Number.POSITIVE_INFINITY,
  };
}

/** Prints the numbers that loaders go by. */
export async function info(context: CommandContext, ref: string, format: Format): Promise<number> {
  const { settings, out } = context;
  const revision = settings.maybeString('revision');
  const checkpoint = await openCheckpoint(revision === undefined ? ref : `${ref}@${revision}`);
  const wanted = readWanted(settings, checkpoint);
  const { maxContext } = checkpoint.spec;
  if (wanted.tokens > maxContext)
    out.note(`${checkpoint.name} was made for ${maxContext} tokens; ${wanted.tokens} are more`);
  const plans = planDevices(context, wanted);
  const [facts, devices] = [modelFacts(wanted), plans.map(deviceFacts)];
  if (format === 'csv' || format === 'json') {
    const rows = devices.map((device) => [...facts, ...device]);
    await out.table(
      {
        columns: rows[0]!.map(([key]) => ({ key })),
        rows: rows.map((row) => row.map(([, value]) => value)),
      },
      format,
    );
  } else {
    await out.table(
      {
        columns: [{ key: 'what' }, { key: 'value' }],
        rows: facts.map(([key, value, shown]) => [key, shown ?? value]),
      },
      format,
    );
    out.data('\n');
    await out.table(
      {
        columns: devices[0]!.map(([key], i) => ({
          key: key.replace(/_bytes$/, ''),
          align: i === 0 ? 'left' : 'right',
        })),
        rows: devices.map(shownValues),
      },
      format,
    );
  }
  for (const { device, estimate, available, longest } of plans) {
    if (estimate.total <= available && longest >= wanted.tokens) continue;
    const many = wanted.batch > 1 ? `${wanted.batch} times ` : '';
    out.note(
      `${device}: ${many}${wanted.tokens} tokens need ${formatBytes(estimate.total)} and ${formatBytes(available)} can be used; ${longest === 0 ? 'no context fits' : `${many}${longest} tokens fit`}`,
    );
  }
  return 0;
}
