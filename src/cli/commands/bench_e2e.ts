/** quest bench e2e: whole models with random weights, dense and sparse decode steps from one prefill; the paper's Figure 10. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import {
  type Budget,
  type E2eOptions,
  type E2eRow,
  type E2eTime,
  e2eRow,
  stepBytes,
  timedPrefill,
  timedSteps,
} from '../../../eval/efficiency/e2e.js';
import { randomSpec, weightBytes } from '../../../eval/efficiency/shapes.js';
import { QuestError } from '../../errors.js';
import type { WeightType } from '../../model/spec.js';
import { e2eTable } from '../../report/bench.js';
import { writeFileAtomic } from '../../report/files.js';
import { type Format, renderCsv } from '../../report/table.js';
import { chooseDevice, Model, type Sequence } from '../../runtime/index.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import { availableMemory, checkMemory, estimateMemory } from '../memory.js';
import { roughRates } from '../rough.js';
import { budgetsOf } from './bench.js';
import { describeTime, type Place, roughPlaceSeconds } from './bench_e2e_time.js';
import { openKernelBench } from './bench_kernels.js';
import { type BenchPlan, type BenchRun, benchFolder, runBench } from './bench_run.js';

const DEFAULT_CONTEXTS = [8192, 16384, 32768];
const SPARE_TOKENS = 64;

/** Does not fit, and what was missing. */
interface Missing extends Place {
  why: string;
}

interface Measured {
  rows: E2eRow[];
  missing: Missing[];
  bandwidth: number;
}

/** Out of memory on either side: the case is told, the others go on. */
const doesNotFit = (error: unknown): string | undefined => {
  const { code, message } = error as { code?: string; message: string };
  return code === 'E_GPU_MEMORY' || code === 'E_MEMORY' ? message : undefined;
};

function optionsOf({ settings }: CommandContext): E2eOptions {
  const pageSizes = settings.numbers('page-size');
  if (pageSizes.length !== 1) {
    throw new QuestError('E_OPTION', `quest bench e2e takes one --page-size, got ${pageSizes.join(',')}`, {
      hint: 'run it once for each',
    });
  }
  return {
    pageSize: pageSizes[0]!,
    skipLayers: settings.number('skip-layers'),
    steps: settings.number('steps'),
    repeats: settings.number('repeats'),
  };
}

const cpuMemory = ({ shape, weights, contextTokens }: Place, { pageSize, steps }: E2eOptions) =>
  estimateMemory({
    spec: randomSpec(shape, weights, contextTokens),
    weightBytes: weightBytes(shape, weights),
    tokens: contextTokens,
    pageSize,
    branches: 1,
    branchTokens: steps,
    evictors: 0,
  });

/** Measures one model over its contexts and budgets, loading it when the first case that is not there comes. */
async function measureModel(
  context: CommandContext,
  run: BenchRun,
  device: string,
  places: readonly Place[],
  budgets: readonly Budget[],
  options: E2eOptions,
  bandwidth: number,
  measured: Measured,
): Promise<void> {
  const { settings, signal } = context;
  const { shape, weights } = places[0]!;
  const maxContext = Math.max(...places.map((place) => place.contextTokens)) + options.steps + SPARE_TOKENS;
  const spec = randomSpec(shape, weights, maxContext);
  let model: Model | undefined;
  try {
    for (const place of places) {
      let base: Sequence | undefined;
      let prefillS = 0;
      const time = async (budget: Budget): Promise<E2eTime> => {
        const label = `${shape} ${place.contextTokens} ${budget ?? 'full'}`;
        const one = { ...place, budget: budget ?? 'full', ...options };
        const result = await run.measure(one, label, async () => {
          if (device === 'cpu') checkMemory(cpuMemory(place, options), undefined);
          model ??= await Model.load(spec, { device, threads: settings.number('threads'), signal });
          if (base === undefined)
            ({ base, prefillS } = await timedPrefill(model, place.contextTokens, options, signal));
          const { ms, noisePct } = await timedSteps(model, base, budget, options, signal);
          const bytes = stepBytes(model.info, spec, place.contextTokens, budget, options);
          return { prefill_s: prefillS, ms, noise_pct: noisePct, bytes };
        });
        return {
          prefillS: result.prefill_s!,
          ms: result.ms!,
          noisePct: result.noise_pct!,
          bytes: result.bytes!,
        };
      };
      try {
        const dense = await time(undefined);
        for (const budget of budgets) {
          if (budget !== undefined && budget >= place.contextTokens) continue;
          const sparse = budget === undefined ? undefined : await time(budget);
          measured.rows.push(e2eRow({ ...place, budget }, dense, sparse, bandwidth));
        }
      } catch (error) {
        const why = doesNotFit(error);
        if (why === undefined) throw error;
        measured.missing.push({ ...place, why });
      } finally {
        base?.dispose();
      }
    }
  } finally {
    model?.dispose();
  }
}

/** Runs `quest bench e2e`. */
export async function run(context: CommandContext): Promise<number> {
  const { settings, out, signal } = context;
  const options = optionsOf(context);
  const budgets = budgetsOf(settings, true);
  const contexts = [...(settings.maybeNumbers('context') ?? DEFAULT_CONTEXTS)].sort((a, b) => a - b);
  const [shapes, weights] = [settings.names('shape'), settings.names('weights') as WeightType[]];
  const models = shapes.flatMap((shape) =>
    weights.map((type): Place[] =>
      contexts.map((contextTokens) => ({ shape, weights: type, contextTokens })),
    ),
  );
  const { device } = chooseDevice(randomSpec('llama2-7b', 'fp16', 1024), settings.string('device'));
  using bench = openKernelBench(context);
  const numbers = budgets.filter((budget) => budget !== undefined);
  const total = 1 + models.flat().length * (1 + numbers.length);
  const axes = { models, budgets: budgets.map((budget) => budget ?? 'full') };
  const plan: BenchPlan = { name: 'e2e', device: bench.info, axes, rules: {}, total };
  const fits = (place: Place) => device !== 'cpu' || cpuMemory(place, options).total <= availableMemory();
  const rates = roughRates(device, settings.number('threads') || availableParallelism());
  const roughSeconds = models
    .flat()
    .filter(fits)
    .reduce((sum, place) => sum + roughPlaceSeconds(place, budgets, options, device, rates), 0);
  if (settings.flag('dry-run')) {
    for (const { shape, contextTokens } of models.flat().filter((place) => !fits(place)))
      out.note(`${shape} at ${contextTokens} tokens does not fit`);
    out.data(
      `${plural(total - 1, 'case')} of ${options.repeats} x ${plural(options.steps, 'step')}, ${describeTime(roughSeconds)} -> ${benchFolder(context, plan)}\n`,
    );
    return 0;
  }
  if (roughSeconds > 60) out.note(`${device}: ${describeTime(roughSeconds)}`);
  const name = bench.info.gpu ?? `${bench.info.simd}, ${plural(bench.info.threads!, 'thread')}`;
  const { rows, missing, bandwidth } = await runBench<Measured>(
    context,
    plan,
    async (run) => {
      const read = await run.measure({ what: 'read' }, 'read bandwidth', async () => ({
        bytes_per_s: await bench.readBandwidth(signal),
      }));
      bench.dispose(); // its memory is the models' now
      const measured: Measured = { rows: [], missing: [], bandwidth: read.bytes_per_s! };
      for (const places of models)
        await measureModel(context, run, device, places, budgets, options, measured.bandwidth, measured);
      return measured;
    },
    async ({ rows, missing, bandwidth }, folder) => {
      writeFileAtomic(join(folder, 'e2e.csv'), renderCsv(e2eTable(rows)));
      if (rows.some((row) => row.sparseMs !== undefined)) {
        const [{ e2eChart }, { renderSvg }] = await Promise.all([
          import('../../report/bench-charts.js'),
          import('../../report/svg.js'),
        ]);
        writeFileAtomic(join(folder, 'e2e.svg'), await renderSvg(e2eChart(rows, name)));
      }
      return { bench: 'e2e', read_gb_per_s: Number((bandwidth / 1e9).toFixed(1)), missing, cells: rows };
    },
  );
  await out.table(e2eTable(rows), settings.string('format') as Format);
  for (const { shape, contextTokens, why } of missing)
    out.note(`${shape} at ${contextTokens} tokens does not fit: ${why}`);
  out.note(
    `${name}: read bandwidth ${(bandwidth / 1e9).toFixed(1)} GB/s; sampling is left out but for the greedy choice`,
  );
  return 0;
}
