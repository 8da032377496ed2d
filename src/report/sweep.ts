/** A sweep as tables: every cell of every unit in long form for files, methods by budget for readers. */
import { methodLabel } from './look.js';
import { columnsOf, fixed, type Table } from './table.js';

export interface SweepCell {
  /** `passkey`, `longbench/qasper`, `ppl`, `recall`. */
  task: string;
  data: string | undefined;
  model: string;
  contextTokens: number | undefined;
  seed: number | undefined;
  method: string;
  budgetTokens: number | undefined;
  samples: number | undefined;
  /** Absent where the unit failed. */
  score: number | undefined;
  metric: string | undefined;
  lowerIsBetter: boolean;
  bestScore: number | undefined;
  kvReadPct: number | undefined;
  neverSparse: boolean;
  /** The cell's share of the time of prefills, question and answer; branches that ran together share it evenly. */
  seconds: number | undefined;
  /** Folder of the unit. */
  unit: string;
  error: string | undefined;
}

/** One row per cell: `table.csv`. All but `seconds` is the same however often the sweep was killed. */
export function sweepLongTable(cells: readonly SweepCell[]): Table {
  const keys = [
    ...['task', 'data', 'model', 'context_tokens', 'seed', 'method', 'budget_tokens', 'samples', 'score'],
    ...['metric', 'kv_read_pct', 'never_sparse', 'seconds', 'unit', 'error'],
  ];
  const shown = (value: number): string => String(Number(value.toFixed(4)));
  return {
    columns: columnsOf(keys, { score: shown, kv_read_pct: fixed(2), seconds: fixed(3) }),
    rows: cells.map((cell) => [
      cell.task,
      cell.data,
      cell.model,
      cell.contextTokens,
      cell.seed,
      cell.method,
      cell.budgetTokens,
      cell.samples,
      cell.score,
      cell.metric,
      cell.kvReadPct,
      cell.score === undefined ? undefined : cell.neverSparse,
      cell.seconds,
      cell.unit,
      cell.error,
    ]),
    notes: sweepNotes(cells),
  };
}

/** Cells that differ in seed, method and budget only: a table and a picture of their own. */
export interface SweepPanel {
  title: string;
  task: string;
  data: string | undefined;
  model: string;
  contextTokens: number | undefined;
  metric: string;
  lowerIsBetter: boolean;
  bestScore: number | undefined;
  /** How many seeds the points are means over; 1 where the task has none. */
  seeds: number;
  points: { method: string; budgetTokens: number | undefined; score: number; marked: boolean }[];
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** Panels in the order of the plan; cells without a score are left out. */
export function sweepPanels(cells: readonly SweepCell[]): SweepPanel[] {
  const groups = new Map<string, SweepCell[]>();
  for (const cell of cells) {
    const key = JSON.stringify([cell.task, cell.data, cell.model, cell.contextTokens]);
    groups.set(key, [...(groups.get(key) ?? []), cell]);
  }
  return [...groups.values()].flatMap((own) => {
    const { task, model, contextTokens, data } = own[0]!;
    const scored = own.filter((cell) => cell.score !== undefined);
    if (scored.length === 0) return [];
    const byCell = new Map<string, SweepCell[]>();
    for (const cell of scored) {
      const key = JSON.stringify([cell.method, cell.budgetTokens]);
      byCell.set(key, [...(byCell.get(key) ?? []), cell]);
    }
    const context = contextTokens === undefined ? '' : `, ${contextTokens} tokens`;
    return [
      {
        title: `${model}: ${task}${data === undefined ? '' : ` (${data})`}${context}`,
        task,
        data,
        model,
        contextTokens,
        metric: scored[0]!.metric ?? 'score',
        lowerIsBetter: scored[0]!.lowerIsBetter,
        bestScore: scored[0]!.bestScore,
        seeds: Math.max(1, new Set(own.flatMap((cell) => cell.seed ?? [])).size),
        points: [...byCell.values()].map((same) => ({
          method: same[0]!.method,
          budgetTokens: same[0]!.budgetTokens,
          score: mean(same.map((cell) => cell.score!)),
          marked: same.some((cell) => cell.neverSparse),
        })),
      },
    ];
  });
}

/** Methods of each task, model and context as rows, budgets as columns. */
export function sweepWideTable(cells: readonly SweepCell[]): Table {
  const panels = sweepPanels(cells);
  const budgets = [...new Set(cells.flatMap((c) => c.budgetTokens ?? []))].sort((a, b) => a - b);
  const hasDense = cells.some((c) => c.budgetTokens === undefined);
  const rows: Table['rows'] = panels.flatMap(({ task, data, model, contextTokens, metric, points }) =>
    [...new Set(points.map((p) => p.method))].map((method) => {
      const show = (budget: number | undefined) => {
        const found = points.find((p) => p.method === method && p.budgetTokens === budget);
        const text = found === undefined ? '' : String(Number(found.score.toPrecision(4)));
        return found?.marked ? `${text}*` : text;
      };
      return [
        ...[
          data === undefined ? task : `${task} (${data})`,
          model,
          contextTokens,
          metric,
          methodLabel(method),
        ],
        ...budgets.map(show),
        ...(hasDense ? [show(undefined)] : []),
      ];
    }),
  );
  return {
    columns: [
      { key: 'task' },
      { key: 'model' },
      { key: 'context', align: 'right' },
      { key: 'metric' },
      { key: 'method', title: 'method, budget:' },
      ...budgets.map((b) => ({ key: String(b), align: 'right' as const })),
      ...(hasDense ? [{ key: 'all', align: 'right' as const }] : []),
    ],
    rows,
    notes: sweepNotes(cells),
  };
}

/** What the scores of a wide table or a figure are means over; nothing where each stands for itself. */
export function sweepSeeds(panels: readonly SweepPanel[]): string | undefined {
  const several = panels.filter(({ seeds }) => seeds > 1);
  if (several.length === 0) return undefined;
  const tasks = [...new Set(several.map(({ task }) => task))];
  const which = several.length === panels.length ? 'scores' : `scores of ${tasks.join(', ')}`;
  return `${which} are means over ${Math.max(...several.map(({ seeds }) => seeds))} seeds`;
}

function sweepNotes(cells: readonly SweepCell[]): string[] {
  const seeds = sweepSeeds(sweepPanels(cells));
  const failed = new Map(cells.filter((cell) => cell.error !== undefined).map((c) => [c.unit, c.error]));
  return [
    ...(seeds === undefined ? [] : [seeds]),
    ...(cells.some((cell) => cell.neverSparse)
      ? [
          '* never attended fewer tokens than the cache held in some or all samples: there it was the same as full',
        ]
      : []),
    ...[...failed].map(([unit, error]) => `failed: ${unit}: ${error}`),
  ];
}
