/** quest model: the models in the hub cache, pulling them, what they need, whether they are what they should be; 4-bit ones. */
import { stat } from 'node:fs/promises';
import { QuestError } from '../../errors.js';
import { findInHubCache, type HubId, hubCacheDir, hubIdOfFolder, parseHubId } from '../../model/hub.js';
import { pullModel } from '../../model/hub_pull.js';
import { listCachedModels, verifySnapshot } from '../../model/hub_store.js';
import { BUILT_IN } from '../../model/package_root.js';
import type { Format, Table } from '../../report/table.js';
import { plural } from '../../words.js';
import { chooseAction } from '../actions.js';
import type { CommandContext } from '../commands.js';
import { startProgress } from '../progress.js';
import { sizeCell, withTransfer } from '../transfer.js';
import { info } from './model_info.js';
import { quantize } from './model_quantize.js';

const ACTIONS = ['pull', 'list', 'info', 'verify', 'quantize'] as const;

/** The one model that the action is about. */
function oneModel(action: string, names: readonly string[]): string {
  const [name] = names;
  if (name !== undefined && names.length === 1) return name;
  throw new QuestError('E_USAGE', `quest model ${action} wants one model, got ${names.length}`, {
    hint: `e.g. quest model ${action} ${action === 'info' || action === 'quantize' ? 'quest-tiny' : 'lmsys/longchat-7b-v1.5-32k'}`,
  });
}

/** A hub id from `ORG/NAME`, `ORG/NAME@REVISION` and `--revision`. */
function hubId(text: string, revision: string | undefined): HubId {
  const id = parseHubId(revision === undefined || text.includes('@') ? text : `${text}@${revision}`);
  if (id === undefined) {
    throw new QuestError(
      'E_USAGE',
      `${JSON.stringify(text)}${revision === undefined ? '' : ` at ${JSON.stringify(revision)}`} is no model on the hub`,
      { hint: 'give ORG/NAME, with --revision BRANCH, TAG or COMMIT where it matters' },
    );
  }
  if (revision !== undefined && id.revision !== revision) {
    throw new QuestError('E_USAGE', `${text} and --revision ${revision} name two revisions`, {
      hint: 'give one of them',
    });
  }
  return id;
}

const aligned = (keys: readonly string[], right: readonly string[]): Table['columns'] =>
  keys.map((key) => ({ key, align: right.includes(key) ? 'right' : 'left' }));

async function pull(context: CommandContext, names: readonly string[], format: Format): Promise<number> {
  const { settings, out } = context;
  const id = hubId(oneModel('pull', names), settings.maybeString('revision'));
  const pulled = await withTransfer(context, id.repo, (transfer) =>
    pullModel(id, {
      ...transfer,
      parallel: settings.number('parallel'),
      force: settings.flag('force'),
      dryRun: settings.flag('dry-run'),
    }),
  );
  await out.table(
    {
      columns: aligned(['file', 'bytes', 'state'], ['bytes']),
      rows: pulled.files.map(({ name, bytes, here }) => [
        name,
        sizeCell(bytes, format),
        here ? 'cached' : settings.flag('dry-run') ? 'to fetch' : 'fetched',
      ]),
    },
    format,
  );
  if (!settings.flag('dry-run')) out.note(`${id.repo} at commit ${pulled.commit} is in ${pulled.dir}`);
  return 0;
}

async function list({ out }: CommandContext, names: readonly string[], format: Format): Promise<number> {
  const cache = hubCacheDir();
  const all = await listCachedModels(cache);
  const rows: Table['rows'] = all
    .filter(({ repo }) => names.length === 0 || names.includes(repo))
    .map(({ repo, revisions, commit, files, bytes, missing, dir }) => [
      repo,
      revisions.join(' ') || undefined,
      commit.slice(0, 8),
      files,
      sizeCell(bytes, format),
      missing.length === 0 ? 'complete' : `lacks ${missing.join(', ')}`,
      dir,
    ]);
  await out.table(
    {
      columns: aligned(
        ['model', 'revision', 'commit', 'files', 'bytes', 'state', 'folder'],
        ['files', 'bytes'],
      ),
      rows,
    },
    format,
  );
  out.note(`hub cache: ${cache}; built in: ${Object.keys(BUILT_IN).join(', ')}`);
  return 0;
}

async function folderOf(ref: string, revision: string | undefined): Promise<string> {
  if (Object.hasOwn(BUILT_IN, ref)) {
    throw new QuestError('E_USAGE', `${ref} is part of the installation, not of the hub cache`, {
      hint: 'quest doctor checks it',
    });
  }
  const found = await stat(ref).catch(() => undefined);
  return found?.isDirectory() ? ref : findInHubCache(hubId(ref, revision));
}

async function verify(context: CommandContext, names: readonly string[], format: Format): Promise<number> {
  const { settings, out, signal } = context;
  const ref = oneModel('verify', names);
  const dir = await folderOf(ref, settings.maybeString('revision'));
  const progress = await startProgress(out, 'verify');
  const files = await verifySnapshot(dir, {
    signal,
    onFile: (name, done, total) => progress.update(total === 0 ? 0 : done / total, name),
  }).finally(() => progress.stop());
  await out.table(
    {
      columns: aligned(['file', 'state', 'bytes', 'checksum'], ['bytes']),
      rows: files.map(({ name, state, bytes, checksum }) => [
        name,
        state,
        sizeCell(bytes, format),
        checksum === undefined ? undefined : `${checksum.kind} ${checksum.hex}`,
      ]),
    },
    format,
  );
  const bad = files.filter(({ state }) => state === 'changed' || state === 'missing');
  const unknown = files.filter(({ state }) => state === 'unrecorded');
  if (unknown.length > 0)
    out.note(
      `${plural(unknown.length, 'file has', 'files have')} no checksum to compare with, being no links of a hub cache`,
    );
  if (bad.length > 0)
    out.note(
      `${bad.map(({ name }) => name).join(', ')}: fetch again with \`quest model pull ${hubIdOfFolder(dir) ?? ref}${bad.some(({ state }) => state === 'changed') ? ' --force' : ''}\``,
    );
  else out.note(`${plural(files.length - unknown.length, 'file is', 'files are')} what the hub published`);
  return bad.length > 0 ? 1 : 0;
}

/** Runs `quest model`. */
export async function run(context: CommandContext): Promise<number> {
  const [first, ...names] = context.args;
  const action = chooseAction('model', first, ACTIONS);
  const format = context.settings.string('format') as Format;
  if (action === 'info') return info(context, oneModel(action, names), format);
  if (action === 'quantize') return quantize(context, oneModel(action, names), format);
  return { pull, list, verify }[action](context, names, format);
}
