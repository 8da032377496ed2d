import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { escapeHtml, renderHtml } from '../../src/report/html.js';
import { parseCsv, parseMarkdownTable } from '../../src/report/html-csv.js';
import { runNotes, runTitles, runWarnings } from '../../src/report/html-facts.js';
import { renderReportMarkdown } from '../../src/report/html-markdown.js';
import { readRun } from '../../src/report/html-run.js';
import { readSweep } from '../../src/report/html-sweep.js';
import { frontText, markFront, paretoPanels } from '../../src/report/pareto.js';
import { renderCsv, renderMarkdown } from '../../src/report/table.js';

const EVIL = `<script>alert("x")</script><img src=x onerror='y'>`;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'quest-report-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Parts {
  'plan.json': string;
  'manifest.json': string;
  'table.csv': string;
  'table.md': string;
  [figure: string]: string;
}

const manifest = (model = 'm', command = 'quest passkey') => ({
  command,
  options: { context: { value: 600, source: 'command line' }, seed: { value: 0, source: 'default' } },
  model: { name: model, fingerprint: 'f00d' },
  runs: [
    {
      started: '2026-01-02T03:04:05.000Z',
      seconds: 12.5,
      rows: { computed: 3, reused: 0 },
      environment: { quest: '0.1.0', commit: 'abc', node: 'v20', device: 'cpu', simd: 'avx2', threads: 2 },
    },
  ],
});

const CSV = `method,budget_tokens,context_tokens,accuracy_pct,kv_read_pct,never_sparse_samples,paper_accuracy_pct
full,,600,100.0,100.00,0,
quest,32,600,99.0,10.00,0,65
quest,900,600,99.5,90.00,2,
h2o,32,600,1.0,12.00,0,
`;
const MD =
  '|accuracy %, budget:| 32|all|\n|---|--:|--:|\n|Full||100|\n|Quest|99||\n|  paper|65||\n|H2O|1||\n';
const SVG = '<svg xmlns="http://www.w3.org/2000/svg"><text>hello</text></svg>\n';

const parts = (changes: Partial<Parts> = {}): Parts => ({
  'plan.json': JSON.stringify({ task: 'passkey', params: { context_tokens: 600, samples: 1 } }),
  'manifest.json': JSON.stringify(manifest()),
  'table.csv': CSV,
  'table.md': MD,
  'accuracy.svg': SVG,
  ...changes,
});

let counter = 0;
function makeRun(changes: Partial<Parts> = {}): string {
  const path = join(folder, `run-${counter++}`);
  mkdirSync(path);
  for (const [name, text] of Object.entries(parts(changes))) writeFileSync(join(path, name), text);
  return path;
}

describe('tables read back', () => {
  test('what renderCsv wrote', () => {
    const rows = [
      ['a,b', 'say "x"'],
      ['', 'two\nlines'],
      ['', ''],
      ['z', ''],
    ];
    const text = renderCsv({ columns: [{ key: 'one' }, { key: 'two' }], rows });
    expect(parseCsv(text)).toEqual({ columns: ['one', 'two'], rows });
    expect(parseCsv(text.trimEnd())?.rows).toEqual(rows);
    expect(parseCsv('a,b\r\n1,2\r\n')).toEqual({ columns: ['a', 'b'], rows: [['1', '2']] });
  });

  test.each(['', 'a,b\n1\n', 'a,b\n1,2,3\n', 'a,a\n1,2\n', 'a,b\n"1,2\n', 'a,b\n"1"x,2\n', 'a\n1"2\n'])(
    'refuses %j',
    (text) => expect(parseCsv(text)).toBeUndefined(),
  );

  test('what renderMarkdown wrote', () => {
    const columns = [{ key: 'name' }, { key: 'n', align: 'right' as const }];
    const text = `${renderMarkdown({ columns, rows: [['a|b', 1]] })}\nnote\n`;
    expect(parseMarkdownTable(text)).toEqual({
      columns: ['name', 'n'],
      rows: [['a|b', '1']],
      right: [false, true],
    });
    expect(parseMarkdownTable('nothing here')).toBeUndefined();
    expect(parseMarkdownTable('|a|b|\n|---|--:|\n|1|\n')).toBeUndefined();
  });
});

describe('the Pareto front', () => {
  const point = (kvReadPct: number, score: number) => ({
    method: 'quest',
    budgetTokens: kvReadPct,
    kvReadPct,
    score,
  });
  const front = (points: ReturnType<typeof point>[], lower = false) =>
    markFront(points, lower).map((p) => p.front);

  test('keeps what nothing beats, equal points too', () => {
    const points = [point(10, 50), point(20, 50), point(20, 60), point(20, 60), point(5, 10), point(5, 9)];
    expect(front(points)).toEqual([true, false, true, true, true, false]);
    expect(front([point(10, 7), point(20, 8), point(30, 6)], true)).toEqual([true, false, true]);
  });

  test('of a run', () => {
    const [panel] = paretoPanels([readRun(makeRun())]);
    expect(panel?.title).toBe('m: passkey, 600 tokens');
    expect(frontText(panel!)).toBe(
      'quest 32 (10.0% read, 99), quest 900 (90.0% read, 99.5), full (100.0% read, 100)',
    );
  });

  test('runs of one model and task share a panel, others do not', () => {
    const other = makeRun({ 'manifest.json': JSON.stringify(manifest('n')) });
    const runs = [makeRun(), makeRun(), other].map(readRun);
    expect(paretoPanels(runs).map((panel) => panel.points.length)).toEqual([4, 4]);
  });

  test('of other samples, seeds or checkpoints is another one, named by what differs', () => {
    const plan = (params: object) =>
      JSON.stringify({ task: 'passkey', params: { context_tokens: 600, ...params } });
    const table = (samples: number) =>
      CSV.replace('method,', 'samples,method,')
        .replaceAll('\n', `\n${samples},`)
        .slice(0, -`${samples},`.length);
    const retrained = { ...manifest(), model: { name: 'm', fingerprint: 'beef' } };
    const runs = [
      makeRun({ 'plan.json': plan({ samples: 1, seed: 0 }), 'table.csv': table(1) }),
      makeRun({ 'plan.json': plan({ samples: 2, seed: 0 }), 'table.csv': table(2) }),
      makeRun({ 'plan.json': plan({ samples: 2, seed: 1 }), 'table.csv': table(2) }),
      makeRun({
        'plan.json': plan({ samples: 2, seed: 1 }),
        'table.csv': table(2),
        'manifest.json': JSON.stringify(retrained),
      }),
    ].map(readRun);
    expect(paretoPanels(runs).map(({ title, points }) => [title, points.length])).toEqual([
      ['m: passkey, 600 tokens, 1 sample', 4],
      ['m: passkey, 600 tokens, 2 samples, model f00d, seed 0', 4],
      ['m: passkey, 600 tokens, 2 samples, model f00d, seed 1', 4],
      ['m: passkey, 600 tokens, 2 samples, model beef, seed 1', 4],
    ]);
  });

  test('of one LongBench task is shared by runs of it, whatever else they had; not by shorter prompts', () => {
    const run = (tasks: string[], max_length: number) =>
      makeRun({
        'plan.json': JSON.stringify({
          task: 'longbench',
          params: {
            data: 'sample',
            tasks,
            rows: tasks.map(() => 2),
            data_hash: tasks.map((t) => `#${t}`),
            max_length,
          },
        }),
        'table.csv': `task,method,budget_tokens,bucket,samples,score,metric,kv_read_pct,data\n${tasks.map((t) => `${t},full,,all,2,50,F1,100,sample\n${t},quest,64,all,2,${tasks.length},F1,30,sample\n`).join('')}`,
      });
    const runs = [run(['qasper'], 900), run(['gov_report', 'qasper'], 900), run(['qasper'], 500)].map(
      readRun,
    );
    expect(paretoPanels(runs).map(({ title, points }) => [title, points.length])).toEqual([
      ['m: sample, qasper, 2 samples, prompts of at most 900 tokens', 3],
      ['m: sample, gov_report, 2 samples', 2],
      ['m: sample, qasper, 2 samples, prompts of at most 500 tokens', 2],
    ]);
  });
});

describe('warnings', () => {
  test('cells that were the same as full', () => {
    expect(runWarnings(readRun(makeRun()))).toEqual([
      expect.stringMatching(/^Never sparse: quest 900 never/),
    ]);
  });

  test('the built-in sample and the training book', () => {
    const sample = makeRun({ 'table.csv': 'method,data\nfull,sample\n' });
    expect(runWarnings(readRun(sample))[0]).toMatch(/^SAMPLE/);
    const book = { ...manifest(), text: { dataset: 'moby-dick', title: "a book of PG-19's training split" } };
    expect(runWarnings(readRun(makeRun({ 'manifest.json': JSON.stringify(book) })))[0]).toMatch(
      /^Training book/,
    );
  });

  test('a run without values of the paper says so', () => {
    expect(runNotes(readRun(makeRun()))).toEqual([]);
    const none = makeRun({ 'table.csv': 'method,paper_accuracy_pct\nfull,\n' });
    expect(runNotes(readRun(none))[0]).toMatch(/No value of the paper stands beside: its Table 1/);
  });
});

const page = (paths: string[], title = 'Quest report') => ({
  title,
  runs: paths.map(readRun),
  panels: [],
  paretoSvg: undefined,
  extra: [],
});

describe('titles of runs', () => {
  const run = (params: object, model = 'm') =>
    readRun(
      makeRun({
        'plan.json': JSON.stringify({ task: 'passkey', params }),
        'manifest.json': JSON.stringify(manifest(model)),
      }),
    );

  test('tell them apart by what differs, and at last by their folders', () => {
    const same = { context_tokens: 2000, seed: 0 };
    expect(runTitles([run(same)])).toEqual(['Passkey retrieval (Table 1)']);
    const runs = [
      run(same),
      run({ ...same, seed: 1 }),
      run(same, 'n'),
      run({ ...same, context_tokens: 600 }),
    ];
    expect(runTitles(runs)).toEqual([
      'Passkey retrieval (Table 1): m, 2,000 tokens of context, seed 0',
      'Passkey retrieval (Table 1): m, 2,000 tokens of context, seed 1',
      'Passkey retrieval (Table 1): n, 2,000 tokens of context, seed 0',
      'Passkey retrieval (Table 1): m, 600 tokens of context, seed 0',
    ]);
    expect(new Set(runTitles([run(same), run(same)]))).toHaveProperty('size', 2);
  });
});

describe('a sweep', () => {
  test('its merged table, figure and failures stand before the runs', () => {
    const path = makeRun({
      'manifest.json': JSON.stringify({
        command: 'quest sweep a.yaml',
        units: 2,
        cells: 1,
        failed: [{ unit: 'passkey-40', message: EVIL }],
      }),
      'table.md': '|task|64|\n|---|--:|\n|merged|7|\n\nscores are means over 2 seeds\n',
    });
    const given = { ...page([makeRun()]), extra: [readSweep(path)!] };
    const html = renderHtml(given);
    const parts = [
      `Sweep ${path.split('/').at(-1)}`,
      '2 units, 1 cell',
      'Failed: passkey-40',
      '<td>merged</td>',
      'means over 2',
    ];
    const at = [...parts, 'data:image/svg+xml', 'id="run-1"'].map((text) => html.indexOf(text));
    expect(at).toEqual([...at].sort((a, b) => a - b));
    expect(at[0]).toBeGreaterThan(0);
    expect(html).not.toContain('<script');
    const markdown = renderReportMarkdown(given, folder, undefined);
    expect(markdown.indexOf('|merged')).toBeLessThan(markdown.indexOf('## Passkey'));
    expect(markdown).toContain(`](${path.split('/').at(-1)}/accuracy.svg)`);
  });

  test('that has not finished has no merged table', () => {
    const path = makeRun();
    rmSync(join(path, 'manifest.json'));
    expect(readSweep(path)).toBeUndefined();
  });
});

describe('the page', () => {
  test('is one file that loads nothing', () => {
    const html = renderHtml(page([makeRun()]));
    expect(html).not.toMatch(/<script|<link|@import|<iframe|url\(/i);
    expect(html.match(/src="[^"]{0,30}/g)).toEqual(['src="data:image/svg+xml;base64,PHN2']);
    expect(html.match(/href="[^"]*"/g)).toEqual(['href="https://arxiv.org/abs/2406.10774"', 'href="#run-1"']);
    expect(html).toContain('prefers-color-scheme: dark');
    expect(html).toContain("default-src 'none'");
    expect(html).toContain('<tr class="paper"><td class="name">paper</td>');
    const other = makeRun({ 'table.md': MD.replace('|  paper|', '|  paper (LongChat-7B)|') });
    expect(renderHtml(page([other]))).toContain(
      '<tr class="paper"><td class="name">paper (LongChat-7B)</td>',
    );
    for (const fact of ['12.5', 'cpu, avx2, 2 threads', 'abc', 'quest passkey', 'f00d', '600 (command line)'])
      expect(html).toContain(fact);
  });

  test('is the same for the same runs', () => {
    const run = makeRun();
    expect(renderHtml(page([run]))).toBe(renderHtml(page([run])));
  });

  test('hostile text stays text', () => {
    const run = makeRun({
      'plan.json': JSON.stringify({ task: EVIL, params: { tasks: [EVIL], dataset: EVIL } }),
      'manifest.json': JSON.stringify({
        ...manifest(EVIL, `quest ${EVIL}\n\`\`\`\n${EVIL}`),
        options: { [EVIL]: { value: [EVIL], source: EVIL } },
        text: { dataset: EVIL, title: EVIL },
      }),
      'table.csv': renderCsv({ columns: [{ key: EVIL }, { key: 'method' }], rows: [[EVIL, EVIL]] }),
      'table.md': `${renderMarkdown({ columns: [{ key: EVIL }], rows: [[EVIL]] })}\n${EVIL}\n`,
      'accuracy.svg': SVG.replace('<text>', `<script>alert(1)</script><text onload="x">`),
      "x'><b>.svg": SVG,
    });
    const given = page([run], EVIL);
    const html = renderHtml(given);
    expect(html).not.toMatch(/<script|<img src=x|<b>|onload/i);
    expect(html).toContain(escapeHtml(EVIL));
    const markdown = renderReportMarkdown(given, folder, undefined);
    const [before, command, after] = markdown.split('````'); // a fence longer than the one in the text
    expect(command).toContain('```');
    expect(`${before}${after}`).not.toMatch(/<(script|img|b>)/);
  });

  test('control characters and overrides of the writing direction are shown', () => {
    expect(escapeHtml('a\u0000b\u202Ec\td')).toBe('a\uFFFDb\uFFFDc\td');
  });
});

describe('Markdown', () => {
  test('links figures from where it stands', () => {
    const run = readRun(makeRun());
    const text = renderReportMarkdown({ ...page([]), runs: [run] }, folder, join(folder, 'a (b).svg'));
    expect(text).toContain(`](${run.folder.slice(folder.length + 1)}/accuracy.svg)`);
    expect(text).toContain('![Pareto front](a%20%28b%29.svg)');
    expect(text).toContain('|*paper*');
  });
});

describe('broken folders give one error that names the file', () => {
  const cases: [name: string, file: string, text: string | undefined, message: RegExp][] = [
    ['no manifest', 'manifest.json', undefined, /manifest\.json is missing/],
    ['half a manifest', 'manifest.json', '{"command": "quest', /manifest\.json is not JSON/],
    ['another JSON', 'manifest.json', '{}', /manifest\.json is not what a run writes: command/],
    ['a list', 'plan.json', '[]', /plan\.json is not what a run writes/],
    ['no plan', 'plan.json', undefined, /plan\.json is missing/],
    ['no table', 'table.csv', undefined, /table\.csv is missing/],
    ['a torn table', 'table.csv', 'a,b\n1\n', /table\.csv is not the table of a run/],
    ['an empty table', 'table.csv', 'a,b\n', /table\.csv is not the table of a run/],
    ['no Markdown table', 'table.md', 'text\n', /table\.md holds no Markdown table/],
    ['a figure that is none', 'accuracy.svg', '<html></html>', /accuracy\.svg is not an SVG figure/],
    ['half a figure', 'accuracy.svg', '<svg xmlns="x"><g>', /accuracy\.svg is not an SVG figure/],
  ];
  test.each(cases)('%s', (_, file, text, message) => {
    const run = makeRun();
    if (text === undefined) rmSync(join(run, file));
    else writeFileSync(join(run, file), text);
    expect(() => readRun(run)).toThrow(message);
  });

  test('a folder in the place of a file', () => {
    const run = makeRun();
    rmSync(join(run, 'table.csv'));
    mkdirSync(join(run, 'table.csv'));
    expect(() => readRun(run)).toThrow(/table\.csv is no file/);
  });

  test('figures of reports are nobody’s results', () => {
    const run = makeRun();
    cpSync(join(run, 'accuracy.svg'), join(run, 'report-pareto.svg'));
    expect(readRun(run).figures.map(({ name }) => name)).toEqual(['accuracy.svg']);
    expect(readFileSync(join(run, 'report-pareto.svg'), 'utf8')).toBe(SVG);
  });
});
