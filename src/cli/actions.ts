/** Commands with actions: `quest data pull`, `quest model info`. */
import { QuestError } from '../errors.js';
import { nearest } from './suggest.js';

/** The action among those that the command has. */
export function chooseAction<T extends string>(
  command: string,
  action: string | undefined,
  actions: readonly T[],
): T {
  const found = actions.find((known) => known === action);
  if (found !== undefined) return found;
  const near = action === undefined ? undefined : nearest(action, actions);
  throw new QuestError(
    'E_USAGE',
    action === undefined ? `quest ${command} wants an action` : `quest ${command} has no action "${action}"`,
    { hint: near === undefined ? `give one of ${actions.join(', ')}` : `did you mean ${near}?` },
  );
}
