/** quest bench kernels|e2e|compare: which one, and the axes that they share. */
import { QuestError } from '../../errors.js';
import type { RunCommand } from '../commands.js';
import type { Settings } from '../settings.js';

const BENCHES: Readonly<Record<string, () => Promise<{ run: RunCommand }>>> = {
  kernels: () => import('./bench_kernels.js'),
  e2e: () => import('./bench_e2e.js'),
  compare: () => import('./bench_compare.js'),
};

/** Options that matter to some of them only. */
const ONLY: Readonly<Record<string, readonly string[]>> = {
  kernel: ['kernels'],
  heads: ['kernels', 'compare'],
  noise: ['kernels', 'compare'],
  seconds: ['kernels', 'compare'],
  shape: ['e2e', 'compare'],
  weights: ['e2e'],
  steps: ['e2e', 'compare'],
  repeats: ['e2e', 'compare'],
  'skip-layers': ['e2e', 'compare'],
  python: ['compare'],
};

function checkOptions(name: string, settings: Settings): void {
  const misplaced = Object.entries(ONLY).find(
    ([option, benches]) =>
      !benches.includes(name) && ['command line', 'config file'].includes(settings.source(option)),
  );
  if (misplaced === undefined) return;
  throw new QuestError('E_USAGE', `--${misplaced[0]} belongs to quest bench ${misplaced[1].join(' and ')}`, {
    hint: 'leave it out',
  });
}

/** The numbers of `--budget`; `full` is undefined, and refused where there is no such line. */
export function budgetsOf(settings: Settings, allowFull: boolean): (number | undefined)[] {
  return settings.names('budget').map((text) => {
    if (text === 'full' && allowFull) return undefined;
    const value = Number(text);
    if (/^\d+$/.test(text) && Number.isSafeInteger(value) && value >= 1) return value;
    throw new QuestError(
      'E_OPTION',
      `--budget wants whole numbers of at least 1${allowFull ? ' or full' : ''}, got "${text}"`,
      {
        hint: 'for example 512,2048',
      },
    );
  });
}

/** Runs `quest bench`. */
export const run: RunCommand = async (context) => {
  const [name = ''] = context.args;
  const load = Object.hasOwn(BENCHES, name) ? BENCHES[name] : undefined;
  if (load === undefined) {
    throw new QuestError('E_USAGE', `there is no benchmark "${name}"`, {
      hint: 'quest bench kernels, e2e or compare',
    });
  }
  checkOptions(name, context.settings);
  return (await load()).run(context);
};
