/**
 * The built-in sample: four items for each task in LongBench's format, made here from Moby-Dick (English), short sentences
 * (Chinese) and invented facts. It lets the command run on a fresh machine. Its scores say nothing about LongBench, and
 * every output calls it a sample.
 */
import { createHash } from 'node:crypto';
import type { LongBenchRow, LongBenchSet } from './longbench.js';
import { codeParts } from './longbench_sample_code.js';
import {
  coinedName,
  type Fact,
  insertFacts,
  makeFacts,
  pick,
  type Random,
  shuffled,
} from './longbench_sample_facts.js';
import { chineseParts, type SampleParts } from './longbench_sample_zh.js';
import { TASK_NAMES, taskKind } from './longbench_tasks.js';
import { createRandom, uniformInt } from './random.js';
import { MOBY_DICK } from './texts.js';

/** Items of each task, and their lengths: about 2K to 12K tokens of quest-tiny, less with a larger vocabulary. */
export const SAMPLE_ITEMS = 4;
const WORDS = [1100, 2300, 4200, 6400];
const CHINESE_CHARS = [700, 1300, 2300, 3700];
/** Names and code have more tokens to a word than prose has. */
const DENSE = 0.75;
const CODE = 0.22;
/** Where the wanted fact lies, as a share of the document. */
const DEPTHS = [0.35, 0.6, 0.15, 0.8];
const SEED = 20_240_616;

const count = (text: string): number => text.split(/\s+/).filter(Boolean).length;

let novel: string[] | undefined;

/** Paragraphs of the novel, each on one line, without headings. */
function paragraphs(): string[] {
  novel ??= MOBY_DICK.books[0]!.read()
    .split(/\n\s*\n/)
    .map((text) => text.replace(/\s+/g, ' ').trim())
    .filter((text) => text.length > 80);
  return novel;
}

/** Neighbouring paragraphs of together about `words` words, from a random place. */
function prose(random: Random, words: number): string[] {
  const all = paragraphs();
  const out: string[] = [];
  for (let at = uniformInt(random, 0, all.length - 1), have = 0; have < words; at = (at + 1) % all.length) {
    out.push(all[at]!);
    have += count(all[at]!);
  }
  return out;
}

interface Place {
  random: Random;
  words: number;
  depth: number;
  item: number;
}

function document({ random, words, depth, item }: Place): { text: string[]; facts: Fact[] } {
  const facts = makeFacts(random, 6, item);
  return { text: insertFacts(random, prose(random, words), facts, depth), facts };
}

function singleDocument(place: Place): SampleParts {
  const { text, facts } = document(place);
  return { context: text.join('\n\n'), input: facts[0]!.question, answers: [facts[0]!.answer] };
}

function manyDocuments(place: Place): SampleParts {
  const { text, facts } = document(place);
  const size = Math.ceil(text.length / 8);
  const passages = Array.from({ length: Math.ceil(text.length / size) }, (_, i) =>
    [
      `Passage ${i + 1}:`,
      `Chapter ${coinedName(place.random)}`,
      ...text.slice(i * size, (i + 1) * size),
    ].join('\n'),
  );
  return { context: passages.join('\n\n'), input: facts[0]!.question, answers: [facts[0]!.answer] };
}

function summary(place: Place): SampleParts {
  const { text, facts } = document(place);
  const answer = `Amid the story of a voyage, the text states a few plain facts. ${facts.map((f) => f.statement).join(' ')}`;
  return { context: text.join('\n\n'), input: '', answers: [answer] };
}

function meeting(place: Place): SampleParts {
  const { text, facts } = document(place);
  const speakers = [0, 1, 2].map(() => coinedName(place.random));
  return {
    context: text.map((line) => `${pick(place.random, speakers)}: ${line}`).join('\n'),
    input: `What was said in answer to this: ${facts[0]!.question}`,
    answers: [facts[0]!.statement],
  };
}

function trivia({ random, words, depth, item }: Place): SampleParts {
  const facts = makeFacts(random, 4, item);
  const passage = (fact: Fact, size: number, at: number) =>
    `Passage:\n${insertFacts(random, prose(random, size), [fact], at).join('\n')}\nQuestion:\n${fact.question}\nAnswer:\n`;
  const shots = facts.slice(1).map((fact) => `${passage(fact, words / 5, 0.5)}${fact.answer}`);
  return {
    context: shots.join('\n\n'),
    input: passage(facts[0]!, words / 5, depth),
    answers: [facts[0]!.answer],
  };
}

const QUESTION_TYPES: Readonly<Record<string, (name: string) => string>> = {
  Color: (name) => `What colour is the flag of ${name}?`,
  City: (name) => `In which city was ${name} built?`,
  Date: (name) => `When did ${name} go to sea?`,
  Individual: (name) => `Who was the captain of the ${name}?`,
  'Number of something': (name) => `How many sailors came from ${name}?`,
  Food: (name) => `What do people in ${name} eat in winter?`,
};

function questionTypes({ random, words }: Place): SampleParts {
  const classes = Object.keys(QUESTION_TYPES);
  const shot = (type: string) => `Question: ${QUESTION_TYPES[type]!(coinedName(random))}\nType:`;
  const shots: string[] = [];
  for (let have = 0; have < DENSE * words; have += count(shots.at(-1)!)) {
    const type = pick(random, classes);
    shots.push(`${shot(type)} ${type}`);
  }
  const type = pick(random, classes);
  return { context: shots.join('\n'), input: shot(type), answers: [type], classes };
}

function dialogues({ random, words, item }: Place): SampleParts {
  const dialogue = (fact: Fact) => {
    const [a, b] = [coinedName(random), coinedName(random)];
    const lines = [
      `${a}: Did you read chapter ${uniformInt(random, 1, 135)}?`,
      `${b}: ${pick(random, paragraphs()).split(/(?<=[.!?]) /)[0]}`,
      `${a}: ${fact.question}`,
      `${b}: ${fact.statement}`,
    ];
    return { text: `Dialogue: ${lines.join('\n')}\nSummary: `, answer: `${b} told ${a}: ${fact.statement}` };
  };
  const shots: string[] = [];
  for (let have = 0; have < DENSE * words; have += count(shots.at(-1)!)) {
    const { text, answer } = dialogue(makeFacts(random, 1, uniformInt(random, 0, 4))[0]!);
    shots.push(text + answer);
  }
  const asked = dialogue(makeFacts(random, 1, item)[0]!);
  return { context: shots.join('\n\n'), input: asked.text, answers: [asked.answer] };
}

const numbered = (texts: readonly string[]): string =>
  texts.map((text, i) => `Paragraph ${i + 1}: ${text}`).join('\n\n');

function passageCount({ random, words }: Place): SampleParts {
  const unique = prose(random, 0.75 * words);
  const again = shuffled(random, unique).slice(0, Math.ceil(unique.length / 4));
  return {
    context: numbered(shuffled(random, [...unique, ...again])),
    input: '',
    answers: [String(unique.length)],
  };
}

function passageRetrieval({ random, words, depth, item }: Place): SampleParts {
  const facts = makeFacts(random, 30, item);
  const texts = facts.map((fact) => {
    const part = prose(random, 1)[0]!
      .split(' ')
      .slice(0, words / 30)
      .join(' ');
    return `${part} ${fact.statement}`;
  });
  const wanted = Math.floor(depth * 30);
  return {
    context: numbered(texts),
    input: `The paragraph says: ${facts[wanted]!.statement}`,
    answers: [`Paragraph ${wanted + 1}`],
  };
}

const ENGLISH: Readonly<Record<string, (place: Place) => SampleParts>> = {
  narrativeqa: singleDocument,
  qasper: singleDocument,
  multifieldqa_en: singleDocument,
  hotpotqa: manyDocuments,
  '2wikimqa': manyDocuments,
  musique: manyDocuments,
  gov_report: summary,
  multi_news: summary,
  qmsum: meeting,
  trec: questionTypes,
  triviaqa: trivia,
  samsum: dialogues,
  passage_count: passageCount,
  passage_retrieval_en: passageRetrieval,
};

/** Item `index` of a task; depends on nothing but these two. */
export function sampleRow(task: string, index: number): LongBenchRow {
  const { language } = taskKind(task);
  const random = createRandom(SEED, TASK_NAMES.indexOf(task) * SAMPLE_ITEMS + index);
  const [words, depth] = [WORDS[index]!, DEPTHS[index]!];
  let parts: SampleParts;
  if (language === 'zh') parts = chineseParts(task, random, CHINESE_CHARS[index]!, depth);
  else if (language === 'code') parts = codeParts(task, random, CODE * words);
  else parts = ENGLISH[task]!({ random, words, depth, item: index });
  const { context, input, answers, classes = [] } = parts;
  const length = language === 'zh' ? context.length + input.length : count(context) + count(input);
  return { input, context, answers, length, language, classes, id: `sample-${task}-${index + 1}` };
}

/** The sample of one task; `limit` keeps the first items, which are the shortest. */
export function openLongBenchSample(task: string, limit?: number): LongBenchSet {
  const rows = Array.from({ length: Math.min(SAMPLE_ITEMS, limit ?? SAMPLE_ITEMS) }, (_, i) =>
    sampleRow(task, i),
  );
  const hash = createHash('sha256').update(JSON.stringify(rows)).digest('hex').slice(0, 16);
  return { task, count: rows.length, hash, longest: rows.length - 1, row: (index) => rows[index]! };
}
