import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { hasAddon, quest, temporaryFolder } from './spawn.js';

const run = hasAddon ? test : test.skip;
const quantize = (args: string[], cwd = temporaryFolder()) => quest(['model', 'quantize', ...args], { cwd });

run('quest-tiny in four bits loses less than 3% of perplexity', { timeout: 240_000 }, async () => {
  const cwd = temporaryFolder();
  const made = await quantize(
    [
      'quest-tiny',
      '--group',
      '64',
      '--calibration-tokens',
      '1024',
      '--tokens',
      '4500',
      '--out',
      'tiny4',
      '--format',
      'csv',
    ],
    cwd,
  );
  const [, uncut, cut] = /clip ([\d.e-]+) -> ([\d.e-]+).*qkv [\d.e-]+ -> [\d.e-]+/.exec(made.stderr) ?? [];
  expect(Number(cut)).toBeLessThan(0.9 * Number(uncut));
  expect(made.code).toBe(0);
  const [header, row] = made.stdout.trim().split('\n');
  expect(header).toBe('model,method,group,weight_bytes,int4_bytes,ppl_before,ppl_after,change_pct');
  const [model, method, group, bytes, int4Bytes, before, after, change] = row!.split(',');
  expect([model, method, group]).toEqual(['quest-tiny', 'awq', '64']);
  expect(Number(int4Bytes)).toBeLessThan(0.5 * Number(bytes));
  expect(Number(change)).toBeCloseTo(100 * (Number(after) / Number(before) - 1), 1);
  expect(Math.abs(Number(change))).toBeLessThan(3);

  // The folder is a model like any other.
  expect(readdirSync(join(cwd, 'tiny4'))).toContain('tokenizer.json');
  const info = await quest(['model', 'info', 'tiny4', '--format', 'json'], { cwd });
  expect(JSON.parse(info.stdout)[0].dtype).toBe('fp16 int4');
  const text = await quest(
    ['generate', '--model', 'tiny4', '--prompt', 'The sea', '--max-tokens', '8', '--device', 'cpu'],
    { cwd },
  );
  expect(text.code).toBe(0);
  expect(text.stdout.length).toBeGreaterThan(4);

  const again = await quantize(['tiny4', '--group', '64', '--out', 'other'], cwd);
  expect([again.code === 0, again.stderr]).toEqual([
    false,
    expect.stringMatching(/tiny4 has 4-bit weights already/),
  ]);
  const full = await quantize(['quest-tiny', '--group', '64', '--out', 'tiny4'], cwd);
  expect([full.code === 0, full.stderr]).toEqual([false, expect.stringMatching(/tiny4 is not empty/)]);
});

run('refuses what cannot be done, before it starts', { timeout: 60_000 }, async () => {
  const wide = await quantize(['quest-tiny', '--tokens', '0', '--no-clip']);
  expect(wide.stderr).toMatch(/320 inputs in groups of 128/);
  expect(wide.code).not.toBe(0);
  expect((await quantize(['quest-tiny', '--bits', '3'])).code).toBe(2);
  expect((await quantize(['quest-tiny', '--group', '48'])).code).toBe(2);
  expect((await quantize(['quest-tiny', '--method', 'gptq'])).stderr).toMatch(/awq, rtn/);
  const cwd = temporaryFolder();
  writeFileSync(join(cwd, 'short.txt'), 'a few words');
  expect((await quantize(['quest-tiny', '--group', '64', '--calibration', 'short.txt'], cwd)).stderr).toMatch(
    /calibration text has \d+ tokens/,
  );
  expect(readdirSync(cwd)).toEqual(['short.txt']);
});

run('leaves nothing behind when it is interrupted', { timeout: 60_000 }, async () => {
  const cwd = temporaryFolder();
  const stopped = await quest(
    ['model', 'quantize', 'quest-tiny', '--group', '64', '--tokens', '0', '--out', 'half'],
    { cwd, started: (child) => setTimeout(() => child.kill('SIGINT'), 4000) },
  );
  expect(stopped.code).toBe(130);
  expect(existsSync(join(cwd, 'half')) ? readdirSync(join(cwd, 'half')) : []).toEqual([]);
});
