/** A sweep, read back from its folder: what all its units come to. The units are ordinary runs. */
import { existsSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { z } from 'zod';
import { plural } from '../words.js';
import type { ReportSection } from './html.js';
import { readFigures, readJson, readTable, readWideTable } from './html-run.js';

const manifestSchema = z.looseObject({
  command: z.string(),
  units: z.number(),
  cells: z.number(),
  failed: z.array(z.looseObject({ unit: z.string(), message: z.string().optional() })),
});

const AGAIN = 'the same quest sweep as before writes it again; finished units are kept';

/** Its merged table and figure; nothing where the sweep has not come that far. */
export function readSweep(folder: string): ReportSection | undefined {
  const path = join(folder, 'manifest.json');
  if (!existsSync(path)) return undefined;
  const { command, units, cells, failed } = readJson(path, manifestSchema, AGAIN);
  return {
    title: `Sweep ${basename(resolve(folder))}`,
    lead: `${plural(units, 'unit')}, ${plural(cells, 'cell')}, merged; each unit is a run of its own below`,
    warnings: failed.map(({ unit, message }) => `Failed: ${unit}: ${message ?? 'not computed'}`),
    command,
    ...readWideTable(join(folder, 'table.md'), AGAIN),
    figures: { folder, all: readFigures(folder) },
    long: readTable(join(folder, 'table.csv'), AGAIN),
  };
}
