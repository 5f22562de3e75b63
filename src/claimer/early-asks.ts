/** How often events from outside may make a runner ask before its time: a bucket of tokens. */

import type { Clock } from '../lib/clock.ts';

/** A burst of events, one for each job of a pipeline that becomes pending. */
const CAPACITY = 10;

/** One more each so often: a storm of events costs GitLab no more than the official runner's asks do. */
const REFILL_MS = 500;

export class EarlyAsks {
  readonly #clock: Pick<Clock, 'monotonic'>;
  #left = CAPACITY;
  #at: number;

  constructor(clock: Pick<Clock, 'monotonic'>) {
    this.#clock = clock;
    this.#at = clock.monotonic();
  }

  /** A job was found: who asks for a reason is not what is limited. */
  giveBack(): void {
    this.#left = Math.min(CAPACITY, this.#left + 1);
  }

  /** Takes one; false where there is none left. */
  take(): boolean {
    const now = this.#clock.monotonic();
    this.#left = Math.min(CAPACITY, this.#left + (now - this.#at) / REFILL_MS);
    this.#at = now;
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }
}
