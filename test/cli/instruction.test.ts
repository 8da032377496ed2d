/** Prompts with an instruction: where they are cut, and that the instruction is followed. */
import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { composePrompt } from '../../src/cli/prompt.js';
import type { ChatTemplate } from '../../src/model/chat.js';
import { openCheckpoint } from '../../src/model/index.js';
import { hasAddon, quest, ROOT, temporaryFolder } from './spawn.js';

const tokenizer = await (await openCheckpoint('quest-tiny')).tokenizer();
const text = (ids: Int32Array) => tokenizer.decode(ids, { skipSpecial: true });
const chat: ChatTemplate = { name: 'x', render: (message) => `USER: ${message} ASSISTANT:` };

describe('composing', () => {
  test('the text is prefilled, the instruction and what follows it are steps', () => {
    const prompt = composePrompt(tokenizer, 'A long book.\n', ' What is it? ', chat);
    expect(text(prompt.prefillIds)).toBe('USER: A long book.\n\n');
    expect(text(prompt.stepIds)).toBe('What is it? ASSISTANT:');
    expect(prompt.prefillIds[0]).toBe(tokenizer.bosId);
    expect(prompt.stepIds[0]).not.toBe(tokenizer.bosId);
    expect(prompt.format).toBe('x');
  });

  test('an instruction that the text repeats is the one at the end', () => {
    const prompt = composePrompt(tokenizer, 'What is it? A book.', 'What is it?', undefined);
    expect(text(prompt.prefillIds)).toBe('What is it? A book.\n\n');
    expect(text(prompt.stepIds)).toBe('What is it?');
  });

  test('an instruction alone, and a text alone', () => {
    const alone = composePrompt(tokenizer, '', 'Tell me a story.', chat);
    expect([text(alone.prefillIds), text(alone.stepIds)]).toEqual(['USER: ', 'Tell me a story. ASSISTANT:']);
    const plain = composePrompt(tokenizer, 'Once upon', undefined, undefined);
    expect([text(plain.prefillIds), plain.stepIds.length]).toEqual(['Once upon', 0]);
  });

  test('a format that changes the instruction is refused', () => {
    const shouts: ChatTemplate = { name: 'loud', render: (message) => message.toUpperCase() };
    expect(() => composePrompt(tokenizer, 'a', 'what?', shouts)).toThrow(
      /format loud changes the instruction/,
    );
    expect(() => composePrompt(tokenizer, 'a', '  ', chat)).toThrow(/--instruction is empty/);
  });
});

describe.skipIf(!hasAddon)('quest generate --instruction', { timeout: 60_000 }, () => {
  const folder = temporaryFolder();
  const file = join(folder, 'haystack.txt');
  const filler = 'The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ';
  writeFileSync(
    file,
    `There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you about the important information there.\n${filler.repeat(40)}\nThe pass key is 48151. Remember it. 48151 is the pass key.\n${filler.repeat(60)}`,
  );
  const args = [
    ...['generate', '--prompt-file', file, '--instruction', 'What is the pass key? The pass key is'],
    ...['--budget', '128', '--max-tokens', '10'],
  ];

  test('finds what the text says, reading a part of it', async () => {
    const { code, stdout, stderr } = await quest(args);
    expect(code).toBe(0);
    expect(stdout).toContain('48151');
    expect(stderr).not.toContain('chat format');
    expect(stderr).toMatch(/^quest 128 read [2-6]\d\.\d% of the KV cache$/m);
  });

  test("puts the checkpoint's chat format around it, unless told not to", async () => {
    const model = join(folder, 'chatty');
    cpSync(join(ROOT, 'models', 'quest-tiny'), model, { recursive: true });
    const template = '{% for m in messages %}USER: {{ m.content }}{% endfor %} ASSISTANT:';
    writeFileSync(join(model, 'tokenizer_config.json'), JSON.stringify({ chat_template: template }));
    const steps = async (more: string[]) => {
      const { stdout, stderr } = await quest([...args, '--model', model, '--dry-run', ...more]);
      expect(stderr).toBe('');
      return Number(/feed (\d+) as decode steps/.exec(stdout)?.[1]);
    };
    const bare = await steps(['--chat', 'none']);
    expect(await steps([])).toBeGreaterThan(bare);
    const run = await quest([...args, '--model', model]);
    expect(run.stderr).toMatch(/^chat format: tokenizer_config\.json$/m);
  });
});
