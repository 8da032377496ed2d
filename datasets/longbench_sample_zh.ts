/** Chinese documents of the built-in sample, put together from short sentences. */

import { pick, type Random, shuffled } from './longbench_sample_facts.js';
import { uniformInt } from './random.js';

const SURNAMES = [...'赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨'];
const GIVEN = ['明远', '雅琴', '志强', '思齐', '若兰', '国栋', '晓峰', '佩文', '子安', '静怡'];
const TOWNS = ['青石镇', '白河镇', '南湖村', '东岭镇', '云溪村', '长桥镇'];
const PLACES = ['茶馆', '码头', '书院', '集市', '祠堂', '渡口', '邮局'];
const SEASONS = ['春天', '夏天', '秋天', '冬天', '清晨', '傍晚'];
const GOODS = ['茶叶', '布匹', '木材', '瓷器', '草药', '粮食'];

const SENTENCES: readonly ((r: Random) => string)[] = [
  (r) => `${pick(r, SEASONS)}，${pick(r, TOWNS)}的${pick(r, PLACES)}里坐满了人。`,
  (r) => `船夫把${pick(r, GOODS)}运到${pick(r, TOWNS)}，要走整整两天。`,
  (r) => `老人们常在${pick(r, PLACES)}谈起从前的大水。`,
  (r) => `${pick(r, TOWNS)}的道路今年重新修过，来往方便了许多。`,
  (r) => `商人说${pick(r, GOODS)}的价钱比去年高了一些。`,
  (r) => `孩子们放学以后，喜欢到${pick(r, PLACES)}旁边看热闹。`,
  (r) => `${pick(r, SEASONS)}的风从山上吹下来，带着${pick(r, GOODS)}的气味。`,
  (r) => `夜里下过一场雨，${pick(r, PLACES)}前面的石板路很滑。`,
];

const person = (r: Random): string => pick(r, SURNAMES) + pick(r, GIVEN);

/** Sentences of together about `chars` characters. */
function prose(r: Random, chars: number): string[] {
  const out: string[] = [];
  for (let length = 0; length < chars; ) {
    const sentence = pick(r, SENTENCES)(r);
    out.push(sentence);
    length += sentence.length;
  }
  return out;
}

interface ChineseFact {
  statement: string;
  question: string;
  answer: string;
}

function facts(r: Random, count: number): ChineseFact[] {
  const people = new Set<string>();
  while (people.size < count) people.add(person(r));
  return [...people].map((who) => {
    const answer = String(uniformInt(r, 1000, 99999));
    return { statement: `${who}的幸运数字是${answer}。`, question: `${who}的幸运数字是多少？`, answer };
  });
}

function withFacts(r: Random, sentences: string[], items: readonly ChineseFact[], depth: number): string[] {
  const out = [...sentences];
  items.forEach((fact, i) => {
    out.splice(i === 0 ? Math.floor(depth * out.length) : uniformInt(r, 0, out.length), 0, fact.statement);
  });
  return out;
}

/** Sentences in paragraphs of four. */
const paragraphs = (sentences: readonly string[]): string[] =>
  Array.from({ length: Math.ceil(sentences.length / 4) }, (_, i) =>
    sentences.slice(4 * i, 4 * i + 4).join(''),
  );

export interface SampleParts {
  context: string;
  input: string;
  answers: string[];
  classes?: string[];
}

const NEWS: Readonly<Record<string, readonly ((r: Random) => string)[]>> = {
  体育: [(r) => `${pick(r, TOWNS)}队昨天在球场上赢了比赛。`, (r) => `运动员${person(r)}打破了长跑纪录。`],
  经济: [(r) => `${pick(r, GOODS)}的出口比去年增加了两成。`, (r) => `${pick(r, TOWNS)}的商铺开始降价。`],
  教育: [(r) => `${pick(r, TOWNS)}的学校增加了三位教师。`, (r) => `学生${person(r)}得到了奖学金。`],
  交通: [(r) => `通往${pick(r, TOWNS)}的新桥今天通车。`, (r) => `${pick(r, TOWNS)}的班车改了时间。`],
};

/** One item of a Chinese task of about `chars` characters; `depth` says where the wanted fact lies. */
export function chineseParts(task: string, r: Random, chars: number, depth: number): SampleParts {
  const sentences = prose(r, chars);
  if (task === 'lsht') {
    const classes = Object.keys(NEWS);
    const news = (label: string) => `新闻内容：\n${pick(r, NEWS[label]!)(r)}${prose(r, 40).join('')}\n类别：`;
    const shots: string[] = [];
    for (let length = 0; length < chars; length += shots.at(-1)!.length) {
      const label = pick(r, classes);
      shots.push(`${news(label)}${label}`);
    }
    const label = pick(r, classes);
    return { context: shots.join('\n'), input: news(label), answers: [label], classes };
  }
  if (task === 'passage_retrieval_zh') {
    const items = facts(r, 8);
    const texts = items.map((fact) => [...prose(r, chars / 8 - 20), fact.statement]);
    const wanted = Math.min(7, Math.floor(depth * 8));
    return {
      context: texts.map((text, i) => `段落${i + 1}：${shuffled(r, text).join('')}`).join('\n\n'),
      input: `本段提到${items[wanted]!.statement}`,
      answers: [`段落${wanted + 1}`],
    };
  }
  const items = facts(r, task === 'vcsum' ? 4 : 6);
  const body = paragraphs(withFacts(r, sentences, items, depth));
  if (task === 'vcsum')
    return {
      context: body.map((text) => `${person(r)}：${text}`).join('\n'),
      input: '',
      answers: [`会议提到：${items.map((fact) => fact.statement).join('')}`],
    };
  const context =
    task === 'dureader' ? body.map((text, i) => `文章${i + 1}\n${text}`).join('\n\n') : body.join('\n');
  return { context, input: items[0]!.question, answers: [items[0]!.answer] };
}
