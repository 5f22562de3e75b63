/** How long to wait after failed asks; shared by all runners of one GitLab. */

import type { Timings } from '../config/index.ts';
import type { Clock } from '../lib/clock.ts';
import type { Randomness } from '../lib/random.ts';

export class Backoff {
  readonly #timings: Pick<Timings, 'backoffMs' | 'backoffCapMs'>;
  readonly #randomness: Pick<Randomness, 'random'>;
  readonly #clock: Pick<Clock, 'monotonic'>;
  #failures = 0;
  #until = 0;

  constructor(
    timings: Pick<Timings, 'backoffMs' | 'backoffCapMs'>,
    randomness: Pick<Randomness, 'random'>,
    clock: Pick<Clock, 'monotonic'>,
  ) {
    this.#timings = timings;
    this.#randomness = randomness;
    this.#clock = clock;
  }

  /** GitLab answers again. */
  reset(): void {
    this.#failures = 0;
    this.#until = 0;
  }

  /** What is left of the present wait, in ms: no runner asks before it is over. */
  remaining(): number {
    return Math.max(0, this.#until - this.#clock.monotonic());
  }

  /**
   * The wait after one more failure, in ms: exponential with full jitter, so that many hosts do not
   * come back at once. A `Retry-After` is a lower bound, itself bounded by the cap.
   */
  next(retryAfterMs: number | undefined): number {
    const { backoffMs, backoffCapMs } = this.#timings;
    const ceiling = Math.min(backoffMs * 2 ** Math.min(this.#failures, 20), backoffCapMs);
    this.#failures += 1;
    const jittered = this.#randomness.random() * ceiling;
    const delayMs = Math.max(jittered, Math.min(retryAfterMs ?? 0, backoffCapMs));
    this.#until = Math.max(this.#until, this.#clock.monotonic() + delayMs);
    return delayMs;
  }
}
