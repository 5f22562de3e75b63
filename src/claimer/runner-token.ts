/** A runner's token, read again whenever its file changes. */

import { readTokenFile } from '../config/index.ts';

/** The token as the file has it now, or why there is none. */
export type TokenState =
  | { readonly ok: true; readonly token: string; readonly changed: boolean }
  | { readonly ok: false; readonly reason: string };

export class RunnerToken {
  readonly #file: string;
  #version: string | null = null;

  constructor(file: string) {
    this.#file = file;
  }

  /** `changed` is true where the file is another one than at the last read. */
  async read(): Promise<TokenState> {
    const read = await readTokenFile(this.#file);
    if (!read.ok) return { ok: false, reason: `the token file ${this.#file} ${read.reason}` };
    const changed = this.#version !== null && this.#version !== read.version;
    this.#version = read.version;
    return { ok: true, token: read.token, changed };
  }
}
