/** A runner's token, read again whenever its file changes. */

import { readTokenFile, type TokenRead } from '../config/index.ts';

/** The token as the file has it now, or why there is none. */
export type TokenState =
  | { readonly ok: true; readonly token: string }
  | { readonly ok: false; readonly reason: string };

export class RunnerToken {
  readonly #file: string;
  /** The last one that was good. */
  #known: Extract<TokenRead, { ok: true }> | undefined;

  constructor(file: string) {
    this.#file = file;
  }

  async read(): Promise<TokenState> {
    const read = await readTokenFile(this.#file, this.#known);
    if (!read.ok) return { ok: false, reason: `the token file ${this.#file} ${read.reason}` };
    this.#known = read;
    return { ok: true, token: read.token };
  }
}
