/** Program text of the built-in sample: functions whose comments state facts, and a last comment that asks for one of them. */
import { coinedName, makeFacts, type Random } from './longbench_sample_facts.js';
import type { SampleParts } from './longbench_sample_zh.js';

const FACTS = 4;

function functionText(random: Random): string {
  const [name, field] = [coinedName(random), coinedName(random)].map((word) => word.toLowerCase());
  return `def find_${name}(table):\n    ${field} = sorted(table)\n    return ${field}[0]\n\n\n`;
}

/** A program of about `words` words that ends before a line with the number that a comment at `depth` states. */
export function codeParts(task: string, random: Random, words: number, depth: number): SampleParts {
  const numbers = makeFacts(random, 8 * FACTS, 0).filter(({ answer }) => /^\d+$/.test(answer));
  const facts = numbers.slice(0, FACTS);
  const functions = Array.from({ length: Math.ceil(words / 7) }, () => functionText(random));
  for (const [i, { statement }] of facts.entries()) {
    const at = Math.floor(((depth + i / FACTS) % 1) * functions.length);
    functions[at] = `# ${statement}\n${functions[at]}`;
  }
  const { question, answer } = facts[0]!;
  const open = `# ${question}\n`;
  if (task === 'lcc') return { context: functions.join('') + open, input: '', answers: [answer] };
  const files = functions.map((text, i) => `# Path: part_${i + 1}.py\n${text}`);
  return { context: files.join(''), input: `# Path: main.py\n${open}`, answers: [answer] };
}
