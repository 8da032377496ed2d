import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hasAddon, quest, ROOT, temporaryFolder } from './spawn.js';

let folder: string;
beforeAll(() => {
  folder = temporaryFolder();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.skipIf(!hasAddon)('quest generate', { timeout: 60_000 }, () => {
  const prompt = 'It was a dark and stormy night, and the old man';

  test('streams text to stdout, and tells speed and KV share on stderr', async () => {
    const { code, stdout, stderr } = await quest(['generate', '--prompt', prompt, '--max-tokens', '12']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/\S/);
    expect(stdout.endsWith('\n')).toBe(true);
    expect(stderr).toMatch(/prefill \d+ tokens in .* tokens\/s\); decode \d+ tokens in/);
    expect(stderr).toMatch(/quest 1024 read 100.0% of the KV cache \(it never attended fewer/);
  });

  test('the same seed gives the same text, other formats the same text too', async () => {
    const sampled = [
      'generate',
      '--prompt',
      prompt,
      '--max-tokens',
      '16',
      '--temperature',
      '1',
      '--top-p',
      '0.9',
      '--quiet',
    ];
    const [a, b, c] = await Promise.all([
      quest([...sampled, '--seed', '1']),
      quest([...sampled, '--seed', '1', '--format', 'json']),
      quest([...sampled, '--seed', '2']),
    ]);
    expect(JSON.parse(b.stdout)[0].text).toBe(a.stdout.slice(0, -1));
    expect(c.stdout).not.toBe(a.stdout);
    expect(a.stderr).toBe('');
  });

  test('--compare shows both texts and where they part', async () => {
    const long = join(folder, 'prompt.txt');
    writeFileSync(long, `${'The grass is green. The sky is blue. '.repeat(40)}The old man said that`);
    const { code, stdout, stderr } = await quest([
      'generate',
      '--prompt-file',
      long,
      '--max-tokens',
      '8',
      '--budget',
      '32',
      '--compare',
      'full',
    ]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^== quest 32\n[\s\S]*\n== full\n/);
    expect(stderr).toMatch(/they part|give the same 8 tokens/);
    expect(stderr).toMatch(/^full read 100.0% of the KV cache$/m);
    expect(stderr).toMatch(/^quest 32 read \d+\.\d% of the KV cache$/m);
  });

  test('a book is refused with the length that fits, which then loses its middle', async () => {
    const book = join(folder, 'book.txt');
    const line = 'It was the best of times, it was the worst of times. ';
    writeFileSync(book, `THE BEGINNING\n${line.repeat(4000)}\nTHE END`);
    const args = ['generate', '--prompt-file', book, '--instruction', 'Which words end it?', '--dry-run'];
    const refused = await quest(args);
    expect(refused.code).toBe(2);
    const hint = /^hint: use --max-length (\d+) \(the text loses its middle\)/m.exec(refused.stderr);
    expect(hint?.[1]).toBe(String(32_768 - 128));
    const fits = await quest([...args, '--max-length', hint![1]!]);
    expect(fits.code).toBe(0);
    const cut = /^the prompt's \d+ tokens are cut to (\d+): the text loses its middle$/m.exec(fits.stderr);
    const [, prefill, steps] = /^prefill (\d+) tokens, feed (\d+) /.exec(fits.stdout) ?? [];
    expect(Number(prefill) + Number(steps)).toBe(Number(cut?.[1]));
    expect(Number(cut?.[1])).toBeLessThanOrEqual(32_640);
    expect(Number(cut?.[1])).toBeGreaterThan(32_600);
    const ends = await quest([...args.slice(0, -1), '--max-length', '100', '--max-tokens', '1']);
    expect(ends.code).toBe(0);
    expect(ends.stderr).toMatch(/are cut to (100|9\d): /);
    const tight = await quest([...args, '-i', 'Say it. '.repeat(90), '--max-length', '64']);
    expect(tight.stderr).toMatch(/the instruction alone has more than the 64 tokens/);
    expect(tight.code).toBe(2);
    const short = await quest(['generate', '--prompt', prompt, '--max-length', '64', '--dry-run']);
    expect(short.stderr).toBe('');
  });

  test('a reader that goes away is no error', async () => {
    const result = await quest(['generate', '--prompt', prompt, '--max-tokens', '400', '--quiet'], {
      started: (child) => child.stdout?.once('data', () => child.stdout?.destroy()),
    });
    expect(result.stderr).toBe('');
    expect(result.code).toBe(0);
  });

  test('Ctrl-C stops it with 130', async () => {
    const result = await quest(['generate', '--prompt', prompt, '--max-tokens', '20000'], {
      started: (child) => child.stdout?.once('data', () => child.kill('SIGINT')),
    });
    expect(result.code).toBe(130);
    expect(result.stderr).toMatch(/error: interrupted/);
  });
});

describe.skipIf(!hasAddon)('quest logits', { timeout: 60_000 }, () => {
  /** Header of a safetensors file. */
  const header = (file: string) => {
    const bytes = readFileSync(file);
    const length = Number(bytes.readBigUInt64LE(0));
    return JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<
      string,
      { dtype: string; shape: number[] } & Record<string, string>
    >;
  };

  test('writes logits of the decode steps, and the pages of selectors', async () => {
    const ids = Array.from({ length: 220 }, (_, i) => 10 + ((i * 37) % 400));
    writeFileSync(join(folder, 'ids.json'), JSON.stringify(ids));
    const run = (method: string, budget: string, out: string) =>
      quest(
        [
          'logits',
          '--ids',
          'ids.json',
          '--prompt-len',
          '200',
          '--method',
          method,
          '--budget',
          budget,
          '--skip-layers',
          '2',
          '--out',
          out,
        ],
        { cwd: folder },
      );
    const result = await run('quest', '64', 'quest.safetensors');
    expect(result.stderr).not.toMatch(/error/);
    expect(result.code).toBe(0);
    const quest64 = header(join(folder, 'quest.safetensors'));
    expect(quest64.logits).toMatchObject({ dtype: 'F32', shape: [20, 4096] });
    expect(quest64.pages).toMatchObject({ dtype: 'I32', shape: [20 * 6, 4, 4] });
    expect(quest64.__metadata__).toMatchObject({
      model: 'quest-tiny',
      method: 'quest',
      budget_tokens: '64',
      prompt_len: '200',
    });

    await run('streaming', '64', 'streaming.safetensors');
    expect(header(join(folder, 'streaming.safetensors')).pages).toBeUndefined();

    const [full, wide] = [
      await run('full', '64', 'full.safetensors'),
      await run('quest', '1024', 'wide.safetensors'),
    ];
    expect(full.code).toBe(0);
    expect(wide.stderr).toMatch(/never attended fewer tokens/);
    const data = (file: string) => {
      const bytes = readFileSync(join(folder, file));
      const start = 8 + Number(bytes.readBigUInt64LE(0));
      return bytes.subarray(start, start + 20 * 4096 * 4);
    };
    expect(data('wide.safetensors').equals(data('full.safetensors'))).toBe(true);
  });

  test('a place that cannot be written to is refused before the model runs', async () => {
    const args = ['logits', '--ids', 'ids.json', '--prompt-len', '200', '--out', 'absent/l.safetensors'];
    const { code, stderr } = await quest(args, { cwd: folder });
    expect(code).toBe(3);
    expect(stderr).toMatch(/error: cannot write absent\/l.safetensors: the folder does not exist/);
  });
});

describe('quest doctor', { timeout: 60_000 }, () => {
  test('lists machine, build and models', async () => {
    const { code, stdout } = await quest(['doctor', '--format', 'json']);
    const checks = JSON.parse(stdout) as { check: string; status: string; detail: string }[];
    const names = checks.map((c) => c.check);
    expect(names).toEqual(
      expect.arrayContaining(['node', 'cpu', 'memory', 'native runtime', 'hub cache', 'model']),
    );
    expect(code).toBe(hasAddon ? 0 : 3);
    if (!hasAddon || !existsSync(join(ROOT, 'models/quest-tiny/selfcheck.json'))) return;
    expect(checks.find((c) => c.check === 'self-check')).toMatchObject({ status: 'ok' });
  });
});

describe.runIf(hasAddon)('--device', () => {
  test('cuda:N is refused with the reason where there is no such GPU', async () => {
    const { code, stderr } = await quest(['generate', '--device', 'cuda:999', '--prompt', 'a']);
    expect(code).toBe(3);
    expect(stderr).toMatch(/^error: cuda:999 cannot be used: .+\nhint: use --device cpu/);
  });

  test('another name is refused with the names that there are', async () => {
    const { code, stderr } = await quest(['generate', '--device', 'gpu', '--prompt', 'a']);
    expect(code).toBe(2);
    expect(stderr).toContain('--device wants auto, cpu, cuda or cuda:N, got "gpu"');
  });
});
