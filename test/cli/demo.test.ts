import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { hasAddon, quest, ROOT, temporaryFolder } from './spawn.js';

const SHORT = ['demo', '--context', '900', '--max-tokens', '21', '--budget', '64'];
/** util-linux's `script`, which gives a command a terminal. */
const hasScript = spawnSync('script', ['-qec', 'true', '/dev/null']).status === 0;

describe.skipIf(!hasAddon)('quest demo', { timeout: 60_000 }, () => {
  test('without a terminal: one text after the other, with speed and KV share of each', async () => {
    const { code, stdout, stderr } = await quest(SHORT);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^== full\n[\s\S]+\n== quest 64\n[\s\S]+\n$/);
    expect(stdout).not.toContain('\u001b');
    expect(stderr).toMatch(/^quest-tiny on \S+; prefill 900 tokens in/m);
    expect(stderr).toMatch(/^full: 21 tokens in .* tokens\/s\)$/m);
    expect(stderr).toMatch(/^full read 100\.0% of the KV cache$/m);
    expect(stderr).toMatch(/^quest 64 read \d\d\.\d% of the KV cache$/m);
  });

  test('turns give what one run of each method gives', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'p.txt'), `${'The grass is green. The sky is blue. '.repeat(60)}The old man`);
    const prompt = ['--prompt-file', join(folder, 'p.txt'), '--budget', '64', '--format', 'json'];
    const turns = await quest(['demo', ...prompt, '--max-tokens', '21']);
    const whole = await quest(['generate', ...prompt, '--max-tokens', '21', '--compare', 'full']);
    const [full, sparse] = JSON.parse(turns.stdout);
    const [wantedSparse, wantedFull] = JSON.parse(whole.stdout);
    expect(full).toMatchObject({ method: 'full', tokens: 21, kv_read_pct: 100, text: wantedFull.text });
    expect(sparse).toMatchObject({ method: 'quest', budget_tokens: 64, text: wantedSparse.text });
    expect(sparse.kv_read_pct).toBeLessThan(60);
    expect(full.tokens_per_s).toBeGreaterThan(0);
  });

  test.skipIf(!hasScript)('on a terminal: columns side by side that are drawn in place', () => {
    const command = ['stty cols 90 rows 20;', process.execPath, 'bin/quest.js', ...SHORT].join(' ');
    const { stdout, status } = spawnSync('script', ['-qec', command, '/dev/null'], {
      cwd: ROOT,
      encoding: 'utf8',
      env: { ...process.env, TERM: 'xterm', NO_COLOR: '1' },
    });
    expect(status).toBe(0);
    expect(stdout).toMatch(/full +│ quest 64/);
    expect(stdout).toMatch(/[\d.]+ tokens\/s, 21 tokens, done +│ [\d.]+ tokens\/s, 21 tokens, done/);
    // The cursor comes back, and nothing is coloured.
    expect(stdout.lastIndexOf('\u001b[?25h')).toBeGreaterThan(stdout.lastIndexOf('\u001b[?25l'));
    // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences are what is looked for
    expect(stdout).not.toMatch(/\u001b\[[0-9;]*m/);
    const dumb = spawnSync('script', ['-qec', command, '/dev/null'], {
      cwd: ROOT,
      encoding: 'utf8',
      env: { ...process.env, TERM: 'dumb' },
    });
    expect(dumb.stdout).toMatch(/== full\r?\n/);
  });

  test('Ctrl-C stops it with 130', async () => {
    const result = await quest(['demo', '--context', '900', '--max-tokens', '20000'], {
      started: (child) => child.stderr?.once('data', () => setTimeout(() => child.kill('SIGINT'), 300)),
    });
    expect(result.code).toBe(130);
  });

  test('a dry run computes nothing', async () => {
    const { code, stdout } = await quest(['demo', '--dry-run']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^prefill 16000 tokens, then at most 128 steps of each of full and quest 256$/m);
  });

  test.each<[string[], RegExp, RegExp]>([
    [['--method', 'full'], /the demo shows full beside another method/, /--method/],
    [['--prompt', 'x', '--context', '500'], /--context is the length of the built-in text/, /one of them/],
    [['--prompt', 'x', '--max-tokens', '40000'], /exceed the 32768/, /--max-tokens/],
  ])('%j is refused', async (args, message, hint) => {
    const { code, stderr } = await quest(['demo', ...args]);
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(hint);
  });
});
