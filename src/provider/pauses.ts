/** Which runners are paused; outlives restarts. */

import { readFile, rename } from 'node:fs/promises';
import path from 'node:path';
import type { Logger } from '../contract/index.ts';
import { errorCode } from '../lib/errors.ts';
import { writeDurably } from '../lib/files.ts';
import { Serial } from '../lib/serial.ts';

export class Pauses {
  readonly #file: string;
  /** Each wish is for one more or one less than the one before it has left. */
  readonly #changes = new Serial();
  #names: ReadonlySet<string> = new Set();

  constructor(stateDir: string) {
    this.#file = path.join(stateDir, 'paused.json');
  }

  /** A damaged file is set aside: an unreadable wish must not keep a host from starting. */
  async load(log: Logger): Promise<void> {
    let text: string;
    try {
      text = await readFile(this.#file, 'utf8');
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return;
      throw error;
    }
    const names = parseNames(text);
    if (names === null) {
      await rename(this.#file, `${this.#file}.damaged`);
      log.error(
        `the list of paused runners, ${this.#file}, is damaged and was set aside as .damaged: no runner is paused now`,
      );
    }
    this.#names = new Set(names);
  }

  has(runner: string): boolean {
    return this.#names.has(runner);
  }

  /** Resolves once it is durable. */
  set(runner: string, paused: boolean): Promise<void> {
    return this.#changes.run(async () => {
      const names = new Set(this.#names);
      if (paused) names.add(runner);
      else names.delete(runner);
      await writeDurably(this.#file, `${JSON.stringify([...names])}\n`);
      this.#names = names;
    });
  }
}

function parseNames(text: string): string[] | null {
  try {
    const names: unknown = JSON.parse(text);
    return Array.isArray(names) ? names.map(String) : null;
  } catch {
    return null;
  }
}
