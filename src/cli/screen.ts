/** A picture of some lines at the cursor that is drawn again in place. */
import type { Output } from './output.js';

const ESC = '\u001b[';

export interface Screen {
  /** Draws lines over those of the last call; they must not be wider than the terminal. At most ten times a second, unless `now`. */
  draw(lines: () => readonly string[], now?: boolean): void;
  /** Shows the cursor again; what was drawn last stays. */
  close(): void;
}

const MIN_INTERVAL_MS = 100;

/** Opens a picture on standard output, which must be a terminal. Hides the cursor meanwhile. */
export function openScreen(out: Output): Screen {
  let drawn = 0;
  let last = Number.NEGATIVE_INFINITY;
  let open = true;
  const showCursor = () => {
    if (open) out.data(`${ESC}?25h`);
    open = false;
  };
  process.once('exit', showCursor); // a second Ctrl-C leaves at once
  out.data(`${ESC}?25l`);
  return {
    draw(lines, now = false) {
      const time = performance.now();
      if (!now && time - last < MIN_INTERVAL_MS) return;
      last = time;
      const rows = lines();
      const up = drawn > 0 ? `${ESC}${drawn}A` : '';
      // Each line is cleared to its end: what stood there may have been longer. Fewer lines than before leave none behind.
      out.data(`${up}\r${rows.map((line) => `${line}${ESC}K\n`).join('')}${ESC}J`);
      drawn = rows.length;
    },
    close() {
      showCursor();
      process.off('exit', showCursor);
    },
  };
}
