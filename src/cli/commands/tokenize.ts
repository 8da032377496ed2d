/** quest tokenize: text to ids and back. */
import { QuestError } from '../../errors.js';
import { openCheckpoint } from '../../model/index.js';
import type { CommandContext } from '../commands.js';
import { parseIds, readText } from '../input.js';

async function input(context: CommandContext): Promise<{ text: string; source: string }> {
  const file = context.settings.maybeString('file');
  const [argument] = context.args;
  if (file !== undefined && argument !== undefined) {
    throw new QuestError('E_USAGE', 'both a text and --file were given', { hint: 'give one of them' });
  }
  if (file !== undefined) return { text: await readText(file, '--file'), source: file };
  if (argument !== undefined) return { text: argument, source: 'the argument' };
  if (process.stdin.isTTY) {
    throw new QuestError('E_USAGE', 'there is nothing to tokenize', {
      hint: 'give a text, --file FILE, or pipe it in',
    });
  }
  return { text: await readText('-', 'standard input'), source: 'standard input' };
}

/** Runs `quest tokenize`. */
export async function run(context: CommandContext): Promise<number> {
  const { settings, out } = context;
  const { text, source } = await input(context);
  const checkpoint = await openCheckpoint(settings.string('model'));
  const tokenizer = await checkpoint.tokenizer();
  if (settings.flag('decode')) {
    if (settings.source('bos') !== 'default') {
      throw new QuestError('E_USAGE', '--bos and --no-bos have no meaning with --decode', {
        hint: 'use --special to show special tokens',
      });
    }
    const ids = parseIds(text, tokenizer.vocabSize, source);
    const decoded = tokenizer.decode(ids, { skipSpecial: !settings.flag('special') });
    // Exactly the text when it goes to a file or a program; a line end for people.
    out.data(process.stdout.isTTY ? `${decoded}\n` : decoded);
    return 0;
  }
  const bos = settings.maybeFlag('bos');
  if (bos === true && tokenizer.bosId === undefined) {
    throw new QuestError(
      'E_USAGE',
      `the tokenizer of ${checkpoint.name} has no beginning-of-sequence token`,
      {
        hint: 'leave --bos out',
      },
    );
  }
  const ids = tokenizer.encode(text, bos === undefined ? {} : { bos });
  out.data(`${JSON.stringify([...ids])}\n`);
  out.detail(`${ids.length} ids from ${tokenizer.source}`);
  return 0;
}
