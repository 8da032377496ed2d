/** quest doctor: what this machine and build can do, and whether the model computes what it should. */
import { existsSync, readdirSync } from 'node:fs';
import { arch, cpus, platform, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { QuestError } from '../../errors.js';
import { hubCacheDir } from '../../model/hub.js';
import { type Checkpoint, openCheckpoint } from '../../model/index.js';
import { BUILT_IN, packageRoot } from '../../model/package_root.js';
import type { Format } from '../../report/table.js';
import { addon, type NativeGpuReport } from '../../runtime/addon.js';
import { chooseDevice } from '../../runtime/index.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import { availableMemory, formatBytes } from '../memory.js';
import { questVersion } from '../version.js';

type Status = 'ok' | '-' | 'failed' | 'missing';
type Line = [check: string, status: Status, detail: string];

function machineLines(): Line[] {
  const [cpu] = cpus();
  const free = availableMemory();
  return [
    ['quest', 'ok', questVersion()],
    ['node', 'ok', process.version],
    ['system', 'ok', `${platform()} ${release()} ${arch()}`],
    ['cpu', 'ok', `${cpu?.model.trim() ?? 'unknown'}, ${plural(cpus().length, 'core')}`],
    ['memory', 'ok', `${formatBytes(totalmem())}, of which ${formatBytes(free)} can be used now`],
  ];
}

function gpuLines({ compiled, driver, matrixLibrary, problem, gpus }: NativeGpuReport): Line[] {
  if (!compiled)
    return [['cuda', '-', 'not compiled in: everything runs on the CPU (npm run build:cuda, where nvcc is)']];
  if (problem !== undefined)
    return [['cuda', '-', `compiled in, but ${problem}: everything runs on the CPU`]];
  const products = matrixLibrary === undefined ? '' : `; products of many rows by ${matrixLibrary}`;
  return [
    ['cuda', 'ok', `driver for CUDA ${driver}${products}`],
    ...gpus.map((gpu): Line => {
      const facts = `${gpu.name}, compute capability ${gpu.computeCapability}, ${gpu.multiprocessors} multiprocessors, ${formatBytes(gpu.memoryBytes)}, of which ${formatBytes(gpu.freeBytes)} are free${gpu.mps ? '; processes share it through MPS, so 4-bit products run one by one' : ''}`;
      return [
        `cuda:${gpu.index}`,
        gpu.problem === undefined ? 'ok' : '-',
        gpu.problem === undefined ? facts : `${facts}; cannot be used: ${gpu.problem}`,
      ];
    }),
  ];
}

function addonLines(): Line[] {
  try {
    const native = addon();
    const { levels, active, cores } = native.cpuInfo();
    return [
      ['native runtime', 'ok', native.version],
      ['simd', 'ok', `${active} in use, of ${levels.join(', ')}; ${plural(cores, 'core')}`],
      ...gpuLines(native.gpus()),
    ];
  } catch (error) {
    if (!(error instanceof QuestError)) throw error;
    return [['native runtime', 'missing', `${error.message}; ${error.hint}`]];
  }
}

function modelLines(): Line[] {
  const builtIn = Object.entries(BUILT_IN).filter(([, folder]) =>
    existsSync(join(packageRoot(), folder, 'config.json')),
  );
  const cache = hubCacheDir();
  const lines: Line[] = [
    [
      'built-in models',
      builtIn.length > 0 ? 'ok' : 'missing',
      builtIn.map(([name]) => name).join(', ') || 'none',
    ],
  ];
  let cached: string[] = [];
  try {
    cached = readdirSync(cache).filter((name) => name.startsWith('models--'));
  } catch {
    // no cache yet
  }
  const names = cached.map((name) => name.slice('models--'.length).replace('--', '/'));
  lines.push(['hub cache', '-', `${cache}: ${names.join(', ') || 'no models'}`]);
  return lines;
}

/** The model's self-check on the device asked for; with `auto`, on the CPU and on the GPU where one can be used. */
async function selfCheckLines(checkpoint: Checkpoint, device: string, threads: number): Promise<Line[]> {
  const { selfCheck } = await import('../selfcheck.js');
  const chosen = chooseDevice(checkpoint.spec, device);
  const devices = device === 'auto' ? [...new Set(['cpu', chosen.device])] : [chosen.device];
  const lines: Line[] = [];
  for (const name of devices) {
    const { status, detail } = await selfCheck(checkpoint, name, threads);
    lines.push([
      devices.length > 1 ? `self-check ${name}` : 'self-check',
      status === 'absent' ? '-' : status,
      detail,
    ]);
  }
  return lines;
}

/** Runs `quest doctor`: 0 when all is well, 1 when the self-check fails, 3 when something is missing. */
export async function run(context: CommandContext): Promise<number> {
  const { settings, out } = context;
  const [device, threads] = [settings.string('device'), settings.number('threads')];
  if (settings.flag('write-selfcheck')) {
    const { writeSelfCheck } = await import('../selfcheck.js');
    out.note(
      `wrote ${await writeSelfCheck(await openCheckpoint(settings.string('model')), device, threads)}`,
    );
    return 0;
  }
  const lines: Line[] = [...machineLines(), ...addonLines(), ...modelLines()];
  const hasAddon = !lines.some(([check, status]) => check === 'native runtime' && status === 'missing');
  const name = settings.string('model');
  try {
    const checkpoint = await openCheckpoint(name);
    const { spec } = checkpoint;
    lines.push([
      'model',
      'ok',
      `${checkpoint.name}: ${plural(spec.nLayers, 'layer')}, ${spec.nHeads}/${spec.nKvHeads} heads of ${spec.headDim}, context ${spec.maxContext}, ${formatBytes(checkpoint.weightBytes)}`,
    ]);
    if (hasAddon) {
      lines.push(...(await selfCheckLines(checkpoint, device, threads)));
    }
  } catch (error) {
    if (!(error instanceof QuestError)) throw error;
    lines.push(['model', 'missing', error.message]);
  }
  await out.table(
    { columns: [{ key: 'check' }, { key: 'status' }, { key: 'detail' }], rows: lines },
    settings.string('format') as Format,
  );
  const statuses = lines.map(([, status]) => status);
  if (statuses.includes('missing')) return 3;
  return statuses.includes('failed') ? 1 : 0;
}
