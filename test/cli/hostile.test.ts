/** Inputs that nobody means well with: each is one error and one hint, and nothing is left behind. */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hasAddon, quest, temporaryFolder } from './spawn.js';

let folder: string;

const row = {
  ...{ input: 'Who?', context: 'A text. '.repeat(200), answers: ['Nobody'], length: 400, language: 'en' },
  ...{ all_classes: null, dataset: 'qasper', _id: 'a1' },
};

/** One task's file in a data folder of its own. */
function rows(name: string, ...lines: (string | Buffer)[]): void {
  mkdirSync(join(folder, name));
  const parts = lines.flatMap((line) => [Buffer.from(line), Buffer.from('\n')]);
  writeFileSync(join(folder, name, 'qasper.jsonl'), Buffer.concat(parts));
}

beforeAll(() => {
  folder = temporaryFolder();
  const file = (name: string, content: string | Buffer) => writeFileSync(join(folder, name), content);
  const good = JSON.stringify(row);
  rows('torn', good, '{"input":');
  rows('nul', '\0\0\0');
  rows('latin', Buffer.from(good.replace('Who?', 'Qui\xe9?'), 'latin1'));
  rows('endless', good.replace('400', '1e999'));
  rows('other', JSON.stringify({ ...row, dataset: 'trec' }));
  file('text.txt', 'word '.repeat(300));
  file('nul.txt', 'a\0b '.repeat(300));
  file('latin.txt', Buffer.from('caf\xe9 '.repeat(300), 'latin1'));
  file('latin.yaml', Buffer.from('model: caf\xe9\n', 'latin1'));
  file('date.yaml', 'task: 2024-01-01\n');
  file('huge.yaml', 'task: passkey\nmodel: quest-tiny\ncontext: 1e30\n');
  file('table.csv', 'a,b\n1\n');
  for (const name of ['folder', 'plan-folder/plan.json', 'predictions-folder/predictions.jsonl'])
    mkdirSync(join(folder, name), { recursive: true });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const everything = () => readdirSync(folder, { recursive: true }).sort();

async function refused(line: string, code: number, message: RegExp): Promise<void> {
  const before = everything();
  const env = { QUEST_OFFLINE: '1', HF_HOME: join(folder, 'hub') };
  const result = await quest(line.split(' '), { cwd: folder, env });
  expect(result.stderr).toMatch(message);
  expect(result.stderr.match(/^error: /gm)).toHaveLength(1);
  expect(result.stderr.match(/^hint: /gm)).toHaveLength(1);
  expect(result.stderr).not.toMatch(/^\s+at |ENO|EIS|EACC/m);
  expect(result.code).toBe(code);
  expect(everything()).toEqual(before);
}

describe('files that cannot be what they are taken for', () => {
  test.each<[string, number, RegExp]>([
    ['longbench --task qasper --data torn', 3, /torn\/qasper.jsonl, line 2: not JSON/],
    ['longbench --task qasper --data nul', 3, /line 1: not JSON/],
    ['longbench --task qasper --data latin', 3, /line 1: not UTF-8/],
    ['longbench --task qasper --data endless', 3, /length is Infinity; wanted: a whole number/],
    ['longbench --task qasper --data other', 3, /dataset is "trec"; wanted: "qasper"/],
    ['longbench --task qasper --data text.txt', 2, /text.txt is a file, not a folder of datasets/],
    ['data list --data text.txt', 2, /text.txt is a file/],
    ['data verify --data text.txt', 2, /text.txt is a file|cannot write/],
    ['longbench --sample --task qasper --out plan-folder', 3, /cannot read plan-folder\/plan.json: it is a/],
    ['ppl --text nul.txt', 2, /nul.txt holds NUL bytes, so it is no text/],
    ['ppl --text latin.txt', 2, /latin.txt is not text in UTF-8/],
    ['ppl --text folder', 2, /cannot read folder: it is a folder/],
    ['ppl --text text.txt/x', 2, /part of the path is a file, not a folder/],
    ['generate --prompt-file latin.txt', 2, /latin.txt is not text in UTF-8/],
    ['generate --prompt-file nul.txt', 2, /holds NUL bytes/],
    ['passkey --config folder', 2, /cannot read the config file folder: it is a folder/],
    ['passkey --config latin.yaml', 2, /config file latin.yaml is not text in UTF-8/],
    ['sweep folder', 2, /cannot read the sweep folder: it is a folder/],
    ['sweep absent.yaml', 2, /cannot read the sweep absent.yaml: there is no such file/],
    ['sweep date.yaml', 2, /there is no task "2024-01-01"/],
    ['sweep huge.yaml', 2, /context in huge.yaml is 1e\+30/],
    ['iso folder --attention absent.csv', 2, /cannot read absent.csv: there is no such file/],
    ['iso folder --attention folder', 2, /cannot read folder: it is a folder/],
    ['iso folder --attention table.csv', 2, /table.csv is not a CSV table/],
    ['score predictions-folder', 3, /predictions.jsonl: it is a folder/],
    ['score plan-folder', 3, /cannot read plan-folder\/plan.json: it is a folder/],
    ['report plan-folder', 2, /plan.json is no file|no finished run/],
    ['data pull pg19/../../etc --dry-run', 2, /has no book "..\/..\/etc"/],
    ['data verify longbench/../x', 2, /has no file "..\/x"/],
  ])('quest %s', (line, code, message) => refused(line, code, message));
});

describe('a model that is not there has one exit code in every command', () => {
  test.each([
    'passkey --model',
    'ppl --model',
    'model info',
    'model quantize',
    'model verify',
    'tokenize x --model',
  ])('quest %s', async (line) => {
    await refused(`${line} org/absent`, 3, /org\/absent is not/);
  });
});

describe.runIf(hasAddon)('a run that is refused after its folder was made takes it back', () => {
  test('with the parents that it made, and nothing of others', async () => {
    const run = 'analyze sparsity --text text.txt --tokens 20000';
    await refused(run, 2, /text.txt has only \d+ of the 20001 tokens/);
    await refused(`${run} --out new/deep/run`, 2, /has only/);
    await refused(`${run} --out folder`, 2, /has only/);
  });
});
