import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { findInHubCache, hubCacheDir, hubIdOfFolder, parseHubId } from '../../src/model/hub.js';
import { errorOf, temporaryFolder } from './helpers.js';

const root = temporaryFolder();

function cacheModel(cache: string, repo: string, refs: Record<string, string>, commits: string[]): void {
  const store = path.join(cache, `models--${repo.replace('/', '--')}`);
  for (const commit of commits) mkdirSync(path.join(store, 'snapshots', commit), { recursive: true });
  for (const [ref, commit] of Object.entries(refs)) {
    mkdirSync(path.dirname(path.join(store, 'refs', ref)), { recursive: true });
    writeFileSync(path.join(store, 'refs', ref), commit);
  }
}

describe('hub ids', () => {
  it('are ORG/NAME with an optional revision', () => {
    expect(parseHubId('lmsys/longchat-7b-v1.5-32k')).toEqual({
      repo: 'lmsys/longchat-7b-v1.5-32k',
      revision: 'main',
    });
    expect(parseHubId('a/b@refs/pr/3')).toEqual({ repo: 'a/b', revision: 'refs/pr/3' });
  });

  it.each([
    'name',
    '',
    'a/b/c',
    '../b',
    'a/..',
    '/a/b',
    'a/',
    '/b',
    'a/b@',
    'a/b@../x',
    'a/b@/x',
    'a/b@x//y',
    'a/b@./x',
    'a\\b/c',
    'a/b c',
    'a--b/c',
    'a/.b',
    '-a/b',
    'a/b@x@y',
    'a/b\0',
    `a/${'b'.repeat(200)}`,
    'a/b..c',
  ])('%j is none', (ref) => {
    expect(parseHubId(ref)).toBeUndefined();
  });
});

describe('hub cache', () => {
  it('is chosen by the environment as huggingface_hub does', () => {
    const all = {
      HF_HUB_CACHE: '/1',
      HUGGINGFACE_HUB_CACHE: '/2',
      HF_HOME: '/3',
      XDG_CACHE_HOME: '/4',
      HOME: '/5',
    };
    const dirs: string[] = [];
    for (const key of [undefined, ...Object.keys(all)] as (keyof typeof all | undefined)[]) {
      if (key && key !== 'HOME') delete (all as Partial<typeof all>)[key];
      dirs.push(hubCacheDir(all));
    }
    expect(dirs).toEqual([
      '/1',
      '/2',
      '/3/hub',
      '/4/huggingface/hub',
      '/5/.cache/huggingface/hub',
      '/5/.cache/huggingface/hub',
    ]);
    expect(hubCacheDir({ HF_HOME: '~/x', HOME: '/5' })).toBe('/5/x/hub');
    const scratch = { HOME: '/5', SCRATCH: '/6' };
    expect(hubCacheDir({ ...scratch, HF_HOME: '$SCRATCH/x' })).toBe('/6/x/hub');
    expect(hubCacheDir({ ...scratch, HF_HUB_CACHE: `$${'{SCRATCH}'}/$NONE` })).toBe('/6/$NONE');
  });

  it('gives the snapshot of a branch, a pull request or a commit', async () => {
    const env = { HF_HUB_CACHE: root };
    cacheModel(root, 'org/name', { main: 'abc\n', 'refs/pr/1': 'def', v1: 'def' }, ['abc', 'def']);
    const find = (revision: string) => findInHubCache({ repo: 'org/name', revision }, env);
    const snapshots = path.join(root, 'models--org--name', 'snapshots');
    expect(await find('main')).toBe(path.join(snapshots, 'abc'));
    expect(await find('refs/pr/1')).toBe(path.join(snapshots, 'def'));
    expect(await find('v1')).toBe(path.join(snapshots, 'def'));
    expect(await find('def')).toBe(path.join(snapshots, 'def'));
    expect(hubIdOfFolder(await find('v1'))).toBe('org/name');
    expect(hubIdOfFolder('/models/name')).toBeUndefined();
  });

  it('says what is missing and how to get it', async () => {
    const env = { HF_HUB_CACHE: root };
    cacheModel(root, 'org/evil', { main: '../../models--org--name/snapshots/abc' }, ['abc']);
    cacheModel(root, 'org/gone', { main: 'abc' }, []);
    const none = await errorOf(findInHubCache({ repo: 'org/none', revision: 'main' }, env));
    expect(none.code).toBe('E_HUB');
    expect(none.message).toContain(`org/none is not in the hub cache ${root}`);
    expect(none.hint).toContain('hf download org/none');
    for (const repo of ['org/evil', 'org/gone'])
      expect((await errorOf(findInHubCache({ repo, revision: 'main' }, env))).code).toBe('E_HUB');
    const revision = await errorOf(findInHubCache({ repo: 'org/name', revision: 'v9' }, env));
    expect(revision.message).toMatch(/revision "v9" of org\/name is not in/);
    expect(revision.hint).toContain('--revision v9');
  });
});
