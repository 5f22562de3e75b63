/** A wait that an event can end early, remembering an event that came just before it. */

import type { Clock } from '../lib/clock.ts';

export class Wait {
  readonly #clock: Clock;
  #woken = false;
  #end: (() => void) | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Ends the present wait, or else the next one at once. */
  wake(): void {
    this.#woken = true;
    this.#end?.();
  }

  /** Resolves with true where it was woken, with false when the time is up. */
  async for(delayMs: number): Promise<boolean> {
    if (!this.#woken) {
      await new Promise<void>((resolve) => {
        const timer = this.#clock.after(delayMs, resolve);
        this.#end = () => {
          timer.cancel();
          resolve();
        };
      });
      this.#end = null;
    }
    const woken = this.#woken;
    this.#woken = false;
    return woken;
  }
}
