/** quest bench compare: our dense and sparse steps beside PyTorch's attention and transformers' models, in one run. */
import { join } from 'node:path';
import { stepBytes, timedPrefill, timedSteps } from '../../../eval/efficiency/e2e.js';
import { type PeerTimes, peerKey, timePeers } from '../../../eval/efficiency/peers.js';
import { parseHeads, randomSpec, SHAPES } from '../../../eval/efficiency/shapes.js';
import { type CompareRow, compareTable } from '../../report/bench.js';
import { writeFileAtomic } from '../../report/files.js';
import { type Format, renderCsv } from '../../report/table.js';
import { Model } from '../../runtime/index.js';
import type { KernelBench } from '../../runtime/kernel_bench.js';
import type { CommandContext } from '../commands.js';
import { budgetsOf } from './bench.js';
import { contextsOf, openKernelBench, timingRules } from './bench_kernels.js';
import { type BenchPlan, type BenchRun, benchFolder, runBench } from './bench_run.js';

const HEAD_DIM = 128;
const PEER_STEPS = 32;

interface Axes {
  heads: string[];
  shapes: string[];
  contexts: readonly number[];
  budgets: number[];
}

/** One layer's attention, ours. */
async function attentionRows(
  context: CommandContext,
  run: BenchRun,
  bench: KernelBench,
  axes: Axes,
  peers: PeerTimes,
) {
  const { settings, signal } = context;
  const rows: CompareRow[] = [];
  for (const heads of axes.heads) {
    for (const contextTokens of axes.contexts) {
      const budgets = axes.budgets.filter((budget) => budget + 16 <= contextTokens);
      for (const budget of [undefined, ...budgets]) {
        const kernel = budget === undefined ? 'dense' : 'sparse';
        const one = {
          kernel,
          ...parseHeads(heads),
          headDim: HEAD_DIM,
          contextTokens,
          budgetTokens: budget ?? 0,
        };
        const { median_us } = await run.measure(
          { what: heads, ...one },
          `${kernel} ${heads} ${contextTokens}`,
          async () => {
            const time = await bench.time(one, timingRules(settings), signal);
            return { median_us: time.medianUs };
          },
        );
        const peer = peers.attention.get(peerKey(heads, contextTokens));
        rows.push({
          what: 'attention',
          case: heads,
          contextTokens,
          budget,
          unit: 'us',
          ours: median_us!,
          peer: peers.torch,
          peerTime: peer,
        });
      }
    }
  }
  return rows;
}

/** Whole decode steps, ours. */
async function stepRows(
  context: CommandContext,
  run: BenchRun,
  device: string,
  axes: Axes,
  peers: PeerTimes,
) {
  const { settings, signal } = context;
  const options = {
    pageSize: 16,
    skipLayers: settings.number('skip-layers'),
    steps: settings.number('steps'),
    repeats: settings.number('repeats'),
  };
  const rows: CompareRow[] = [];
  for (const shape of axes.shapes) {
    const spec = randomSpec(shape, 'fp16', Math.max(...axes.contexts) + options.steps + 64);
    using model = await Model.load(spec, { device, threads: settings.number('threads'), signal });
    for (const contextTokens of axes.contexts) {
      const { base } = await timedPrefill(model, contextTokens, options, signal);
      using sequence = base;
      for (const budget of [undefined, ...axes.budgets.filter((budget) => budget < contextTokens)]) {
        const one = { what: shape, contextTokens, budget: budget ?? 'full', ...options };
        const { ms } = await run.measure(one, `${shape} ${contextTokens} ${budget ?? 'full'}`, async () => ({
          ...(await timedSteps(model, sequence, budget, options, signal)),
          bytes: stepBytes(model.info, spec, contextTokens, budget, options),
        }));
        const peer = peers.steps.get(peerKey(shape, contextTokens));
        rows.push({
          what: 'step',
          case: shape,
          contextTokens,
          budget,
          unit: 'ms',
          ours: ms!,
          peer: peers.transformers,
          peerTime: peer,
        });
      }
    }
  }
  return rows;
}

/** Runs `quest bench compare`. */
export async function run(context: CommandContext): Promise<number> {
  const { settings, out, signal } = context;
  using bench = openKernelBench(context);
  const device = bench.info.device;
  const axes: Axes = {
    heads: settings.names('heads'),
    // Whole models take minutes, so they are compared when a shape is named.
    shapes: settings.source('shape') === 'default' ? [] : settings.names('shape'),
    contexts: contextsOf(settings, bench),
    budgets: budgetsOf(settings, false) as number[],
  };
  const total = (axes.heads.length + axes.shapes.length) * axes.contexts.length * (1 + axes.budgets.length);
  const plan: BenchPlan = {
    name: 'compare',
    device: bench.info,
    axes,
    rules: { ...timingRules(settings) },
    total,
  };
  if (settings.flag('dry-run')) {
    out.data(
      `${total} cases of ours, and the dense ones of ${settings.string('python')} -> ${benchFolder(context, plan)}\n`,
    );
    return 0;
  }
  const attention = axes.heads.flatMap((heads) =>
    axes.contexts.map((contextTokens) => ({ heads, ...parseHeads(heads), contextTokens })),
  );
  const steps = axes.shapes.flatMap((name) =>
    axes.contexts.map((contextTokens) => ({ name, shape: SHAPES[name]!, contextTokens, count: PEER_STEPS })),
  );
  const peers = await timePeers(settings.string('python'), { device, attention, steps }, signal);
  const rows = await runBench(
    context,
    plan,
    async (run) => {
      const layers = await attentionRows(context, run, bench, axes, peers);
      bench.dispose(); // its memory is the models' now
      return [...layers, ...(await stepRows(context, run, device, axes, peers))];
    },
    async (all, folder) => {
      writeFileAtomic(join(folder, 'compare.csv'), renderCsv(compareTable(all)));
      return {
        bench: 'compare',
        peers: [peers.torch, peers.transformers].filter(Boolean),
        skipped: peers.skipped,
        cells: all,
      };
    },
  );
  await out.table(compareTable(rows), settings.string('format') as Format);
  for (const why of peers.skipped) out.note(why);
  out.note('the peers read everything; their time stands beside every budget of ours');
  return 0;
}
