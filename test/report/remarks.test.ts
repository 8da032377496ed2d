import { describe, expect, test } from 'vitest';
import {
  type RecallReport,
  recallNotes,
  type SparsityReport,
  sparsityWideTable,
} from '../../src/report/analysis.js';

const sparsity = (more: Partial<SparsityReport>, dropped: [first: number, others: number], fullPpl = 7) => {
  const report: SparsityReport = {
    ...{ modelName: 'm', text: 'a book', tokens: 8192, scored: 1024, tolerance: 0.01, pageSize: 16 },
    cells: [0, 1, 2, 3].map((layer) => ({
      ...{ layer, method: 'oracle', label: 'Oracle', budgetTokens: 1, ppl: fullPpl, fullPpl },
      droppedShare: dropped[layer < 2 ? 0 : 1],
    })),
    ...more,
  };
  return sparsityWideTable(report).notes!.filter((note) => !/^(text|paper):/.test(note));
};

describe('sparsity', () => {
  test('as in the paper only needs the oracle explained', () => {
    expect(sparsity({}, [0.03, 0.97])).toEqual([expect.stringMatching(/^oracle: an upper bound/)]);
  });

  test('of few tokens is not to be believed', () => {
    const note = /^WARNING: 128 scored tokens of 8,192 are too few/;
    expect(sparsity({ scored: 128 }, [0.03, 0.97])).toContainEqual(expect.stringMatching(note));
    expect(sparsity({ tokens: 1024 }, [0.03, 0.97])).toContainEqual(
      expect.stringMatching(/of 1,024 are too few/),
    );
    expect(sparsity({ tokens: 4096, scored: 512 }, [0.03, 0.97])).toHaveLength(1);
  });

  test('of a weak model: the same rise is a smaller share, and what differs is said', () => {
    expect(sparsity({}, [0.8, 0.7], 70).slice(1)).toEqual([
      "a rise of 0.01 is 0.014% of this perplexity of 70.0, and 0.14% of the 7 of the paper's models: chance moves it by more; --tolerance 0.10 asks for as much as the paper did",
      expect.stringMatching(
        /^not as in the paper: layers 0 and 1 of m can drop 80% under oracle, the paper's 3%/,
      ),
      expect.stringMatching(
        /^not as in the paper: the other layers of m can drop 70% under oracle, the paper's 97%/,
      ),
    ]);
  });
});

describe('recall', () => {
  const notes = (values: Record<string, number>) => {
    const cells = Object.entries(values).map(([method, recall]) => ({
      ...{ method, label: method, budgetTokens: 64, samples: 1, recall, byLayer: [], kvReadPct: 10 },
      neverSparse: false,
    }));
    const report: RecallReport = { modelName: 'm', contextTokens: 2000, top: 10, skipLayers: 2, cells };
    return recallNotes(report);
  };

  test('as in the paper needs no remark', () => {
    expect(notes({ quest: 0.95, streaming: 0.3, h2o: 0.45 })).toEqual([]);
  });

  test('of nearby tokens, and of evictors above Quest, is called what it is', () => {
    expect(notes({ quest: 0.6, streaming: 0.7, h2o: 0.55 })).toEqual([
      expect.stringMatching(/in m 70% of the top 10 tokens are among the first and the latest 64/),
      expect.stringMatching(/streaming 64 recall more than Quest at the same budget$/),
    ]);
  });
});
