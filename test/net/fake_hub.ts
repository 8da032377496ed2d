/** A hub on 127.0.0.1: the API and the files of a few repositories, with LFS redirects to "another host". */
import type { Handler, TestServer } from './server.js';
import { gitSha1, sendFile, sha256 } from './server.js';

export interface FakeFile {
  content: Buffer;
  /** Large files are served through a redirect and checked by SHA-256. */
  large?: boolean;
  /** In place of serving it well. */
  serve?: Handler;
}

export const COMMIT = '0123456789abcdef0123456789abcdef01234567';

export interface FakeRepo {
  id: string;
  files: Record<string, FakeFile>;
  commit?: string;
  revisions?: string[];
}

/** Publishes a repository on `hub`; the bytes of large files come from `store`. */
export function publish(hub: TestServer, store: TestServer, repo: FakeRepo): void {
  const { id, files, commit = COMMIT, revisions = ['main'] } = repo;
  const siblings = Object.entries(files).map(([rfilename, { content, large }]) => ({
    rfilename,
    size: content.length,
    ...(large
      ? { blobId: 'f'.repeat(40), lfs: { sha256: sha256(content), size: content.length, pointerSize: 134 } }
      : { blobId: gitSha1(content) }),
  }));
  for (const revision of [...revisions, commit])
    hub.on(`/api/models/${id}/revision/${encodeURIComponent(revision)}`, (_q, r) =>
      r.end(JSON.stringify({ id, sha: commit, siblings })),
    );
  for (const [name, { content, large, serve }] of Object.entries(files)) {
    const place = `/${id}/resolve/${commit}/${name}`;
    const well: Handler = serve ?? ((q, r) => sendFile(q, r, content));
    if (!large) {
      hub.on(place, well);
      continue;
    }
    const stored = `/cdn/${sha256(content)}`;
    hub.on(place, (_q, r) => void r.writeHead(302, { location: `${store.url}${stored}?sig=secret` }).end());
    store.on(stored, well);
  }
}
