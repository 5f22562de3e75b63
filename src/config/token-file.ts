/** Reading a runner's authentication token from its file. */

import { open } from 'node:fs/promises';

export type TokenRead =
  | {
      readonly ok: true;
      readonly token: string;
      /** Changes whenever the file does. */
      readonly version: string;
    }
  /** `reason` completes the sentence "the token file … ". */
  | { readonly ok: false; readonly reason: string };

/** Mode bits that let users outside of owner and group touch the file. */
const OTHERS = 0o007;

/**
 * Reads the token, without its trailing newline. Any form of token is fine (`glrt-…`, `glrt-t1_…`,
 * older ones without a prefix); a file that every user may read is not.
 */
export async function readTokenFile(file: string): Promise<TokenRead> {
  try {
    await using handle = await open(file, 'r');
    const stat = await handle.stat();
    if (!stat.isFile()) return { ok: false, reason: 'is not a regular file' };
    if ((stat.mode & OTHERS) !== 0) {
      const mode = (stat.mode & 0o777).toString(8).padStart(4, '0');
      return { ok: false, reason: `is open to every user (mode ${mode}): chmod 600 it` };
    }
    const token = (await handle.readFile('utf8')).trim();
    if (token === '') return { ok: false, reason: 'is empty' };
    // A header or URL could not carry it, and no GitLab token has such characters.
    if (!/^[\x21-\x7e]+$/.test(token)) {
      return { ok: false, reason: 'holds more than one token: only one word is allowed' };
    }
    return { ok: true, token, version: `${stat.ino}-${stat.mtimeMs}-${stat.size}` };
  } catch (error) {
    return { ok: false, reason: explain(error) };
  }
}

function explain(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOENT') return 'does not exist';
  if (code === 'EACCES') return 'may not be read by this user';
  if (code === 'EISDIR') return 'is not a regular file';
  return `cannot be read (${String(code ?? error)})`;
}
