/** Figure 11 of the Quest paper: LongChat-7b-v1.5-32k on LongBench, attention times on an RTX 4090. */

interface PaperIso {
  contextTokens: number;
  budgets: Readonly<Record<string, number>>;
  attentionUs: Readonly<Record<string, number>>;
}

export const PAPER_ISO_TITLE = 'Figure 11 (LongChat-7b-v1.5-32k; attention times on an RTX 4090)';

const row = (
  context: number,
  tova: number,
  quest: number,
  us: readonly [number, number, number],
): PaperIso => ({
  contextTokens: context,
  budgets: { tova, quest, 'quest-paper': quest },
  attentionUs: { full: us[0], tova: us[1], quest: us[2], 'quest-paper': us[2] },
});

const FIGURE_11: Readonly<Record<string, PaperIso>> = {
  qasper: row(5819, 5120, 512, [161.8, 141.9, 43.2]),
  hotpotqa: row(15_370, 5120, 1024, [377.1, 143.1, 77.7]),
  gov_report: row(11_984, 10_240, 1024, [315.0, 272.4, 71.3]),
  triviaqa: row(14_101, 10_240, 512, [352.8, 274.3, 60.4]),
  narrativeqa: row(24_723, 14_336, 5120, [551.2, 357.5, 187.2]),
  multifieldqa_en: row(8154, 8192, 1024, [222.2, 222.0, 64.6]),
};

/** The paper's value for a task, where it has one. */
export const paperIso = (task: string): PaperIso | undefined => FIGURE_11[task];
