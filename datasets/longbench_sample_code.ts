/** Program text of the built-in sample: classes of one shape, so that the last method's next line can be told from the others. */
import { coinedName, pick, type Random } from './longbench_sample_facts.js';
import type { SampleParts } from './longbench_sample_zh.js';

const NOUNS = 'counter buffer index width offset total record entry signal channel'.split(' ');

function classText(name: string, fields: readonly string[]): string {
  const lines = [`class ${name}:`, '    def __init__(self):'];
  for (const field of fields) lines.push(`        self._${field} = 0`);
  for (const field of fields) lines.push('', `    def get_${field}(self):`, `        return self._${field}`);
  for (const field of fields)
    lines.push('', `    def set_${field}(self, ${field}):`, `        self._${field} = ${field}`);
  return `${lines.join('\n')}\n\n\n`;
}

function fieldsOf(random: Random): string[] {
  return [0, 1, 2].map((i) => `${pick(random, NOUNS)}_${coinedName(random).toLowerCase()}${i}`);
}

/** A program of about `words` words that ends before the body of its last getter. */
export function codeParts(task: string, random: Random, words: number): SampleParts {
  const classes: string[] = [];
  for (let have = 0; have < words; have += classes.at(-1)!.split(/\s+/).length)
    classes.push(classText(`${coinedName(random)}Store`, fieldsOf(random)));
  const [field] = fieldsOf(random);
  const open = `class ${coinedName(random)}Store:\n    def __init__(self):\n        self._${field} = 0\n\n    def get_${field}(self):\n`;
  const answers = [`        return self._${field}`];
  if (task === 'lcc') return { context: classes.join('') + open, input: '', answers };
  const files = classes.map((text, i) => `# Path: store_${i + 1}.py\n${text}`);
  return { context: files.join(''), input: `# Path: main.py\n${open}`, answers };
}
