/** quest score: scores the predictions of a quest longbench run again, without the model. */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { lockFolder } from '../../../eval/lock.js';
import {
  createScorer,
  PREDICTIONS_NAME,
  readPredictions,
  renderPredictions,
} from '../../../eval/longbench_predictions.js';
import { longBenchReport } from '../../../eval/longbench_results.js';
import { readPlan } from '../../../eval/plan.js';
import { QuestError } from '../../errors.js';
import { writeFileAtomic } from '../../report/files.js';
import { plural } from '../../words.js';
import type { CommandContext } from '../commands.js';
import { showReport, writeReport } from './longbench.js';

/** Runs `quest score DIR`. */
export async function run(context: CommandContext): Promise<number> {
  const { out, args, signal } = context;
  const folder = args[0]!;
  if (!existsSync(folder) || !statSync(folder).isDirectory()) {
    throw new QuestError('E_INPUT', `${folder} is no folder`, {
      hint: 'give the --out folder of a quest longbench run',
    });
  }
  const plan = readPlan(folder);
  if (plan !== undefined && plan.task !== 'longbench') {
    throw new QuestError(
      'E_INPUT',
      `${folder} holds a run of quest ${plan.task}, which keeps no predictions`,
      {
        hint: 'give the --out folder of a quest longbench run',
      },
    );
  }
  const unlock = lockFolder(folder);
  try {
    const records = readPredictions(folder);
    const score = createScorer();
    let [fresh, changed] = [0, 0];
    for (const record of records) {
      signal.throwIfAborted();
      const value = await score(record);
      if ((record.score ?? null) === null) fresh++;
      else if (value !== record.score) changed++;
      record.score = value;
    }
    const report = longBenchReport(records, {
      modelName: plan?.model ?? 'unknown model',
      data: typeof plan?.params.data === 'string' ? plan.params.data : 'longbench',
    });
    writeFileAtomic(join(folder, PREDICTIONS_NAME), renderPredictions(records));
    const written = await writeReport(folder, report);
    await showReport(context, report);
    const counts = [
      plural(records.length, 'prediction scored', 'predictions scored'),
      ...(fresh > 0 ? [`${fresh} of them for the first time`] : []),
      ...(fresh < records.length ? [`${changed} ${changed === 1 ? 'differs' : 'differ'} from before`] : []),
    ];
    out.note(`${counts.join(', ')}; ${written} are in ${folder}`);
  } finally {
    unlock();
  }
  return 0;
}
