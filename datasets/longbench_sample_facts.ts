/** What the built-in sample's English documents are made of: invented names, and facts with a question and a short answer. */
import { uniformInt } from './random.js';

export type Random = () => number;

export const pick = <T>(random: Random, list: readonly T[]): T =>
  list[uniformInt(random, 0, list.length - 1)]!;

/** A copy in random order. */
export function shuffled<T>(random: Random, list: readonly T[]): T[] {
  const out = [...list];
  for (let i = out.length - 1; i > 0; i--) {
    const j = uniformInt(random, 0, i);
    [out[i], out[j]] = [out[j]!, out[i]!];
  }
  return out;
}

const SYLLABLES =
  'bar bel bor cal cor dan del dor fal fen gar hal jor kel lan lor mar mel nor pel quin ral ren sal sor tal ten tor val ver wen zor'.split(
    ' ',
  );
const FIRST =
  'Agnes Basil Cora Duncan Edith Frida Gilbert Hester Ingrid Jasper Konrad Lydia Milton Nadia Osbert Paula Rufus Selma Tobias Vera'.split(
    ' ',
  );
const THINGS = 'lantern violin ledger compass telescope saddle teapot anchor whistle umbrella'.split(' ');
const SPOTS = 'oak tree|garden wall|kitchen door|old well|barn|bridge'.split('|');
const COLOURS = 'red green blue yellow white purple orange silver'.split(' ');
const TOWNS = 'Lisbon Bergen Trieste Dover Odessa Genoa Bruges Cadiz Riga Salem'.split(' ');

/** An invented name that no model can have read. */
export function coinedName(random: Random): string {
  const name = pick(random, SYLLABLES) + pick(random, SYLLABLES);
  return name[0]!.toUpperCase() + name.slice(1);
}

const person = (random: Random): string => `${pick(random, FIRST)} ${coinedName(random)}`;
const number = (random: Random): string => String(uniformInt(random, 1000, 99999));

export interface Fact {
  statement: string;
  question: string;
  answer: string;
}

const KINDS: readonly ((random: Random) => Fact)[] = [
  (r) => {
    const [who, answer] = [person(r), number(r)];
    return {
      statement: `The special magic number for ${who} is ${answer}.`,
      question: `What is the special magic number for ${who}?`,
      answer,
    };
  },
  (r) => {
    const [who, answer] = [person(r), number(r)];
    return {
      statement: `The pass key for ${who} is ${answer}. Remember it. ${answer} is the pass key for ${who}.`,
      question: `What is the pass key for ${who}?`,
      answer,
    };
  },
  (r) => {
    const [who, thing, answer] = [person(r), pick(r, THINGS), `under the ${pick(r, SPOTS)}`];
    return {
      statement: `${who} hid the ${thing} ${answer}.`,
      question: `Where did ${who} hide the ${thing}?`,
      answer,
    };
  },
  (r) => {
    const [who, thing, answer] = [person(r), pick(r, THINGS), pick(r, COLOURS)];
    return {
      statement: `The colour of the ${thing} that belongs to ${who} is ${answer}.`,
      question: `What colour is the ${thing} that belongs to ${who}?`,
      answer,
    };
  },
  (r) => {
    const [who, answer] = [person(r), pick(r, TOWNS)];
    return { statement: `${who} lives in ${answer}.`, question: `Where does ${who} live?`, answer };
  },
];

/** `count` facts about different people; the first one's kind is `kind`, so that a set of documents shows all kinds. */
export function makeFacts(random: Random, count: number, kind: number): Fact[] {
  const facts: Fact[] = [];
  const asked = new Set<string>();
  while (facts.length < count) {
    const index = facts.length === 0 ? kind % KINDS.length : uniformInt(random, 0, KINDS.length - 1);
    const fact = KINDS[index]!(random);
    if (!asked.has(fact.question)) facts.push(fact);
    asked.add(fact.question);
  }
  return facts;
}

/** Puts statements, each a paragraph of its own, between the paragraphs of a text; the first one at `depth` (0 to 1). */
export function insertFacts(
  random: Random,
  paragraphs: readonly string[],
  facts: readonly Fact[],
  depth: number,
): string[] {
  const at = facts.map((_, i) =>
    i === 0 ? Math.floor(depth * paragraphs.length) : uniformInt(random, 0, paragraphs.length),
  );
  const out: string[] = [];
  for (let p = 0; p <= paragraphs.length; p++) {
    facts.forEach((fact, i) => {
      if (at[i] === p) out.push(fact.statement);
    });
    if (p < paragraphs.length) out.push(paragraphs[p]!);
  }
  return out;
}
