import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { rows, small } from './small_run.js';
import { type Finished, hasAddon, temporaryFolder } from './spawn.js';

describe('output folders that cannot be used', () => {
  let place: string;
  beforeAll(() => {
    place = temporaryFolder();
  });
  afterAll(() => rmSync(place, { recursive: true, force: true }));

  const refused = (result: Finished, code: number, message: RegExp) => {
    expect(result.stderr).toMatch(message);
    expect(result.stderr.match(/^error: /gm)).toHaveLength(1);
    expect(result.stderr).toMatch(/^hint: /m);
    expect(result.stderr).not.toMatch(/^\s+at /m);
    expect(result.code).toBe(code);
    expect(result.stdout).toBe('');
  };

  test('a file in the way', async () => {
    writeFileSync(join(place, 'file'), 'precious');
    refused(await small(join(place, 'file')), 3, /is a file, not a folder/);
    refused(await small(join(place, 'file', 'below')), 3, /part of the path is a file/);
    expect(readFileSync(join(place, 'file'), 'utf8')).toBe('precious');
  });

  test('a folder of another run', async () => {
    const out = join(place, 'other');
    mkdirSync(out);
    const plan = {
      task: 'passkey',
      model: 'm',
      model_fingerprint: 'f',
      params: { context_tokens: 500 },
      cells: [],
    };
    writeFileSync(join(out, 'plan.json'), JSON.stringify(plan));
    writeFileSync(join(out, 'manifest.json'), '{}'); // results without their journal are results too
    refused(await small(out), 2, /holds another run: model fingerprint was "f"/);
    expect(readdirSync(out).sort()).toEqual(['manifest.json', 'plan.json']);
  });

  test.each([
    '{}',
    '5',
    'null',
    '[]',
    '{"task":',
    '{"task":"passkey","model":"m","model_fingerprint":"f","params":{}}',
  ])('a plan.json that is no plan: %s', async (text) => {
    const out = join(place, `plan-${Buffer.from(text).toString('hex')}`);
    mkdirSync(out);
    writeFileSync(join(out, 'plan.json'), text);
    refused(await small(out), 3, /plan.json is not a plan \(/);
    expect(readdirSync(out)).toEqual(['plan.json']);
    expect(readFileSync(join(out, 'plan.json'), 'utf8')).toBe(text);
  });

  test('a folder in use by a living run', async () => {
    const out = join(place, 'locked');
    mkdirSync(out);
    const started = existsSync('/proc/self/stat')
      ? readFileSync('/proc/self/stat', 'utf8').replace(/.*\) /, '').split(' ')[19]
      : '';
    const { hostname } = await import('node:os');
    writeFileSync(join(out, 'run.lock'), JSON.stringify({ pid: process.pid, host: hostname(), started }));
    refused(await small(out), 3, new RegExp(`in use by another run \\(process ${process.pid}\\)`));
  });

  test('a journal that something else has changed', async () => {
    const out = join(place, 'changed');
    mkdirSync(out);
    writeFileSync(join(out, 'journal.jsonl'), 'not a row\nnor this\n');
    refused(await small(out), 3, /line 1 of .*journal.jsonl is not a row/);
    expect(readdirSync(out)).toEqual(['journal.jsonl']);
    expect(readFileSync(join(out, 'journal.jsonl'), 'utf8')).toBe('not a row\nnor this\n');
  });

  const isRoot = process.getuid?.() === 0;
  const mount = (target: string, options: string) =>
    spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', target]).status === 0;

  test.runIf(isRoot)('a read-only file system, and a full one', { timeout: 120_000 }, async (context) => {
    const readOnly = join(place, 'ro');
    const tiny = join(place, 'tiny');
    mkdirSync(readOnly);
    mkdirSync(tiny);
    if (!mount(readOnly, 'ro,size=64k')) context.skip('tmpfs cannot be mounted here');
    try {
      refused(await small(readOnly), 3, /read-only/);
      refused(await small(join(readOnly, 'below')), 3, /read-only/);
      if (!hasAddon || !mount(tiny, 'size=16k')) return;
      try {
        refused(await small(tiny), 3, /the disk is full/);
        // What was written is whole rows.
        for (const line of rows(tiny)) expect(() => JSON.parse(line)).not.toThrow();
      } finally {
        spawnSync('umount', [tiny]);
      }
    } finally {
      spawnSync('umount', [readOnly]);
    }
  });

  test.runIf(hasAddon && process.platform === 'linux')(
    'a file size limit in the middle of the run',
    { timeout: 120_000 },
    async () => {
      const out = join(place, 'limited');
      const result = await small(out, { wrapper: ['bash', '-c', 'ulimit -f 8; exec "$@"', '-'] });
      refused(result, 3, /cannot write .*journal.jsonl: the file would be larger/);
      const kept = rows(out);
      for (const line of kept) expect(() => JSON.parse(line)).not.toThrow();
      const resumed = await small(out);
      expect(resumed.code).toBe(0);
      expect(rows(out).slice(0, kept.length)).toEqual(kept);
    },
  );
});
