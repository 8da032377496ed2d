/** quest bench kernels: one layer's kernels over contexts, budgets and page sizes; the paper's Figures 8 and 9. */
import { join } from 'node:path';
import {
  ATTENTION_KERNELS,
  attentionRows,
  type KernelAxes,
  type KernelName,
  kernelCases,
  type NamedCase,
  type TimedCase,
} from '../../../eval/efficiency/kernels.js';
import { randomSpec } from '../../../eval/efficiency/shapes.js';
import { QuestError } from '../../errors.js';
import { attentionTable, kernelTable } from '../../report/bench.js';
import { writeFileAtomic } from '../../report/files.js';
import { type Format, renderCsv, type Table } from '../../report/table.js';
import type { KernelTime, TimingRules } from '../../runtime/addon.js';
import { chooseDevice } from '../../runtime/index.js';
import { KernelBench } from '../../runtime/kernel_bench.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import type { Settings } from '../settings.js';
import { budgetsOf } from './bench.js';
import { type BenchCase, type BenchPlan, type BenchResult, benchFolder, runBench } from './bench_run.js';

const K = 1024;
const DEFAULT_CONTEXTS = {
  cpu: [4 * K, 8 * K, 16 * K, 32 * K],
  cuda: [8 * K, 16 * K, 32 * K, 64 * K, 128 * K],
};

/** Opens the device that `--device` means. */
export function openKernelBench({ settings, out }: CommandContext): KernelBench {
  const { device, note } = chooseDevice(randomSpec('llama2-7b', 'fp16', K), settings.string('device'));
  if (note !== undefined) out.note(note);
  return new KernelBench(device, settings.number('threads'));
}

/** Contexts asked for, or what suits the device. */
export const contextsOf = (settings: Settings, bench: KernelBench): readonly number[] =>
  settings.maybeNumbers('context') ?? DEFAULT_CONTEXTS[bench.info.gpu === undefined ? 'cpu' : 'cuda'];

export const timingRules = (settings: Settings): TimingRules => ({
  minRepeats: 15,
  noisePct: settings.number('noise'),
  maxSeconds: settings.number('seconds'),
});

function axesOf(settings: Settings, bench: KernelBench): KernelAxes {
  const kernels = settings.names('kernel') as KernelName[];
  const missing = kernels.find((name) => !bench.kernels.includes(name));
  if (missing !== undefined) {
    throw new QuestError('E_OPTION', `${missing} is not timed on ${bench.info.device}`, {
      hint: `leave it out; there are ${bench.kernels.join(', ')}`,
    });
  }
  return {
    kernels,
    contexts: contextsOf(settings, bench),
    budgets: budgetsOf(settings, false) as number[],
    pageSizes: settings.numbers('page-size'),
    heads: settings.names('heads'),
  };
}

const caseRecord = ({ what, case: c }: NamedCase): BenchCase => ({ what, ...c });

const timeOf = (r: BenchResult): KernelTime => ({
  medianUs: r.median_us!,
  noisePct: r.noise_pct!,
  repeats: r.repeats!,
  bytes: r.bytes!,
  flops: r.flops!,
});

const resultOf = (t: KernelTime): BenchResult => ({
  median_us: t.medianUs,
  noise_pct: t.noisePct,
  repeats: t.repeats,
  bytes: t.bytes,
  flops: t.flops,
});

const labelOf = ({ what, case: c }: NamedCase): string =>
  [c.kernel, what, c.contextTokens, c.budgetTokens || undefined]
    .filter((part) => part !== undefined)
    .join(' ');

async function writeFiles(folder: string, timed: readonly TimedCase[], bandwidth: number, device: string) {
  const rows = attentionRows(timed, bandwidth);
  writeFileAtomic(join(folder, 'kernels.csv'), renderCsv(kernelTable(timed, bandwidth)));
  if (rows.length === 0) return;
  writeFileAtomic(join(folder, 'attention.csv'), renderCsv(attentionTable(rows)));
  const [{ kernelCharts }, { renderSvg }] = await Promise.all([
    import('../../report/bench-charts.js'),
    import('../../report/svg.js'),
  ]);
  for (const { name, spec } of kernelCharts(rows, device))
    writeFileAtomic(join(folder, `${name}.svg`), await renderSvg(spec));
}

/** Runs `quest bench kernels`. */
export async function run(context: CommandContext): Promise<number> {
  const { settings, out, signal } = context;
  using bench = openKernelBench(context);
  const axes = axesOf(settings, bench);
  const cases = kernelCases(axes);
  if (cases.length === 0) {
    throw new QuestError('E_OPTION', 'there is nothing to time: every budget covers every context', {
      hint: 'use longer contexts or smaller budgets',
    });
  }
  const idle = axes.budgets.filter((budget) => !cases.some((one) => one.case.budgetTokens === budget));
  if (idle.length > 0 && ['command line', 'config file'].includes(settings.source('budget')))
    out.note(
      `left out: budget ${idle.join(', ')}, which holds no page, covers every context or has no kernel`,
    );
  const rules = timingRules(settings);
  const plan: BenchPlan = {
    name: 'kernels',
    device: bench.info,
    axes,
    rules: { ...rules },
    total: cases.length + 1,
  };
  if (settings.flag('dry-run')) {
    out.data(
      `${cases.length} cases, each up to ${rules.maxSeconds} s, -> ${benchFolder(context, plan)}\n${cases.map((one) => `${labelOf(one)}\n`).join('')}`,
    );
    return 0;
  }
  const device = bench.info.gpu ?? `${bench.info.simd}, ${plural(bench.info.threads!, 'thread')}`;
  const result = await runBench(
    context,
    plan,
    async (run) => {
      const read = await run.measure({ what: 'read' }, 'read bandwidth', async () => ({
        bytes_per_s: await bench.readBandwidth(signal),
      }));
      const timed: TimedCase[] = [];
      for (const one of cases) {
        const measured = await run.measure(caseRecord(one), labelOf(one), async () =>
          resultOf(await bench.time(one.case, rules, signal)),
        );
        timed.push({ ...one, time: timeOf(measured) });
      }
      return { timed, bandwidth: read.bytes_per_s! };
    },
    async ({ timed, bandwidth }, folder) => {
      await writeFiles(folder, timed, bandwidth, device);
      const noisy = timed.filter(({ time }) => time.noisePct > rules.noisePct).length;
      return {
        bench: 'kernels',
        read_gb_per_s: Number((bandwidth / 1e9).toFixed(1)),
        noisy_cases: noisy,
        cells: timed.map(caseRecord),
      };
    },
  );
  const { timed, bandwidth } = result;
  const rows = attentionRows(timed, bandwidth);
  const others = timed.filter(({ case: c }) => !(ATTENTION_KERNELS as readonly string[]).includes(c.kernel));
  const tables: Table[] = [];
  if (rows.length > 0) tables.push(attentionTable(rows));
  if (others.length > 0 || rows.length === 0)
    tables.push(kernelTable(rows.length === 0 ? timed : others, bandwidth));
  for (const table of tables) await out.table(table, settings.string('format') as Format);
  const noisy = timed.filter(({ time }) => time.noisePct > rules.noisePct).length;
  out.note(
    `${device}: read bandwidth ${(bandwidth / 1e9).toFixed(1)} GB/s${noisy > 0 ? `; ${noisy} of ${timed.length} cases stayed noisier than ${rules.noisePct}%` : ''}`,
  );
  return 0;
}
