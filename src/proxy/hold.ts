/** One call that is held here: until GitLab answers again, or, where it alone fails, for a delay of its own. */

import { sleep } from '../lib/clock.ts';
import type { ProxyServices } from './services.ts';

type Services = Pick<ProxyServices, 'held' | 'clock' | 'health' | 'monotonic'>;

/** What a wait ended with. */
export type Waited = 'go' | 'too-long' | 'too-many';

/** What it takes of the room for held calls and their bytes, it gives back. */
export class Hold {
  readonly #vm: string;
  readonly #services: Services;
  #bytes = 0;
  #waitedMs = 0;
  #stop: AbortController | null = null;
  /** Gives on the place in the row of those that an outage's end lets through. */
  #leaveGate: (() => void) | undefined;

  /** `vm`: the machine's name. */
  constructor(vm: string, services: Services) {
    this.#vm = vm;
    this.#services = services;
  }

  /** How long it has waited in all. */
  get waitedMs(): number {
    return this.#waitedMs;
  }

  /** Its body, of so many bytes, stays here; counted once. False: too much does already. */
  keep(bytes: number): boolean {
    if (this.#bytes > 0) return true;
    if (!this.#services.held.bytes.take(this.#vm, bytes)) return false;
    this.#bytes = bytes;
    return true;
  }

  /** `delayMs`: of a call that has failed; asked for where that turns out to be its failure alone. */
  async wait(patienceMs: number, delayMs: (() => number) | null): Promise<Waited> {
    const { held, clock, health, monotonic } = this.#services;
    if (!held.calls.take(this.#vm, 1)) return 'too-many';
    const beganAt = monotonic();
    const stop = new AbortController();
    this.#stop = stop;
    const limit = clock.after(patienceMs, () => stop.abort());
    try {
      const outages = health.outSince === null ? health.outages : -1;
      if (!health.isUp) this.#leaveGate = await health.enter(stop.signal);
      if (delayMs !== null && health.outages === outages && !stop.signal.aborted) {
        this.leaveGate();
        await sleep(clock, delayMs(), stop.signal);
        if (!health.isUp) this.#leaveGate = await health.enter(stop.signal);
      }
      return stop.signal.aborted ? 'too-long' : 'go';
    } finally {
      limit.cancel();
      this.#stop = null;
      held.calls.give(this.#vm, 1);
      this.#waitedMs += monotonic() - beganAt;
    }
  }

  /** Ends the wait that may be under way. */
  stop(): void {
    this.#stop?.abort();
  }

  /** The call was answered, or failed once more: the next one may follow. */
  leaveGate(): void {
    this.#leaveGate?.();
  }

  /** Nothing of the call is left. */
  end(): void {
    this.leaveGate();
    if (this.#bytes > 0) this.#services.held.bytes.give(this.#vm, this.#bytes);
  }
}
