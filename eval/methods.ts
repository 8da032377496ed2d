/** The KV methods as the tool knows them. A new method is one entry here and its definition in the native core. */
import { QuestError } from '../src/errors.js';
import type { GroupMode, MethodName, MethodOptions } from '../src/runtime/addon.js';

/** The options that can matter to a method, in the order in which tables and keys list them. */
export type MethodField = 'skip_layers' | 'page_size' | 'group' | 'sinks' | 'h2o_prefill';

export interface MethodDefinition {
  name: MethodName;
  label: string;
  /**
   * `dense` reads everything, a `selector` keeps everything and reads a part, a `window` reads what its position alone
   * decides, an `evictor` drops tokens for good.
   */
  kind: 'dense' | 'selector' | 'window' | 'evictor';
  help: string;
  /** Options that change its result; the others are left out of keys and tables. */
  fields: readonly MethodField[];
  /** The smallest sensible budget in tokens, and why. Absent for methods without a budget. */
  minBudget?: (settings: MethodSettings) => { tokens: number; why: string };
}

/** What the command line says about methods, for all of them together. */
export interface MethodSettings {
  pageSize: number;
  skipLayers: number;
  group: GroupMode;
  sinks: number;
  h2oPrefill: boolean;
}

/** One column-row of a table: a method with its budget on a cache with pages of `pageSize` tokens. */
export interface Cell {
  method: MethodOptions;
  pageSize: number;
}

const onePage = ({ pageSize }: MethodSettings) => ({
  tokens: pageSize,
  why: `one page holds ${pageSize} tokens and the last page is always read`,
});

export const METHODS: readonly MethodDefinition[] = [
  { name: 'full', label: 'Full', kind: 'dense', help: 'attends every token', fields: [] },
  {
    name: 'quest',
    label: 'Quest',
    kind: 'selector',
    help: 'attends the pages with the highest upper bound of q.k, one list per KV head',
    fields: ['skip_layers', 'page_size', 'group'],
    minBudget: onePage,
  },
  {
    name: 'quest-paper',
    label: 'Quest (paper)',
    kind: 'selector',
    help: "the paper's accuracy simulator: one list per query head, at least three pages",
    fields: ['skip_layers', 'page_size'],
    minBudget: onePage,
  },
  {
    name: 'streaming',
    label: 'StreamingLLM',
    kind: 'window',
    help: 'keeps the first tokens (sinks) and the most recent ones',
    fields: ['skip_layers', 'sinks'],
    minBudget: ({ sinks }) => ({
      tokens: sinks + 1,
      why: `${sinks} sink tokens leave no room for the current token`,
    }),
  },
  {
    name: 'h2o',
    label: 'H2O',
    kind: 'evictor',
    help: 'keeps the tokens with the highest accumulated attention and the most recent ones',
    fields: ['skip_layers', 'h2o_prefill'],
    minBudget: () => ({ tokens: 1, why: 'the current token must be kept' }),
  },
  {
    name: 'tova',
    label: 'TOVA',
    kind: 'evictor',
    help: 'drops the token with the lowest attention of the current step',
    fields: ['skip_layers'],
    minBudget: () => ({ tokens: 1, why: 'the current token must be kept' }),
  },
  {
    name: 'oracle',
    label: 'Oracle',
    kind: 'selector',
    help: 'an upper bound for analysis: per query head, the tokens with the highest true logits q.k of this step; it reads all keys to know them, so it saves nothing',
    fields: ['skip_layers'],
    minBudget: () => ({ tokens: 1, why: 'one token must be attended' }),
  },
];

export const METHOD_NAMES = METHODS.map((m) => m.name);

/** The definition of a method that the option parser has already accepted. */
export function methodDefinition(name: string): MethodDefinition {
  const found = METHODS.find((m) => m.name === name);
  if (found) return found;
  throw new QuestError('E_METHOD', `there is no method "${name}"`, {
    hint: `choose from ${METHOD_NAMES.join(', ')}`,
  });
}

/** One method at one budget, checked. `budget` is ignored by methods without one. */
export function makeCell(name: MethodName, budget: number | undefined, settings: MethodSettings): Cell {
  const def = methodDefinition(name);
  const { pageSize, skipLayers, group, sinks, h2oPrefill } = settings;
  const shared = { skipLayers, group: name === 'quest-paper' ? ('head' as const) : group, sinks, h2oPrefill };
  if (def.minBudget === undefined)
    return { method: { method: name, budgetTokens: 0, ...shared, h2oPrefill: false }, pageSize };
  if (budget === undefined) {
    throw new QuestError('E_BUDGET', `${name} needs a budget`, { hint: 'give --budget TOKENS' });
  }
  const least = def.minBudget(settings);
  if (budget < least.tokens) {
    throw new QuestError('E_BUDGET', `a budget of ${budget} tokens is too small for ${name}: ${least.why}`, {
      hint: `use --budget ${least.tokens} or more`,
    });
  }
  return {
    method: { method: name, budgetTokens: budget, ...shared, h2oPrefill: name === 'h2o' && h2oPrefill },
    pageSize,
  };
}

/** All cells of a table: methods in the given order, budgets ascending as given; a method without a budget has one cell. */
export function makeCells(
  methods: readonly MethodName[],
  budgets: readonly number[],
  settings: MethodSettings,
): Cell[] {
  return methods.flatMap((name) =>
    methodDefinition(name).minBudget === undefined
      ? [makeCell(name, undefined, settings)]
      : budgets.map((budget) => makeCell(name, budget, settings)),
  );
}

/** Refuses settings that leave a model of `nLayers` layers without any layer the method could act on. */
export function checkSkipLayers(cells: readonly Cell[], nLayers: number): void {
  for (const { method } of cells) {
    if (methodDefinition(method.method).kind === 'dense' || method.skipLayers < nLayers) continue;
    throw new QuestError(
      'E_SKIP_LAYERS',
      `skip_layers ${method.skipLayers} leaves none of the model's ${nLayers} layers to ${method.method}`,
      {
        hint: `use --skip-layers ${nLayers - 1} or less`,
      },
    );
  }
}

/** The options that define a cell's result, with the names that flags, config keys and CSV columns share. */
export function cellOptions(cell: Cell): Record<string, string | number | boolean> {
  const { method, pageSize } = cell;
  const def = methodDefinition(method.method);
  const values: Record<MethodField, string | number | boolean> = {
    skip_layers: method.skipLayers,
    page_size: pageSize,
    group: method.group,
    sinks: method.sinks,
    h2o_prefill: method.h2oPrefill,
  };
  const options: Record<string, string | number | boolean> = { method: method.method };
  if (def.minBudget !== undefined) options.budget_tokens = method.budgetTokens;
  for (const field of def.fields) options[field] = values[field];
  return options;
}

/** `quest 64`, or `full` for a method without a budget. */
export function cellName(cell: Cell): string {
  const def = methodDefinition(cell.method.method);
  return def.minBudget === undefined ? def.name : `${def.name} ${cell.method.budgetTokens}`;
}

/** The share of a cache of `tokens` that one decode step reads, roughly: for estimates of cost. */
export function estimatedReadShare(cell: Cell, tokens: number, nLayers: number): number {
  const { kind } = methodDefinition(cell.method.method);
  const { budgetTokens, skipLayers } = cell.method;
  if (kind === 'dense' || cell.method.method === 'oracle') return 1;
  const metadata = kind === 'selector' ? 1 / cell.pageSize : 0;
  const sparse = Math.min(1, budgetTokens / tokens + metadata);
  const dense = Math.min(1, skipLayers / nLayers);
  return dense + (1 - dense) * sparse;
}

/** Pages that one head of a selector attends in a decode step. */
export function pageBudget(method: MethodOptions, pageSize: number): number {
  return Math.max(method.method === 'quest-paper' ? 3 : 1, Math.floor(method.budgetTokens / pageSize));
}

/** Budgets that mean something else than they seem to, in words. */
export function budgetNotes(cells: readonly Cell[]): string[] {
  return cells.flatMap((cell) => {
    const { method, pageSize } = cell;
    if (!methodDefinition(method.method).fields.includes('page_size')) return [];
    const pages = pageBudget(method, pageSize);
    if (pages * pageSize === method.budgetTokens) return [];
    return [`${cellName(cell)} reads ${pages} pages of ${pageSize} tokens, ${pages * pageSize} in all`];
  });
}
