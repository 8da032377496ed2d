/** Vega-Lite specifications to SVG in plain Node: no canvas, no browser. Loaded only when a figure is drawn. */
import type { TopLevelSpec } from 'vega-lite';

/** The look that all our figures share. */
export const THEME = {
  background: 'white',
  font: 'DejaVu Sans, Helvetica, Arial, sans-serif',
  title: {
    fontSize: 15,
    subtitleFontSize: 11.5,
    subtitleColor: '#555',
    anchor: 'start' as const,
    offset: 12,
  },
  axis: { labelFontSize: 11, titleFontSize: 12, titleFontWeight: 'normal' as const, gridColor: '#e8e8e8' },
  legend: { labelFontSize: 11, titleFontSize: 12, titleFontWeight: 'normal' as const, symbolSize: 90 },
  header: { labelFontSize: 12, labelFontWeight: 'bold' as const, titleFontSize: 12 },
  view: { stroke: '#ccc' },
};

/** Width of text in pixels, for DejaVu Sans or a narrower font; Vega's own estimate without a canvas is a third too wide. */
export function textWidth(item: { fontSize?: number; fontWeight?: unknown }, text: unknown): number {
  let ems = 0;
  for (const c of String(text)) ems += /[iljt.,:;'|()[\] ]/.test(c) ? 0.38 : /[mwMW%@]/.test(c) ? 0.92 : 0.63;
  return ems * (item.fontSize ?? 11) * (item.fontWeight === 'bold' ? 1.1 : 1);
}

/** Renders a specification with the shared theme. Fonts are named, not embedded. */
export async function renderSvg(spec: TopLevelSpec): Promise<string> {
  const [vega, { compile }] = await Promise.all([import('vega'), import('vega-lite')]);
  const themed = { ...spec, config: { ...THEME, ...spec.config }, padding: 14 } as TopLevelSpec;
  (vega as unknown as { textMetrics: { width: typeof textWidth } }).textMetrics.width = textWidth;
  vega.resetSVGDefIds(); // ids count per process; a figure's bytes must not depend on what was drawn before
  const logger = vega.logger(vega.Error);
  const view = new vega.View(vega.parse(compile(themed, { logger }).spec), { renderer: 'none', logger });
  try {
    return `${await view.toSVG()}\n`;
  } finally {
    view.finalize();
  }
}
