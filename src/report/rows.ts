/** Rows that reports are made of. Evaluations fill them in; nothing here knows how they were computed. */

/** One cell of a table, over all samples. */
export interface CellResult {
  method: string;
  label: string;
  /** Absent for methods without a budget. */
  budgetTokens: number | undefined;
  samples: number;
  /** 0 to 100. */
  scorePct: number;
  /** 95% interval of the score, 0 to 100. */
  ci95: readonly [number, number];
  /** KV and metadata bytes read by the decode steps, as a share of what `full` reads. */
  kvReadPct: number;
  /** Samples in which no step attended fewer tokens than the cache held: the method had no effect there. */
  neverSparse: number;
  skipLayers: number | undefined;
  pageSize: number | undefined;
  group: string | undefined;
  sinks: number | undefined;
  h2oPrefill: boolean | undefined;
}

/** One sample of one cell. */
export interface SampleResult {
  label: string;
  budgetTokens: number | undefined;
  depthPct: number;
  score: number;
}

/** Wilson's 95% interval of a proportion, in percent: sensible at 0 and 100 percent and for few samples. */
export function wilson95(successes: number, samples: number): [number, number] {
  if (samples === 0) return [0, 100];
  const z = 1.959963984540054;
  const p = successes / samples;
  const scale = 1 + (z * z) / samples;
  const centre = (p + (z * z) / (2 * samples)) / scale;
  const half = (z * Math.sqrt((p * (1 - p)) / samples + (z * z) / (4 * samples * samples))) / scale;
  return [Math.max(0, centre - half) * 100, Math.min(1, centre + half) * 100];
}

/** Why `kv_read_pct` of these cells exceeds 100; nothing where there are none. */
export function manyReadsNote(names: readonly string[]): string[] {
  if (names.length === 0) return [];
  return [
    `${names.join(', ')}: kv_read_pct is above 100, because the query heads of a group share their keys and values in full, but each has a page list of its own here, and every list counts as a read, as a kernel with per-head lists reads it`,
  ];
}
