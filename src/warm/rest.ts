/** How long a runner boots no warm machine after one that was of no use: longer each time. */

import type { Timings } from '../config/index.ts';

export class Rest {
  readonly #timings: Pick<Timings, 'warmRestMs' | 'warmRestCapMs'>;
  #inARow = 0;
  #until = 0;

  constructor(timings: Pick<Timings, 'warmRestMs' | 'warmRestCapMs'>) {
    this.#timings = timings;
  }

  /** Monotonic, ms. */
  get until(): number {
    return this.#until;
  }

  /** One failed to boot, or had to give up its room. Resolves with the length of the rest, in ms. */
  begin(now: number): number {
    const { warmRestMs, warmRestCapMs } = this.#timings;
    const restMs = Math.min(warmRestMs * 2 ** Math.min(this.#inARow, 20), warmRestCapMs);
    this.#inARow += 1;
    this.#until = now + restMs;
    return restMs;
  }

  /** One got a job, or stood ready all its time: the next one is booted from then on. */
  forget(until = 0): void {
    this.#inARow = 0;
    this.#until = until;
  }
}
