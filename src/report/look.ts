/** How methods and sources look in every figure, so that pictures of different experiments read alike. */

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
