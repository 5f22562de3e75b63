/** Reading a runner's authentication token from its file. */

import type { Stats } from 'node:fs';
import { open, stat } from 'node:fs/promises';

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
 * older ones without a prefix); a file that every user may read is not. `known` is an earlier read: the answer
 * where the file has not changed since.
 */
export async function readTokenFile(file: string, known?: TokenRead): Promise<TokenRead> {
  try {
    if (known?.ok && known.version === versionOf(await stat(file))) return known;
    await using handle = await open(file, 'r');
    const found = await handle.stat();
    if (!found.isFile()) return { ok: false, reason: 'is not a regular file' };
    if ((found.mode & OTHERS) !== 0) {
      const mode = (found.mode & 0o777).toString(8).padStart(4, '0');
      return { ok: false, reason: `is open to every user (mode ${mode}): chmod 600 it` };
    }
    const token = (await handle.readFile('utf8')).trim();
    if (token === '') return { ok: false, reason: 'is empty' };
    // A header or URL could not carry it, and no GitLab token has such characters.
    if (!/^[\x21-\x7e]+$/.test(token)) {
      return { ok: false, reason: 'holds more than one token: only one word is allowed' };
    }
    return { ok: true, token, version: versionOf(found) };
  } catch (error) {
    return { ok: false, reason: explain(error) };
  }
}

/**
 * What a token is that begins as no runner's does, and what to do; null: it may be a runner's, of whatever form.
 * Completes the sentence "the token file … ".
 */
export function mistakenToken(token: string): string | null {
  const what = token.startsWith('glpat-')
    ? 'a personal access token (glpat-…)'
    : token.startsWith('GR1348941')
      ? 'a registration token (GR1348941…)'
      : null;
  return what === null
    ? null
    : `holds ${what}: create a runner in GitLab (Settings, CI/CD, Runners) and put the token there that it shows once, glrt-…`;
}

/** The time of its last change of any kind: of its mode, too. */
function versionOf({ ino, ctimeMs, size }: Stats): string {
  return `${ino}-${ctimeMs}-${size}`;
}

function explain(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOENT') return 'does not exist';
  if (code === 'EACCES') return 'may not be read by this user';
  if (code === 'EISDIR') return 'is not a regular file';
  return `cannot be read (${String(code ?? error)})`;
}
