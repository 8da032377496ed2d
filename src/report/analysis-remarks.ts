/** What a reader of an analysis is looking at, where it is not what the paper shows: said from the numbers of the run. */
import { plural } from '../words.js';
import type { RecallCell, RecallReport, SparsityReport } from './analysis.js';
import { PAPER_SPARSITY } from './analysis.js';

/** The definition, for every output with an oracle in it. */
export const ORACLE_NOTE =
  'oracle: an upper bound, no method to run: at every step each query head reads the budget of tokens with the highest true logits q.k, the newest token always among them; it must read all keys to know which';

/** Fewer are a matter of chance: with 128 tokens after 1K a layer of quest-tiny moves by tens of percent from text to text. */
const CREDIBLE = { tokens: 4096, scored: 512 };
/** Perplexity of the paper's models on PG-19. */
const PAPER_PPL = 7;
/** Shares of KV that differ by more are another picture. */
const FAR = 0.1;

const pct = (share: number): string => `${Math.round(100 * share)}%`;

/** Doubts about a table of KV that each layer needs. */
export function sparsityRemarks(
  report: SparsityReport,
  means: (method: string) => { first?: number | undefined; others?: number | undefined },
): string[] {
  const { tokens, scored, tolerance, modelName, cells } = report;
  const remarks: string[] = [];
  if (tokens < CREDIBLE.tokens || scored < CREDIBLE.scored)
    remarks.push(
      `WARNING: ${plural(scored, 'scored token')} of ${tokens.toLocaleString('en-US')} are too few: shares move by chance from layer to layer; believe runs of --tokens ${CREDIBLE.tokens} --scored ${CREDIBLE.scored} or more`,
    );
  const ppl = cells[0]?.fullPpl ?? PAPER_PPL;
  if (ppl > 2 * PAPER_PPL)
    remarks.push(
      `a rise of ${tolerance} is ${((100 * tolerance) / ppl).toPrecision(2)}% of this perplexity of ${ppl.toFixed(1)}, and ${((100 * tolerance) / PAPER_PPL).toPrecision(2)}% of the ${PAPER_PPL} of the paper's models: chance moves it by more; --tolerance ${((tolerance * ppl) / PAPER_PPL).toPrecision(2)} asks for as much as the paper did`,
    );
  const method = cells.some((cell) => cell.method === 'oracle') ? 'oracle' : cells[0]?.method;
  if (method === undefined) return remarks;
  const { first, others } = means(method);
  const paperOthers = PAPER_SPARSITY.others[method];
  if (first !== undefined && first > PAPER_SPARSITY.firstLayers + FAR)
    remarks.push(
      `not as in the paper: layers 0 and 1 of ${modelName} can drop ${pct(first)} under ${method}, the paper's ${pct(PAPER_SPARSITY.firstLayers)}; they attend few tokens, and are dense by default (--skip-layers) only because the paper's are`,
    );
  if (others !== undefined && paperOthers !== undefined && others < paperOthers - FAR)
    remarks.push(
      `not as in the paper: the other layers of ${modelName} can drop ${pct(others)} under ${method}, the paper's ${pct(paperOthers)}`,
    );
  return remarks;
}

/** Half of the top tokens among the first and the latest ones: attention that no selection is needed for. */
const LOCAL = 0.5;
/** Recalls that a table shows as all but the same. */
const CLOSE = 0.005;

/** Doubts about a table of recall. */
export function recallRemarks(report: RecallReport): string[] {
  const { modelName, cells, top } = report;
  const sparse = cells.filter((cell) => cell.budgetTokens !== undefined && !cell.neverSparse);
  const at = (method: string, budget: number | undefined) =>
    sparse.find((cell) => cell.method === method && cell.budgetTokens === budget);
  const remarks: string[] = [];
  const streaming = sparse
    .filter(({ method }) => method === 'streaming')
    .sort((a, b) => a.budgetTokens! - b.budgetTokens!)[0];
  if (streaming !== undefined && streaming.recall > LOCAL)
    remarks.push(
      `not as in the paper: in ${modelName} ${pct(streaming.recall)} of the top ${top} tokens are among the first and the latest ${streaming.budgetTokens}, which StreamingLLM reads and every evictor keeps; recall says little here about finding what is far away, which quest passkey measures`,
    );
  const better = sparse.filter((cell: RecallCell) => {
    const quest = at('quest', cell.budgetTokens);
    return (
      ['streaming', 'h2o', 'tova'].includes(cell.method) &&
      quest !== undefined &&
      cell.recall > quest.recall + CLOSE
    );
  });
  if (better.length > 0)
    remarks.push(
      `not as in the paper, where Quest is far above evictors: ${better.map((cell) => `${cell.label} ${cell.budgetTokens}`).join(', ')} recall more than Quest at the same budget`,
    );
  return remarks;
}
