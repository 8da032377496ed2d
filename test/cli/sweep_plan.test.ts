import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readSweepFile } from '../../src/cli/sweep/file.js';
import { parseDevices } from '../../src/cli/sweep/local.js';
import { batchScript, checkSbatch, packUnits } from '../../src/cli/sweep/slurm_script.js';
import { checkSweepFolder, readUnits, writeUnits } from '../../src/cli/sweep/store.js';
import { makeUnits } from '../../src/cli/sweep/units.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'quest-sweep-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const unitsOf = (yaml: string) => {
  const file = join(folder, 'sweep.yaml');
  writeFileSync(file, yaml);
  return makeUnits(readSweepFile(file), 'sweep.yaml');
};

const GRID = `
task:
  passkey: {samples: 2}
  longbench: {task: [qasper, triviaqa], sample: true, context: 3000}
  ppl:
model: [quest-tiny, other/model]
context: [600, 900]
seed: [0, 1]
method: [full, quest, h2o]
budget: [64, 128]
page_size: 32
`;

/** A small file that would fill any memory. */
const MANY_ALIASES = Array.from({ length: 9 }, (_, i) => {
  const parts = Array.from({ length: 9 }, () => (i === 0 ? 'x' : `*a${i - 1}`));
  return `${i === 8 ? 'task' : `a${i}`}: &a${i} [${parts.join(', ')}]`;
}).join('\n');

describe('the grid', () => {
  test('one unit per task, model, context and seed, with all methods and budgets', () => {
    const units = unitsOf(GRID);
    const count = (task: string) => units.filter((unit) => unit.task === task).length;
    // Two models, two contexts, two seeds; LongBench has one context of its own, and no seeds, like ppl.
    expect([count('passkey'), count('longbench/qasper'), count('longbench/triviaqa'), count('ppl')]).toEqual([
      8, 2, 2, 4,
    ]);
    expect(new Set(units.map((unit) => unit.id)).size).toBe(units.length);
    expect(units[0]!.argv.join(' ')).toBe(
      'passkey --budget 64,128 --context 600 --method full,quest,h2o --model quest-tiny --page-size 32 --samples 2 --seed 0',
    );
    expect(units[0]!.cells).toEqual([
      { method: 'full', budgetTokens: undefined },
      { method: 'quest', budgetTokens: 64 },
      { method: 'quest', budgetTokens: 128 },
      { method: 'h2o', budgetTokens: 64 },
      { method: 'h2o', budgetTokens: 128 },
    ]);
    const ppl = units.find((unit) => unit.task === 'ppl')!;
    expect(ppl.argv).toEqual(expect.arrayContaining(['--tokens', '600']));
    expect(ppl.argv).not.toContain('--seed');
    expect(units.find((unit) => unit.task === 'longbench/qasper')!.argv).toEqual(
      expect.arrayContaining(['--max-length', '3000', '--sample', '--task', 'qasper']),
    );
  });

  test('folders keep their names when methods and budgets are added, and only then', () => {
    const [before, more, other] = ['budget: 64', 'budget: [64, 128]', 'budget: 64\nskip_layers: 1'].map(
      (text) => unitsOf(`task: passkey\n${text}\n`)[0]!,
    );
    expect(more!.id).toBe(before!.id);
    expect(more!.hash).not.toBe(before!.hash);
    expect(other!.id).not.toBe(before!.id);
  });

  test.each([
    ['task: sparsity', /searches for budgets itself/, /quest analyze sparsity/],
    ['task: passky', /no task "passky"/, /did you mean passkey/],
    ['task: [passkey, passkey]', /names the task passkey twice/, /once/],
    ['tusk: passkey', /task: a task's name, a list of names, or/, /did you mean task instead of tusk/],
    ['task: passkey\nbudgets: 64', /unknown key "budgets"/, /did you mean budget\?/],
    ['task: passkey\ndevice: cpu', /sets "device"/, /--devices/],
    ['task: {passkey: {out: x}}', /sets "out"/, /--out/],
    ['task: {passkey: {sample: true}}', /unknown key "sample"/, /samples/],
    ['task: passkey\nbudget: 4', /budget of 4 tokens is too small for quest/, /16 or more/],
    ['task: passkey\nmethod: qest', /one of full, quest/, /did you mean quest/],
    ['task: passkey\ncontext: 0', /at least 1/, /use 1 or more/],
    ['task: passkey\nseed: -1', /seed/, /use 0 or more/],
    ['task: passkey\nmodel: true', /model is true/, /value or a list/],
    ['task: {}', /names no task/, /example/],
    ['task: [', /not valid YAML/, /example/],
    [MANY_ALIASES, /not valid YAML: Excessive alias count/, /example/],
    ['', /the file: /, /example/],
  ])('%s is refused', (yaml, message, hint) => {
    try {
      unitsOf(yaml);
    } catch (error) {
      expect((error as Error).message).toMatch(message);
      expect((error as { hint?: string }).hint).toMatch(hint);
      return;
    }
    expect.unreachable('it was accepted');
  });

  test('a folder takes a sweep that grew, and no other', () => {
    const small = unitsOf('task: passkey\nbudget: 64');
    const grown = unitsOf('task: passkey\nbudget: [64, 128]\nseed: [0, 1]');
    const seeded = unitsOf('task: passkey\nbudget: 64\nseed: 0');
    const fewer = unitsOf('task: passkey\nbudget: 128\nseed: [0, 1]');
    const own = join(folder, 'grows');
    expect(readUnits(folder)).toBeUndefined();
    mkdirSync(own);
    writeUnits(own, seeded);
    expect(() => checkSweepFolder(own, grown)).not.toThrow();
    expect(() => checkSweepFolder(own, small)).toThrow(/another sweep: passkey-.*-s0-\w+ is no longer part/);
    writeUnits(own, grown);
    expect(() => checkSweepFolder(own, fewer)).toThrow(/quest 64 is no longer part of passkey-/);
    writeFileSync(join(own, 'sweep.json'), '{"units": [{"id": "../../etc"}]}');
    expect(() => readUnits(own)).toThrow(/is not the plan of a sweep/);
  });
});

test('devices', () => {
  expect(parseDevices(['cpu*2', 'cuda:1', 'auto'])).toEqual(['cpu', 'cpu', 'cuda:1', 'auto']);
  for (const name of ['gpu', 'cpu*0', 'cuda:', 'cpu*', 'cpu;ls', 'cpu*9999'])
    expect(() => parseDevices([name]), name).toThrow(/no device/);
});

describe('the batch script', () => {
  test('packs units of one model in their order', () => {
    const units = unitsOf(GRID);
    const packs = packUnits(units, 3000);
    expect(packs.flat()).toEqual(units);
    for (const pack of packs) {
      expect(new Set(pack.map((unit) => unit.model)).size).toBe(1);
      if (pack.length > 1) expect(pack.reduce((sum, unit) => sum + unit.tokens, 0)).toBeLessThanOrEqual(3000);
    }
    expect(packs.length).toBeLessThan(units.length);
  });

  test('never has more elements than Slurm takes', () => {
    const [unit] = unitsOf('task: passkey');
    const many = Array.from({ length: 2500 }, (_, i) => ({ ...unit!, id: `u${i}` }));
    const packs = packUnits(many, 1);
    expect(packs.length).toBeLessThanOrEqual(1000);
    expect(packs.flat()).toHaveLength(2500);
  });

  test('quotes paths, throttles, requeues', () => {
    const units = unitsOf('task: passkey\nseed: [0, 1]');
    const script = batchScript("/data/it's a $folder", packUnits(units, 1), {
      sbatch: { partition: 'gpu', gres: 'gpu:1', exclusive: true, 'use-min-nodes': false },
      maxParallel: 3,
      packTokens: 1,
      devices: ['cuda'],
    });
    expect(script).toContain('#SBATCH --array=0-1%3\n');
    expect(script).toContain('#SBATCH --requeue\n');
    expect(script).toContain('#SBATCH --partition=gpu\n#SBATCH --gres=gpu:1\n#SBATCH --exclusive\n');
    expect(script).not.toContain('use-min-nodes');
    expect(script).toContain(`--out '/data/it'\\''s a $folder'`);
    for (const { id } of units) expect(script).toContain(`  ${id}\n`);
  });

  test.each([
    [{ array: '0-3' }, /set by the sweep itself/],
    [{ comment: 'two words' }, /cannot stand/],
    [{ comment: 'x\n#SBATCH --uid=0' }, /cannot stand/],
    [{ 'Mem ory': '1' }, /cannot stand/],
  ])('%o is refused', (options, message) => {
    expect(() => checkSbatch(options)).toThrow(message);
  });
});
