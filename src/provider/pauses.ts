/** Which runners are paused; outlives restarts. */

import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { writeDurably } from '../lib/files.ts';

export class Pauses {
  readonly #file: string;
  #names: ReadonlySet<string> = new Set();

  constructor(stateDir: string) {
    this.#file = path.join(stateDir, 'paused.json');
  }

  async load(): Promise<void> {
    const text = await readFile(this.#file, 'utf8').catch(() => '[]');
    const names: unknown = JSON.parse(text);
    this.#names = new Set(Array.isArray(names) ? names.map(String) : []);
  }

  has(runner: string): boolean {
    return this.#names.has(runner);
  }

  /** Resolves once it is durable. */
  async set(runner: string, paused: boolean): Promise<void> {
    const names = new Set(this.#names);
    if (paused) names.add(runner);
    else names.delete(runner);
    await writeDurably(this.#file, `${JSON.stringify([...names])}\n`);
    this.#names = names;
  }
}
