/** How methods and sources look in every figure, so that pictures of different experiments read alike. */
import { textWidth } from './svg.js';

const METHODS: Readonly<Record<string, { label: string; color: string; shape: string }>> = {
  full: { label: 'Full', color: '#444444', shape: 'circle' },
  quest: { label: 'Quest', color: '#d1495b', shape: 'circle' },
  'quest-paper': { label: 'Quest (paper)', color: '#edae49', shape: 'square' },
  streaming: { label: 'StreamingLLM', color: '#00798c', shape: 'triangle-up' },
  h2o: { label: 'H2O', color: '#30638e', shape: 'diamond' },
  tova: { label: 'TOVA', color: '#7b5ea7', shape: 'cross' },
  oracle: { label: 'Oracle', color: '#5f8a3c', shape: 'triangle-down' },
};
const SPARE_COLORS = ['#a0522d', '#c06c84', '#3d5a80'];
const SPARE_SHAPE = 'triangle-right';

/** What a figure calls our own values beside the paper's. */
export const OURS = 'measured here';

/** `quest` -> `Quest`; a name that is not known stays. */
export const methodLabel = (name: string): string => METHODS[name]?.label ?? name;

/** A title in lines that fit a panel: broken at spaces, and within words that are wider than a line. */
export function titleLines(text: string, width: number, fontSize = 12): string[] {
  const fits = (line: string): boolean =>
    textWidth({ fontSize, fontWeight: 'bold' }, line.trimEnd()) <= width;
  const lines = [''];
  for (const word of text.match(/\S+\s*/g) ?? []) {
    if (lines.at(-1) !== '' && !fits(lines.at(-1)! + word)) lines.push('');
    for (const c of word) {
      if (lines.at(-1) !== '' && !fits(lines.at(-1)! + c)) lines.push('');
      lines[lines.length - 1] += c;
    }
  }
  return lines.map((line) => line.trimEnd());
}

/** Titles of panels side by side, all with the same number of lines, so that panels stand level. */
export function panelTitles(texts: readonly string[], width: number): { lines: string[]; height: number }[] {
  const wrapped = texts.map((text) => titleLines(text, width));
  const most = Math.max(1, ...wrapped.map((lines) => lines.length));
  return wrapped.map((lines) => ({ lines, height: most * TITLE_LINE }));
}

/** Pixels of a line of a panel's title. */
const TITLE_LINE = 15;

/** Vega-lite scales that give each label its colour and its point shape, whichever others are in the figure. */
export function methodScales(labels: readonly string[]) {
  const known = labels.map((label) => Object.values(METHODS).find((m) => m.label === label));
  let spare = 0;
  const colors = known.map((m) => m?.color ?? SPARE_COLORS[spare++ % SPARE_COLORS.length]!);
  return {
    color: { domain: labels, range: colors },
    shape: { domain: labels, range: known.map((m) => m?.shape ?? SPARE_SHAPE) },
  };
}

/** Our lines are solid, the paper's dashed; `shown` says whether the legend tells them apart. */
export function sourceDash(paper: string, shown: boolean, legend: Record<string, unknown> = {}) {
  return {
    field: 'source',
    type: 'nominal' as const,
    title: null,
    scale: {
      domain: [OURS, paper],
      range: [
        [1, 0],
        [5, 4],
      ],
    },
    legend: shown ? { symbolType: 'stroke', symbolSize: 300, symbolStrokeColor: '#444', ...legend } : null,
  };
}
