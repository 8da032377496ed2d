/**
 * Chinese word segmentation equal to Python's `jieba.cut(text, cut_all=False)`: dictionary, word graph and hidden Markov
 * model come from jieba-wasm (jieba-rs), whose two departures from the original are put right here.
 */

export type Segment = (text: string) => string[];

/** Text that goes through the word graph; everything else is cut into single characters. */
const GRAPH_BLOCK = /([\u4e00-\u9fd5a-zA-Z0-9+#&._%-]+)/u;
const ASCII_PIECE = /^[a-zA-Z0-9+#&._%-]+$/;
/** The dictionary's words without any Chinese character. */
const ASCII_WORDS = new Set(['AT&T', 'c#', 'C#', 'c++', 'C++']);
const NUMBER_OR_WORD = /([a-zA-Z0-9]+(?:\.\d+)?%?)/;

/** Cuts a run of Latin letters, digits and signs again: jieba-rs takes any character for a decimal point (`AK-47`). */
function recut(run: string): string[] {
  return run.split(NUMBER_OR_WORD).filter((piece) => piece !== '');
}

function cutBlock(block: string, cut: (text: string, hmm: boolean) => string[]): string[] {
  const out: string[] = [];
  let run = '';
  const flush = () => {
    if (run !== '') out.push(...recut(run));
    run = '';
  };
  for (const word of cut(block, true)) {
    if (ASCII_PIECE.test(word) && !ASCII_WORDS.has(word)) run += word;
    else {
      flush();
      out.push(word);
    }
  }
  flush();
  return out;
}

/** Single characters, but a Windows line end stays whole. */
function cutOther(text: string): string[] {
  return text.match(/\r\n|[\s\S]/gu) ?? [];
}

let loading: Promise<Segment> | undefined;

/** Loads the segmenter with its dictionary on first use: about a second. */
export function loadSegmenter(): Promise<Segment> {
  loading ??= import('jieba-wasm').then(({ cut }) => (text: string) => {
    const blocks = text.split(GRAPH_BLOCK);
    // Blocks for the graph stand at odd places, what lies between them at even ones.
    return blocks.flatMap((block, i) => (i % 2 === 1 ? cutBlock(block, cut) : cutOther(block)));
  });
  return loading;
}
