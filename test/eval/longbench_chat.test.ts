import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { findChatTemplate } from '../../src/model/chat.js';
import { openCheckpoint } from '../../src/model/index.js';

const base = await openCheckpoint('quest-tiny');
const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** A checkpoint of another name, with these files in its folder. */
function checkpoint(name: string, files: Record<string, string | object> = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'quest-chat-'));
  folders.push(dir);
  for (const [file, content] of Object.entries(files))
    writeFileSync(join(dir, file), typeof content === 'string' ? content : JSON.stringify(content));
  return { ...base, name, dir };
}

const template =
  "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] | trim }} [/INST]{% endfor %}{% if add_generation_prompt %} go:{% endif %}";

describe('chat templates', () => {
  test('Vicuna v1.1 for LongChat and Vicuna, by name', async () => {
    for (const name of ['lmsys/longchat-7b-v1.5-32k', 'lmsys/vicuna-7b-v1.5']) {
      const chat = await findChatTemplate(checkpoint(name));
      expect(chat?.name).toBe('vicuna-v1.1');
      expect(chat?.render('Hello {{ x }}')).toBe(
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. USER: Hello {{ x }} ASSISTANT:",
      );
    }
  });

  test('none where the files have none', async () => {
    expect(await findChatTemplate(base)).toBeUndefined();
    expect(await findChatTemplate(checkpoint('base', { 'tokenizer_config.json': {} }))).toBeUndefined();
  });

  test('the one of tokenizer_config.json; a BOS that the tokenizer adds is left to it', async () => {
    const config = { chat_template: template, bos_token: { content: '<s>' }, eos_token: '</s>' };
    const found = checkpoint('m', { 'tokenizer_config.json': config });
    const tokenizer = await base.tokenizer();
    const render = async (addsBos: boolean) => {
      const chat = await findChatTemplate({ ...found, tokenizer: async () => ({ ...tokenizer, addsBos }) });
      expect(chat?.name).toBe('tokenizer_config.json');
      return chat?.render(' Hi ');
    };
    expect(await render(true)).toBe('[INST] Hi [/INST] go:');
    expect(await render(false)).toBe('<s>[INST] Hi [/INST] go:');
  });

  test('the date is not the day of the run', async () => {
    const dated =
      "{% if date_string is not defined %}{{ strftime_now('%Y') }}{% else %}{{ date_string }}{% endif %}";
    const chat = await findChatTemplate(
      checkpoint('m', { 'tokenizer_config.json': { chat_template: dated } }),
    );
    expect(chat?.render('x')).toBe('26 Jul 2024');
  });

  test('a list of templates, and a file of its own, which wins', async () => {
    const list = [
      { name: 'tool_use', template: 'no' },
      { name: 'default', template: 'yes {{ messages[0].content }}' },
    ];
    const files = { 'tokenizer_config.json': { chat_template: list } };
    expect((await findChatTemplate(checkpoint('m', files)))?.render('x')).toBe('yes x');
    const both = { ...files, 'chat_template.jinja': 'file {{ messages[0].content }}' };
    const chat = await findChatTemplate(checkpoint('m', both));
    expect([chat?.name, chat?.render('x')]).toEqual(['chat_template.jinja', 'file x']);
  });

  test('templates that do not end, or that no model could have, are one clear error', async () => {
    const loop = '{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}';
    const chat = await findChatTemplate(
      checkpoint('m', { 'tokenizer_config.json': { chat_template: loop } }),
      200,
    );
    expect(() => chat?.render('x')).toThrow(/takes longer than 0\.2 s/);
    const huge = checkpoint('m', { 'chat_template.jinja': 'x'.repeat((1 << 20) + 1) });
    await expect(findChatTemplate(huge)).rejects.toThrow(
      /it has 1048577 bytes; at most 1048576 are accepted/,
    );
  });

  test('broken templates are one clear error', async () => {
    const broken = { 'tokenizer_config.json': { chat_template: '{% for %}' } };
    await expect(findChatTemplate(checkpoint('m', broken))).rejects.toThrow(
      /tokenizer_config.json cannot be used/,
    );
    const refuses = { 'tokenizer_config.json': { chat_template: "{{ raise_exception('no users') }}" } };
    const chat = await findChatTemplate(checkpoint('m', refuses));
    expect(() => chat?.render('x')).toThrow(/no users/);
  });
});
