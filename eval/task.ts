/** What a protocol gives to the runner: items with their split into dense prefill and decode steps, and a score. */

import type { z } from 'zod';

export interface TaskItem {
  /** Names the item in the journal; stable over runs. */
  id: string;
  index: number;
  /** Prefilled densely, once for all cells. */
  prefillIds: Int32Array;
  /** Fed as decode steps through each cell's method. */
  stepIds: Int32Array;
  /** Generation stops here or at an end-of-sequence token. */
  maxNewTokens: number;
  /** More tokens that end the answer. They may not be its first token: then the likeliest other one is taken. */
  stopIds?: readonly number[];
  /** What reports need to know beside the score, e.g. depth and expected answer. */
  fields: Record<string, string | number>;
  /** 0 to 1, from the generated text. */
  score(text: string): number;
}

export interface Task {
  name: string;
  /** Everything that decides which items there are; part of the plan. */
  params: Record<string, string | number | boolean | readonly (string | number)[]>;
  count: number;
  /** What its journal rows hold beside the usual, where it has a runner of its own. */
  rowShape?: z.ZodRawShape;
  /** Items are made when they are needed, so that tokenising one can overlap with computing another. */
  item(index: number): TaskItem | Promise<TaskItem>;
}
