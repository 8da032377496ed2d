/** Reading what users hand in: files, standard input, lists of token ids. */
import { QuestError } from '../errors.js';
import { decodeText, readTextFile } from '../reading.js';

/** All of standard input; a synchronous read fails on pipes that are not ready. */
async function readStdin(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

/** Reads a text file; `-` is standard input. */
export async function readText(path: string, flag: string): Promise<string> {
  const rules = { code: 'E_INPUT', hint: `check the path after ${flag}` };
  if (path !== '-') return readTextFile(path, rules);
  return decodeText(await readStdin(), 'standard input', rules);
}

/** Token ids from a JSON array (or `{"input_ids": [...]}`), each checked against the vocabulary. */
export function parseIds(text: string, vocab: number, source: string): Int32Array {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new QuestError('E_IDS', `${source} is not JSON: ${(cause as Error).message}`, {
      hint: 'give an array of token ids, e.g. [1, 450, 4996]',
      cause,
    });
  }
  const ids = Array.isArray(value) ? value : (value as { input_ids?: unknown } | null)?.input_ids;
  if (!Array.isArray(ids)) {
    throw new QuestError('E_IDS', `${source} holds no array of token ids`, {
      hint: 'give e.g. [1, 450, 4996]',
    });
  }
  const at = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocab);
  if (at >= 0) {
    throw new QuestError(
      'E_IDS',
      `id ${JSON.stringify(ids[at])} at place ${at} of ${source} is outside the vocabulary (0..${vocab - 1})`,
      {
        hint: 'make the ids with the same model: quest tokenize --model ...',
      },
    );
  }
  return Int32Array.from(ids as number[]);
}
