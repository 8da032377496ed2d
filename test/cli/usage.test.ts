import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { quest, ROOT, temporaryFolder } from './spawn.js';

let folder: string;
beforeAll(() => {
  folder = temporaryFolder();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** One error, one hint, no stack trace, nothing on stdout. */
async function refused(args: string[], code: number, message: RegExp, hint: RegExp): Promise<void> {
  const result = await quest(args, { cwd: folder });
  expect(result.stderr).toMatch(message);
  expect(result.stderr).toMatch(hint);
  expect(result.stderr.match(/^error: /gm)).toHaveLength(1);
  expect(result.stderr.match(/^hint: /gm)).toHaveLength(1);
  expect(result.stderr).not.toMatch(/^\s+at /m);
  expect(result.stdout).toBe('');
  expect(result.code).toBe(code);
}

describe('help and version', () => {
  test('quest --help names all commands', async () => {
    const { code, stdout } = await quest(['--help']);
    expect(code).toBe(0);
    for (const name of ['passkey', 'generate', 'logits', 'tokenize', 'doctor'])
      expect(stdout).toContain(name);
  });

  test('quest COMMAND --help names every option, hidden ones not', async () => {
    const { code, stdout } = await quest(['doctor', '--help']);
    expect(code).toBe(0);
    expect(stdout).toContain('--format');
    expect(stdout).not.toContain('write-selfcheck');
  });

  test('quest --version', async () => {
    expect((await quest(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test('quest alone prints help and fails', async () => {
    const { code, stdout } = await quest([]);
    expect(code).toBe(2);
    expect(stdout).toContain('Usage: quest');
  });

  test('--verbose shows code and stack', async () => {
    const { code, stderr } = await quest(['passkey', '--budget', '8', '--verbose']);
    expect(code).toBe(2);
    expect(stderr).toMatch(/^code: E_BUDGET$/m);
    expect(stderr).toMatch(/^\s+at /m);
  });
});

describe('usage errors', () => {
  test.each<[string[], RegExp, RegExp]>([
    [['paskey'], /unknown command 'paskey'/, /did you mean passkey\?/],
    [['passkey', '--bugdet', '3'], /unknown option '--bugdet'/, /did you mean --budget\?/],
    [['passkey', '--prompt', 'x'], /unknown option '--prompt'/, /option of quest generate/],
    [['--seed', '3', 'passkey'], /unknown option '--seed'/, /options stand after the command/],
    [['passkey', '--budget'], /argument missing/, /quest passkey --help/],
    [['tokenize', 'a', 'b'], /too many arguments/, /quest tokenize --help/],
    [['passkey', '--method', 'qwest'], /--method wants one of full, quest/, /did you mean quest\?/],
    [['passkey', '--budget', '64,64'], /names 64 twice/, /once/],
    [
      ['passkey', '--budget', '8'],
      /a budget of 8 tokens is too small for quest: one page holds 16/,
      /--budget 16 or more/,
    ],
    [
      ['passkey', '--budget', '4', '--method', 'streaming'],
      /4 sink tokens leave no room/,
      /--budget 5 or more/,
    ],
    [['passkey', '--method', 'full', '--budget', '64'], /full has no budget/, /--method full,quest/],
    [['passkey', '--skip-layers', '8'], /none of the model's 8 layers/, /--skip-layers 7 or less/],
    [
      ['passkey', '--context', '32760'],
      /exceed the 32768 that quest-tiny supports/,
      /--context 32758 or less/,
    ],
    [['passkey', '--context', '20'], /too short for the passkey prompt/, /--context \d+ or more/],
    [['passkey', '--samples', '101'], /no depths for 101 samples/, /--depths/],
    [['passkey', '--page-size', '12', '--dry-run'], /power of two from 1 to 128, got "12"/, /use 8 or 16/],
    [['passkey', '--page-size', '256', '--dry-run'], /power of two/, /use 128 or less/],
    [['passkey', '--threads', '1025', '--dry-run'], /from 0 to 1024/, /use 1024 or less/],
    [
      ['generate', '--prompt', 'a', '--top-p', '0', '--dry-run'],
      /--top-p wants a number above 0, up to 1, got "0"/,
      /more than 0/,
    ],
    [['generate', '--prompt', 'a', '--top-p', '1.1'], /up to 1, got "1.1"/, /use 1 or less/],
    [['generate'], /there is no prompt/, /--prompt-file/],
    [['generate', '--prompt', 'a', '--prompt-file', 'b'], /both --prompt and --prompt-file/, /one of/],
    [
      ['generate', '--prompt-file', 'absent.txt'],
      /cannot read absent.txt: there is no such file/,
      /--prompt-file/,
    ],
    [['generate', '--prompt', 'a', '--compare', 'quest'], /is the method itself/, /another one/],
    [['generate', '--prompt', 'a', '--max-tokens', '99999'], /exceed the 32768/, /fewer --max-tokens/],
    [['logits', '--out', 'x.safetensors'], /needs --ids/, /--ids FILE.json/],
    [
      ['tokenize', '--decode', '[1, 4096]'],
      /id 4096 at place 1 of the argument is outside the vocabulary/,
      /quest tokenize/,
    ],
    [['tokenize', '--decode', '[1, -1]'], /id -1 at place 1/, /./],
    [['tokenize', '--decode', '[1.5]'], /id 1.5 at place 0/, /./],
    [['tokenize', '--decode', 'hello'], /is not JSON/, /array of token ids/],
    [['tokenize', '--decode', '{"a": 1}'], /holds no array/, /./],
    [['tokenize', '--file', 'x', 'text'], /both a text and --file/, /one of them/],
  ])('%j', (args, message, hint) => refused(args, 2, message, hint));

  test('a wrong number', async () => {
    const { code, stderr } = await quest(['doctor', '--threads', 'many']);
    expect(stderr).toBe(
      'error: --threads wants a whole number from 0 to 1024, got "many"\nhint: write it in digits, e.g. 0\n',
    );
    expect(code).toBe(2);
  });
});

describe('files that do not fit', () => {
  test('ids outside the vocabulary, or too few', async () => {
    const logits = (file: string, n: number) => [
      'logits',
      '--ids',
      file,
      '--prompt-len',
      String(n),
      '--out',
      'l.safetensors',
    ];
    writeFileSync(join(folder, 'high.json'), '[1, 2, 5000]');
    writeFileSync(join(folder, 'few.json'), '[1, 2, 3]');
    await refused(
      logits('high.json', 1),
      2,
      /id 5000 at place 2 of high.json is outside the vocabulary \(0..4095\)/,
      /same model/,
    );
    await refused(
      logits('few.json', 3),
      2,
      /--prompt-len 3 leaves no decode steps of the 3 ids/,
      /--prompt-len 2 or less/,
    );
    writeFileSync(join(folder, 'one.json'), '[1]');
    await refused(logits('one.json', 1), 2, /leaves no decode steps of the 1 ids/, /at least two ids/);
    expect(readdirSync(folder)).not.toContain('l.safetensors');
  });

  describe('a place that quest logits cannot write to', () => {
    const logits = (out: string, ...more: string[]) => {
      writeFileSync(join(folder, 'ids.json'), '[1, 2, 3, 4]');
      return ['logits', '--ids', 'ids.json', '--prompt-len', '2', '--budget', '16', '--out', out, ...more];
    };

    test.skipIf(process.platform === 'win32')('a FIFO stays one', async () => {
      const fifo = join(folder, 'fifo');
      spawnSync('mkfifo', [fifo]);
      await refused(logits(fifo), 3, /fifo is not a regular file/, /--out the name of a file/);
      expect(statSync(fifo).isFIFO()).toBe(true);
    });

    test('a folder, and a folder that is not there', async () => {
      mkdirSync(join(folder, 'taken'));
      await refused(logits('taken'), 3, /a folder of that name is in the way/, /another place/);
      await refused(logits('absent/l.safetensors'), 3, /the folder does not exist/, /another place/);
    });

    test.runIf(process.getuid?.() === 0)('a read-only folder, before the model runs', async (context) => {
      const place = join(folder, 'ro');
      mkdirSync(place);
      if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'ro,size=64k', 'tmpfs', place]).status !== 0)
        context.skip('tmpfs cannot be mounted here');
      try {
        const out = join(place, 'l.safetensors');
        const reason = /^error: cannot write \S*ro\/l\.safetensors: the file system is read-only$/m;
        await refused(logits(out), 3, reason, /another place/);
        await refused(logits(out, '--dry-run'), 3, reason, /another place/);
      } finally {
        spawnSync('umount', [place]);
      }
    });
  });

  test('a config file with an unknown key, a wrong value, broken YAML, or absent', async () => {
    const config = (text: string) => {
      writeFileSync(join(folder, 'run.yaml'), text);
      return ['passkey', '--dry-run', '--config', 'run.yaml'];
    };
    await refused(config('bugdet: 64\n'), 2, /run.yaml has an unknown key "bugdet"/, /did you mean budget\?/);
    await refused(config('context: long\n'), 2, /context in run.yaml is "long"/, /--context/);
    await refused(config('a: [\n'), 2, /not valid YAML/, /key: value/);
    await refused(config('context: .inf\n'), 2, /context in .* is Infinity/, /--help/);
    const tagged = await quest(config('bugdet: !unknown 64\n'), { cwd: folder });
    expect(tagged.stderr).toMatch(/^error: .*unknown key "bugdet"\nhint: did you mean budget\?\n$/);
    await refused(
      ['passkey', '--config', 'absent.yaml'],
      2,
      /cannot read the config file absent.yaml/,
      /--config/,
    );
    const good = await quest(config('context: 700\nbudget: [32, 64]\nmethod: full,quest\nsamples: 2\n'), {
      cwd: folder,
    });
    expect(good.stdout).toMatch(/full, quest 32, quest 64/);
    const won = await quest(
      [...config('context: 700\nbudget: [32, 64]\nsamples: 2\n'), '--budget', '48', '--method', 'tova'],
      { cwd: folder },
    );
    expect(won.stdout).toMatch(/^cells +tova 48$/m);
  });

  test('a model that is not there, or has no tokenizer', async () => {
    await refused(['passkey', '--model', 'no-such-model'], 2, /no-such-model/, /./);
    const bare = join(folder, 'bare');
    mkdirSync(bare);
    for (const file of ['config.json', 'model.safetensors'])
      cpSync(join(ROOT, 'models/quest-tiny', file), join(bare, file));
    const result = await quest(['tokenize', '--model', bare, 'hello']);
    expect(result.stderr).toMatch(/^error: .*tokenizer/m);
    expect(result.stderr).toMatch(/^hint: /m);
    expect(result.code).toBeGreaterThanOrEqual(2);
  });
});

describe('output that cannot be written', () => {
  test.runIf(existsSync('/dev/full'))('stdout on a full device is one error', async () => {
    for (const args of [['tokenize', 'hello'], ['--help'], ['passkey', '--dry-run']]) {
      const full = ['bash', '-c', 'exec "$@" > /dev/full', '-'];
      const result = await quest(args, { cwd: folder, wrapper: full });
      expect(result.stderr).toBe(
        'error: cannot write standard output: the disk is full\nhint: send it to a place with room\n',
      );
      expect(result.code).toBe(3);
    }
  });

  test('a full stderr changes neither result nor exit code', async () => {
    const noNotes = ['bash', '-c', 'exec "$@" 2> /dev/full', '-'];
    expect(await quest(['tokenize', 'hello'], { wrapper: noNotes })).toEqual(
      await quest(['tokenize', 'hello']),
    );
    expect((await quest(['tokenise', 'hello'], { wrapper: noNotes })).code).toBe(2);
  });
});

describe('plans', () => {
  test('--dry-run says what would be done, and does nothing', async () => {
    const cwd = temporaryFolder();
    const { code, stdout, stderr } = await quest(
      ['passkey', '--context', '1000', '--samples', '3', '--dry-run'],
      { cwd },
    );
    expect(code).toBe(0);
    expect(stderr).toBe('');
    expect(stdout).toMatch(/3 samples x 21 cells/);
    expect(stdout).toMatch(/^rows +63$/m);
    expect(stdout).toMatch(/^memory +about \d+ MB \(weights/m);
    expect(stdout).toMatch(/^output +runs\/passkey-[0-9a-f]{8}$/m);
    expect(readdirSync(cwd)).toEqual([]);
  });

  test('what cannot fit into memory is refused with the numbers', async () => {
    await refused(
      ['passkey', '--dry-run', '--max-memory', '10M'],
      3,
      /needs about \d+ MB \(weights 15 MB, KV .*; --max-memory allows 10 MB/,
      /shorter context/,
    );
  });

  test('quest logits counts the pages that come back', async () => {
    const ids = Array.from({ length: 20_000 }, (_, i) => i % 4000);
    writeFileSync(join(folder, 'long.json'), JSON.stringify(ids));
    const workspaceMB = async (method: string) => {
      const { stdout } = await quest(
        [
          ...['logits', '--ids', 'long.json', '--prompt-len', '10', '--method', method, '--budget', '4096'],
          ...['--out', 'l.safetensors', '--dry-run'],
        ],
        { cwd: folder },
      );
      const [, size, unit] = /workspace ([\d.]+) (MB|GB)/.exec(stdout)!;
      return Number(size) * (unit === 'GB' ? 1024 : 1);
    };
    // Twice 19,990 steps x 6 sparse layers x 4 heads x 256 pages of 4 bytes; sizes are printed to 0.1 GB.
    const pagesMB = (2 * 19_990 * 6 * 4 * 256 * 4) / 2 ** 20;
    const more = (await workspaceMB('quest')) - (await workspaceMB('full'));
    expect(Math.abs(more - pagesMB)).toBeLessThan(60);
  });

  test('the default folder does not depend on the order of methods and budgets', async () => {
    const output = async (method: string, budget: string) => {
      const { stdout } = await quest(
        ['passkey', '--context', '600', '--method', method, '--budget', budget, '--dry-run'],
        { cwd: folder },
      );
      return /^output +(.*)$/m.exec(stdout)![1];
    };
    expect(await output('quest,full', '64,32')).toBe(await output('full,quest', '32,64'));
    expect(await output('quest', '64,32')).not.toBe(await output('full,quest', '32,64'));
  });

  test('the presets of the paper are valid', async () => {
    for (const preset of ['table1-10k', 'table1-100k', 'demo']) {
      const args = [
        'passkey',
        '--config',
        join(ROOT, `configs/${preset}.yaml`),
        '--model',
        'quest-tiny',
        '--context',
        '800',
        '--samples',
        '1',
        '--dry-run',
      ];
      expect((await quest(args)).code).toBe(0);
    }
  });
});

describe('tokenize', () => {
  const text = 'Hello there!  Zwölf Boxkämpfer\n\tjagen 12345 €.';

  test('argument, file and pipe give the same ids, and decode to the same text', async () => {
    writeFileSync(join(folder, 'text.txt'), text);
    const [argument, file, pipe] = await Promise.all([
      quest(['tokenize', text]),
      quest(['tokenize', '--file', join(folder, 'text.txt')]),
      quest(['tokenize'], { stdin: text }),
    ]);
    expect(argument.stdout).toMatch(/^\[\d+(,\d+)*\]\n$/);
    expect(file.stdout).toBe(argument.stdout);
    expect(pipe.stdout).toBe(argument.stdout);
    expect((await quest(['tokenize', '--decode'], { stdin: argument.stdout })).stdout).toBe(text);
  });

  test('--bos and --no-bos', async () => {
    const ids = async (...flags: string[]) =>
      JSON.parse((await quest(['tokenize', 'Hello', ...flags])).stdout) as number[];
    const [plain, bos, none] = [await ids(), await ids('--bos'), await ids('--no-bos')];
    expect(bos.slice(1)).toEqual(none);
    expect([bos, none]).toContainEqual(plain);
  });
});
