/** From what was typed (or stands in a file) to a checked value of an option. */
import { QuestError } from '../errors.js';
import type { OptionSpec, OptionValue } from './options.js';
import { nearest } from './suggest.js';

const SIZE_UNITS: Record<string, number> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

function fail(where: string, wanted: string, raw: unknown, hint?: string): never {
  const seen = typeof raw === 'string' ? `"${raw}"` : JSON.stringify(raw);
  throw new QuestError(
    'E_OPTION',
    `${where} wants ${wanted}, got ${seen}`,
    hint === undefined ? {} : { hint },
  );
}

function wantedNumber(spec: OptionSpec, whole: boolean): string {
  const { min, max, aboveMin, powerOfTwo } = spec;
  const kind = powerOfTwo ? 'a power of two' : whole ? 'a whole number' : 'a number';
  if (min === undefined) return kind;
  if (max === undefined || max >= Number.MAX_SAFE_INTEGER) return `${kind} of at least ${min}`;
  return aboveMin ? `${kind} above ${min}, up to ${max}` : `${kind} from ${min} to ${max}`;
}

function numberHint(spec: OptionSpec, value: number): string {
  const { min = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY, aboveMin, powerOfTwo } = spec;
  if (value > max) return `use ${max} or less`;
  if (aboveMin && value <= min) return `use more than ${min}`;
  if (value < min) return `use ${min} or more`;
  if (powerOfTwo && Number.isInteger(value)) {
    const below = 2 ** Math.floor(Math.log2(value));
    return `use ${below} or ${2 * below}`;
  }
  const [example] = [spec.default ?? spec.min ?? 1].flat();
  return `write it in digits, e.g. ${example}`;
}

function parseNumber(spec: OptionSpec, raw: unknown, where: string, whole: boolean): number {
  const text = typeof raw === 'string' ? raw.trim() : raw;
  const pattern = whole ? /^[+-]?\d+$/ : /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
  const value =
    typeof text === 'number'
      ? text
      : typeof text === 'string' && pattern.test(text)
        ? Number(text)
        : Number.NaN;
  const { min = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY } = spec;
  const fits =
    value >= min &&
    value <= max &&
    !(spec.aboveMin && value === min) &&
    !(spec.powerOfTwo && !Number.isInteger(Math.log2(value)));
  if (!Number.isFinite(value) || (whole && !Number.isSafeInteger(value)) || !fits)
    fail(where, wantedNumber(spec, whole), raw, numberHint(spec, value));
  return value;
}

function parseChoice(spec: OptionSpec, raw: unknown, where: string): string {
  if (typeof raw !== 'string') fail(where, 'text', raw);
  if (spec.pattern !== undefined && !spec.pattern.source.test(raw)) fail(where, spec.pattern.wanted, raw);
  if (spec.choices === undefined || spec.choices.includes(raw)) return raw;
  const near = nearest(raw, spec.choices);
  fail(
    where,
    `one of ${spec.choices.join(', ')}`,
    raw,
    near === undefined ? undefined : `did you mean ${near}?`,
  );
}

function parseSize(raw: unknown, where: string): number {
  const found = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(String(raw).trim());
  if (found === null) fail(where, 'a size such as 512M or 8G', raw);
  return Math.floor(Number(found[1]) * SIZE_UNITS[found[2]!.toLowerCase()]!);
}

function parseItems<T extends string | number>(
  raw: unknown,
  where: string,
  parse: (item: unknown) => T,
): T[] {
  const items: unknown[] = Array.isArray(raw)
    ? raw
    : String(raw)
        .split(',')
        .map((part) => part.trim());
  if (items.length === 0 || items.includes('')) fail(where, 'a list without gaps, e.g. 64,128', raw);
  const values = items.map(parse);
  const twice = values.find((value, i) => values.indexOf(value) !== i);
  if (twice !== undefined) {
    throw new QuestError('E_OPTION', `${where} names ${twice} twice`, { hint: 'name each value once' });
  }
  return values;
}

/** Checks and converts one value. `where` names its place in messages: `--budget`, or `budget in run.yaml`. */
export function parseValue(spec: OptionSpec, raw: unknown, where: string): OptionValue {
  switch (spec.type) {
    case 'int':
      return parseNumber(spec, raw, where, true);
    case 'number':
      return parseNumber(spec, raw, where, false);
    case 'size':
      return parseSize(raw, where);
    case 'flag':
    case 'switch':
      return typeof raw === 'boolean' ? raw : fail(where, 'true or false', raw);
    case 'ints':
      return parseItems(raw, where, (item) => parseNumber(spec, item, where, true));
    case 'numbers':
      return parseItems(raw, where, (item) => parseNumber(spec, item, where, false));
    case 'names':
      return parseItems(raw, where, (item) => parseChoice(spec, item, where));
    case 'string':
      if (raw === '') fail(where, 'a value', raw);
      return parseChoice(spec, raw, where);
  }
}
