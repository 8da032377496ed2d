/** What commands that run a model share: open the checkpoint, settle the options, check memory, load. */
import { type Cell, checkSkipLayers, type MethodSettings, makeCell, makeCells } from '../../eval/methods.js';
import { NO_TOKEN_CACHE, openTokenCache, type TokenCache, tokenCacheFolder } from '../../eval/token_cache.js';
import { QuestError } from '../errors.js';
import { type Checkpoint, type ModelSpec, openCheckpoint } from '../model/index.js';
import type { GroupMode, MethodName } from '../runtime/addon.js';
import { chooseDevice, describeDevice, Model } from '../runtime/index.js';
import type { CommandContext } from './commands.js';
import { availableMemory, checkMemory, describeMemory, type MemoryEstimate } from './memory.js';
import { checkGpuMemory, fitDevice } from './memory_gpu.js';
import type { Settings } from './settings.js';
import { withTransfer } from './transfer.js';

/** Opens `--model`, pulled from the hub on first use, and puts its preset below the other settings. */
export async function openRun(
  context: CommandContext,
): Promise<{ checkpoint: Checkpoint; settings: Settings }> {
  const ref = context.settings.string('model');
  await pullOnFirstUse(context, ref);
  const checkpoint = await openCheckpoint(ref);
  return { checkpoint, settings: context.settings.withPreset(checkpoint.preset) };
}

/** Pulls a model that the hub cache lacks, after saying how much it is; a dry run only says it. */
async function pullOnFirstUse(context: CommandContext, ref: string): Promise<void> {
  if (!ref.includes('/')) return; // keeps built-in names quick
  const { ensureModel } = await import('../model/hub_pull.js');
  const dryRun = context.settings.flag('dry-run');
  await withTransfer(context, ref, (transfer) => ensureModel(ref, { ...transfer, dryRun }));
}

/** Where the model's tokenised prompts are kept. */
export async function promptCache(context: CommandContext, checkpoint: Checkpoint): Promise<TokenCache> {
  const folder = tokenCacheFolder();
  if (folder === undefined) return NO_TOKEN_CACHE;
  const tokenizer = await checkpoint.tokenizerHash();
  return openTokenCache({ folder, tokenizer, detail: context.out.detail });
}

/** `skip_layers 0`: what the model's preset has changed, if anything. */
export function presetNote(settings: Settings): string | undefined {
  const used = Object.entries(settings.resolved()).filter(([, { source }]) => source === 'model preset');
  return used.length === 0 ? undefined : used.map(([key, { value }]) => `${key} ${value}`).join(', ');
}

/** The method options that all cells of a run share. */
export function methodSettings(settings: Settings): MethodSettings {
  return {
    pageSize: settings.number('page-size'),
    skipLayers: settings.number('skip-layers'),
    group: settings.string('group') as GroupMode,
    sinks: settings.number('sinks'),
    h2oPrefill: settings.flag('h2o-prefill'),
  };
}

const TYPED = ['command line', 'config file'];

/** The methods x budgets of a table, checked. */
export function tableCells(settings: Settings, checkpoint: Checkpoint): Cell[] {
  const methods = settings.names('method') as MethodName[];
  if (methods.every((name) => name === 'full') && TYPED.includes(settings.source('budget'))) {
    throw new QuestError('E_BUDGET', 'full has no budget: it attends every token', {
      hint: 'leave --budget out, or add a method that has one, e.g. --method full,quest',
    });
  }
  const cells = makeCells(methods, settings.numbers('budget'), methodSettings(settings));
  checkSkipLayers(cells, checkpoint.spec.nLayers);
  return cells;
}

/** One method at the budget of commands that run a single one. */
export function singleCell(settings: Settings, checkpoint: Checkpoint, method: string): Cell {
  const cell = makeCell(method as MethodName, settings.number('budget'), methodSettings(settings));
  checkSkipLayers([cell], checkpoint.spec.nLayers);
  return cell;
}

/** The device that a run will take. */
export function runDevice(settings: Settings, spec: ModelSpec): string {
  const asked = settings.string('device');
  return asked === 'cpu' ? 'cpu' : chooseDevice(spec, asked).device;
}

/** Refuses what cannot fit on the device of the run; returns what the run needs there. */
export function checkRunMemory(settings: Settings, spec: ModelSpec, memory: MemoryEstimate): MemoryEstimate {
  const limit = settings.maybeNumber('max-memory');
  const device = runDevice(settings, spec);
  if (device === 'cpu') {
    checkMemory(memory, limit);
    return memory;
  }
  const fit = fitDevice(spec, memory, device, limit);
  checkGpuMemory(device, fit, limit);
  return fit.estimate;
}

/**
 * Whether a run that could be smaller leaves the device of the run some room. On a CPU, whose memory others use too, that is a
 * fifth; a GPU's plan keeps its own reserve.
 */
export function fitsWithRoom(settings: Settings, spec: ModelSpec): (memory: MemoryEstimate) => boolean {
  const limit = settings.maybeNumber('max-memory');
  const device = runDevice(settings, spec);
  if (device !== 'cpu') return (memory) => fitDevice(spec, memory, device, limit).fits;
  const available = 0.8 * Math.min(availableMemory(), limit ?? Number.POSITIVE_INFINITY);
  return (memory) => memory.total <= available;
}

/** Refuses what cannot fit, then loads the weights. */
export async function loadModel(
  context: CommandContext,
  settings: Settings,
  checkpoint: Checkpoint,
  memory: MemoryEstimate,
): Promise<Model> {
  const needed = checkRunMemory(settings, checkpoint.spec, memory);
  const preset = presetNote(settings);
  if (preset !== undefined) context.out.note(`${checkpoint.name}: ${preset}, from the model's preset`);
  context.out.detail(`memory: about ${describeMemory(needed)}`);
  const { device, note } = chooseDevice(checkpoint.spec, settings.string('device'));
  if (note !== undefined) context.out.note(note);
  const model = await Model.load(checkpoint.spec, {
    device,
    threads: settings.number('threads'),
    signal: context.signal,
  });
  context.out.detail(`${checkpoint.name} on ${describeDevice(model.info)}`);
  return model;
}
