/** A model's self-check: its greedy continuation of a fixed prompt, compared with what was recorded beside the weights. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { QuestError } from '../errors.js';
import type { Checkpoint } from '../model/index.js';
import { writeFileAtomic } from '../report/files.js';
import { Model } from '../runtime/index.js';

const FILE = 'selfcheck.json';
/** Repetitive, so that the likeliest token leads clearly and last-bit differences between SIMD levels cannot change the path. */
const PROMPT = `${'The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. '.repeat(6)}The grass is`;
const MAX_TOKENS = 24;

interface SelfCheck {
  fingerprint: string;
  prompt: string;
  max_tokens: number;
  /** sha256 over the generated ids, comma-separated. */
  ids_sha256: string;
  text: string;
}

export type SelfCheckResult =
  | { status: 'ok' | 'failed'; detail: string }
  | { status: 'absent'; detail: string };

async function greedy(
  checkpoint: Checkpoint,
  device: string,
  threads: number,
  prompt: string,
  maxTokens: number,
) {
  const tokenizer = await checkpoint.tokenizer();
  using model = await Model.load(checkpoint.spec, { device, threads });
  using base = model.createSequence(16);
  await base.prefill(tokenizer.encode(prompt));
  const [ids] = await model.generate([base], {
    maxTokens,
    stopIds: Int32Array.from(checkpoint.eosIds),
    sampling: { temperature: 0, topP: 1, seed: 0 },
  });
  const hash = createHash('sha256')
    .update([...ids!].join(','))
    .digest('hex');
  return { hash, text: tokenizer.decode(ids!) };
}

/** Runs the model and compares with the recorded hash. */
export async function selfCheck(
  checkpoint: Checkpoint,
  device: string,
  threads: number,
): Promise<SelfCheckResult> {
  const path = join(checkpoint.dir, FILE);
  if (!existsSync(path)) return { status: 'absent', detail: `${checkpoint.name} has no ${FILE}` };
  let expected: SelfCheck;
  try {
    expected = JSON.parse(readFileSync(path, 'utf8')) as SelfCheck;
  } catch (cause) {
    throw new QuestError('E_SELFCHECK', `${path} is not readable: ${(cause as Error).message}`, {
      exitCode: 3,
      cause,
    });
  }
  if (expected.fingerprint !== checkpoint.fingerprint) {
    return {
      status: 'failed',
      detail: `the weights (${checkpoint.fingerprint}) are not the ones that ${FILE} was made for (${expected.fingerprint})`,
    };
  }
  const { hash, text } = await greedy(checkpoint, device, threads, expected.prompt, expected.max_tokens);
  if (hash === expected.ids_sha256)
    return { status: 'ok', detail: `greedy output as recorded (${hash.slice(0, 12)})` };
  return {
    status: 'failed',
    detail: `greedy output is ${JSON.stringify(text)}, recorded was ${JSON.stringify(expected.text)}`,
  };
}

/** Records the present output as the expected one. */
export async function writeSelfCheck(
  checkpoint: Checkpoint,
  device: string,
  threads: number,
): Promise<string> {
  const { hash, text } = await greedy(checkpoint, device, threads, PROMPT, MAX_TOKENS);
  const check: SelfCheck = {
    fingerprint: checkpoint.fingerprint,
    prompt: PROMPT,
    max_tokens: MAX_TOKENS,
    ids_sha256: hash,
    text,
  };
  const path = join(checkpoint.dir, FILE);
  writeFileAtomic(path, `${JSON.stringify(check, null, 2)}\n`);
  return path;
}
