/**
 * Runs a sweep's units as a job array of Slurm: submits, waits, submits again what a time limit or a lost node has left.
 * The queue is asked by the job's name, so a sweep that was killed finds its jobs again; accounting is not needed.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { QuestError } from '../../errors.js';
import { startReason } from '../../reading.js';
import { ensureFolder, writeFileAtomic } from '../../report/files.js';
import { plural } from '../../words.js';
import { batchScript, jobName, packUnits, SLURM_FOLDER, type SlurmOptions } from './slurm_script.js';
import { clearFailure, failureOf, isDone, journalBytes, markFailed } from './store.js';
import type { Unit } from './units.js';

export interface SlurmRun extends SlurmOptions {
  folder: string;
  signal: AbortSignal;
  onProgress(fraction: number, label: string): void;
  note(text: string): void;
  /** Seconds between two looks at the queue. */
  pollSeconds: number;
}

interface Element {
  job: string;
  state: string;
  reason: string;
}

interface Answer {
  code: number;
  stdout: string;
  stderr: string;
}

/** States in which nothing more will happen. Any other, known or not, is waited for. */
const ENDED = new Set([
  ...['COMPLETED', 'CANCELLED', 'FAILED', 'TIMEOUT', 'NODE_FAIL', 'OUT_OF_MEMORY', 'DEADLINE'],
  ...['BOOT_FAIL', 'PREEMPTED', 'REVOKED'],
]);
/** A controller that restarts is away for a while; after so many failed looks in a row it is gone. */
const MOST_SILENCE = 40;
/** Files written on another machine may take a moment to be seen here. */
const SETTLE_MS = 3000;

function call(command: string, args: readonly string[], cwd?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    const text = { stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (part: string) => {
      text.stdout += part;
    });
    child.stderr.setEncoding('utf8').on('data', (part: string) => {
      text.stderr += part;
    });
    child.on('error', (cause: NodeJS.ErrnoException) =>
      reject(
        new QuestError('E_SLURM', `cannot run ${command}: ${startReason(cause)}`, {
          hint: 'Slurm is not installed here; run on a login node, or use --executor local',
          exitCode: 3,
          cause,
        }),
      ),
    );
    child.on('close', (code) => resolve({ code: code ?? 1, ...text }));
  });
}

const oneLine = (text: string): string => text.trim().split('\n').at(-1) ?? '';

/** All elements of the sweep's jobs that Slurm still knows, ended ones of the last minutes among them; nothing when it does not answer. */
async function queue(folder: string): Promise<Element[] | undefined> {
  const args = ['--noheader', '--array', '--states=all', `--name=${jobName(folder)}`, '--format=%F|%T|%r'];
  const { code, stdout } = await call('squeue', args);
  if (code !== 0) return undefined;
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [job = '', state = '', reason = ''] = line.split('|');
      return { job, state, reason };
    });
}

const isActive = ({ state }: Element): boolean => !ENDED.has(state);

/** Refuses a sweep whose jobs are in Slurm's queue to anyone but {@link runSlurm}. Without Slurm there are none. */
export async function refuseQueued(folder: string): Promise<void> {
  const elements = await queue(folder).catch(() => []);
  const job = elements?.find(isActive)?.job;
  if (job === undefined) return;
  throw new QuestError('E_LOCKED', `${folder} is being computed by job ${job} of Slurm`, {
    hint: `go on with --executor slurm, or end it with scancel ${job}`,
    exitCode: 3,
  });
}

/** Submits the units that are not there yet. */
async function submit(run: SlurmRun, units: readonly Unit[]): Promise<string> {
  const { folder, note } = run;
  ensureFolder(join(folder, SLURM_FOLDER));
  const packs = packUnits(units, run.packTokens);
  const script = join(SLURM_FOLDER, 'job.sh');
  writeFileAtomic(join(folder, script), batchScript(folder, packs, run));
  const { code, stdout, stderr } = await call('sbatch', ['--parsable', script], folder);
  const job = /^(\d+)/.exec(stdout)?.[1];
  if (code !== 0 || job === undefined)
    throw new QuestError('E_SLURM', `sbatch refused the job: ${oneLine(stderr) || `code ${code}`}`, {
      hint: `mend it with --partition, --account, --time, --gres or --sbatch; the script is ${join(folder, script)}`,
      exitCode: 3,
    });
  note(`submitted ${plural(units.length, 'unit')} as job ${job} with ${plural(packs.length, 'element')}`);
  return job;
}

const pause = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done, { once: true });
  });

/** Waits for the sweep's jobs to end and returns how they did. */
async function awaitJobs(run: SlurmRun, job: string, look: () => void): Promise<string[]> {
  const { folder, signal, note, pollSeconds } = run;
  const told = new Set<string>();
  for (let silence = 0, missing = 0; ; ) {
    if (signal.aborted)
      throw new QuestError('E_INTERRUPTED', `interrupted; job ${job} goes on`, {
        hint: `the same command waits for it again; scancel ${job} ends it`,
        exitCode: 130,
      });
    const elements = await queue(folder);
    look();
    if (elements === undefined) {
      if (++silence === 1) note('Slurm does not answer; waiting for it');
      if (silence > MOST_SILENCE)
        throw new QuestError('E_SLURM', `Slurm has not answered for ${MOST_SILENCE} tries`, {
          hint: 'the jobs may still run; the same command waits for them again',
          exitCode: 3,
        });
    } else {
      silence = 0;
      const own = elements.filter((element) => element.job === job);
      // A job that has just been submitted may not be listed yet, and one that ended long ago is not any more.
      if (own.length === 0 && ++missing > 2) return [];
      if (own.length > 0 && !own.some(isActive)) return own.map(({ state }) => state);
      for (const { state, reason } of own) {
        const held =
          state === 'PENDING' && /held|Config|BadConstraints|Invalid|Dependency|Limit/i.test(reason);
        if (!held || reason === 'JobArrayTaskLimit' || told.has(reason)) continue;
        told.add(reason);
        note(`job ${job} waits: ${reason}`);
      }
    }
    await pause(pollSeconds * 1000, signal);
  }
}

/** Computes what is missing on the cluster; failures are left in the units' folders. */
export async function runSlurm(units: readonly Unit[], run: SlurmRun): Promise<void> {
  const { folder, signal, onProgress, note } = run;
  const open = () => units.filter((unit) => !isDone(folder, unit) && failureOf(folder, unit) === undefined);
  const total = units.reduce((sum, unit) => sum + unit.tokens, 0);
  const look = () => {
    const left = open();
    const tokens = left.reduce((sum, unit) => sum + unit.tokens, 0);
    onProgress(1 - tokens / total, `${units.length - left.length} of ${units.length} units`);
  };
  const bytes = () => units.reduce((sum, unit) => sum + journalBytes(folder, unit), 0);
  const active = (await queue(folder))?.find(isActive)?.job;
  if (active !== undefined) note(`job ${active} of this sweep is in the queue: waiting for it`);
  else for (const unit of units) clearFailure(folder, unit);
  onProgress(0, 'reuse');
  let job = active;
  let before = -1;
  for (let left = open(); left.length > 0; left = open()) {
    if (job === undefined) {
      before = bytes();
      job = await submit(run, left);
    }
    const states = await awaitJobs(run, job, look);
    if (open().length > 0) await pause(SETTLE_MS, signal);
    left = open();
    if (left.length === 0) break;
    if (states.includes('CANCELLED'))
      throw new QuestError(
        'E_SLURM',
        `job ${job} was cancelled; ${plural(left.length, 'unit is', 'units are')} missing`,
        {
          hint: 'the same command submits what is missing',
          exitCode: 3,
        },
      );
    if (bytes() <= before) {
      const how = [...new Set(states)].join(', ') || 'unknown to Slurm';
      for (const unit of left)
        markFailed(folder, unit, {
          message: `job ${job} ended (${how}) without a result`,
          hint: `see ${join(folder, SLURM_FOLDER)} for what it said`,
        });
      break;
    }
    note(
      `job ${job} has ended; ${plural(left.length, 'unit is not finished and is', 'units are not finished and are')} submitted again`,
    );
    job = undefined;
  }
}
