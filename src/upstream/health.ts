/**
 * Whether GitLab answers at all, for everybody who talks to it.
 *
 * A failing call says little: one job's route may be broken while all others are fine. So a failure
 * only raises a suspicion, and a single cheap probe decides: if it fails too, GitLab is out, and calls
 * wait at the gate. While GitLab is out, that probe is the only thing sent to watch it; any call that it
 * answers itself (the claimer's, a heartbeat) ends the outage as well. A call that fails while the probe
 * succeeds is its sender's to repeat, and holds nobody else: for a minute not even for the next probe.
 */

import type { Timings } from '../config/index.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import { isPage } from '../lib/is-page.ts';

/** The probe's result: GitLab answers, or why it does not, and when it wants to be asked again. */
export type Probed =
  | { readonly ok: true }
  | { readonly ok: false; readonly reason: string; readonly retryAfterMs?: number | undefined };

/** Whether an answer shows that GitLab does not: why, or null. 429 is GitLab's own: then it is there. */
export function outageOf(status: number, contentType: string | null | undefined): string | null {
  // A box in between that has lost its GitLab says so with a page, or by way of one; GitLab's API never does.
  const isBoxes =
    status < 400
      ? status >= 300 || isPage(contentType)
      : status === 404 && !/^application\/json\b/i.test(contentType ?? '');
  if (status < 500 && !isBoxes) return null;
  return status < 300 ? 'it answers with a page' : `it answers ${status}`;
}

export interface HealthOptions {
  readonly clock: Clock;
  readonly timings: Pick<Timings, 'probeMs' | 'probeCapMs' | 'retryAfterCapMs'>;
  probe(): Promise<Probed>;
}

/** Calls let through at once after an outage, before the first of them has been answered. */
const RELEASED_AT_ONCE = 8;

/** A released call gives its place on after so long, answered or not: an upload may take an hour. */
const PLACE_MS = 1000;

/** So long after a probe has shown that one call alone had failed, the next that fails makes nobody wait for its probe. */
const TRUSTED_MS = 60_000;

interface Waiter {
  readonly pass: (leave: () => void) => void;
}

export class GitlabHealth {
  readonly #options: HealthOptions;
  readonly #waiters = new Set<Waiter>();
  readonly #listeners = new Set<(outSince: number | null) => void>();
  #state: 'up' | 'suspected' | 'out' = 'up';
  #outSince: number | null = null;
  #reason: string | null = null;
  #suspectedAt = 0;
  /** How many times that has been. */
  #suspicions = 0;
  #provenAt = Number.NEGATIVE_INFINITY;
  #outages = 0;
  #released = 0;
  #timer: Timer | null = null;
  #closed = false;

  constructor(options: HealthOptions) {
    this.#options = options;
  }

  /** Since when GitLab is out, in wall-clock ms; null while it answers. */
  get outSince(): number | null {
    return this.#outSince;
  }

  /** What the last probe met; null while GitLab answers. */
  get reason(): string | null {
    return this.#reason;
  }

  /** Nothing is suspected. */
  get isUp(): boolean {
    return this.#state === 'up';
  }

  /** A new call need not {@link enter}: also while those that came in an outage are let in a few at a time. */
  get isOpen(): boolean {
    return this.isUp || (this.#state === 'suspected' && this.#provenWithin(TRUSTED_MS));
  }

  /** How many outages there have been, with the present one. */
  get outages(): number {
    return this.#outages;
  }

  /** How many calls wait at the gate. */
  get waiting(): number {
    return this.#waiters.size;
  }

  /** GitLab answered somebody. */
  answered(): void {
    if (this.#state !== 'up') this.#back();
  }

  /** A call failed in a way that may be everybody's. */
  suspect(reason: string): void {
    const { clock, timings } = this.#options;
    if (this.#state !== 'up' || this.#closed) return;
    // GitLab has just answered a probe: what fails is this call alone.
    if (this.#provenWithin(timings.probeMs)) return;
    this.#state = 'suspected';
    this.#suspicions += 1;
    this.#suspectedAt = clock.now();
    this.#reason = reason;
    void this.#probe(timings.probeMs);
  }

  /**
   * Waits until GitLab answers again and it is this call's turn; then to be called once the call has
   * been answered, so that the next may follow. Undefined where the signal aborted first.
   */
  enter(signal: AbortSignal): Promise<(() => void) | undefined> {
    if (signal.aborted) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      const waiter: Waiter = {
        pass(leave) {
          signal.removeEventListener('abort', abort);
          resolve(leave);
        },
      };
      const abort = (): void => {
        this.#waiters.delete(waiter);
        resolve(undefined);
      };
      signal.addEventListener('abort', abort, { once: true });
      this.#waiters.add(waiter);
      this.#release();
    });
  }

  /** Told when an outage begins and when it ends. */
  onChange(listener: (outSince: number | null) => void): void {
    this.#listeners.add(listener);
  }

  /** Probes no more; who waits goes on waiting for its own signal. */
  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  async #probe(delayMs: number): Promise<void> {
    const { timings, clock, probe } = this.#options;
    const suspicion = this.#suspicions;
    const result = await probe();
    if (this.#state === 'up' || this.#closed) return;
    if (result.ok) {
      this.#provenAt = clock.monotonic();
      this.#back();
      return;
    }
    // An answer came meanwhile, and another failure, which has a probe of its own: that one decides.
    if (suspicion !== this.#suspicions) return;
    this.#reason = result.reason;
    if (this.#state === 'suspected') {
      this.#state = 'out';
      this.#outages += 1;
      this.#outSince = this.#suspectedAt;
      this.#tell();
    }
    const wanted = Math.min(result.retryAfterMs ?? 0, timings.retryAfterCapMs);
    const next = Math.min(delayMs * 2, timings.probeCapMs);
    this.#timer = clock.after(Math.max(delayMs, wanted), () => void this.#probe(next));
  }

  #back(): void {
    const wasOut = this.#outSince !== null;
    this.#timer?.cancel();
    this.#state = 'up';
    this.#outSince = null;
    this.#reason = null;
    if (wasOut) this.#tell();
    // Who makes GitLab fail calls, and holds the places, would make everybody wait in a row.
    this.#release(wasOut ? RELEASED_AT_ONCE : Number.POSITIVE_INFINITY);
  }

  #provenWithin(ms: number): boolean {
    return this.#options.clock.monotonic() - this.#provenAt < ms;
  }

  #tell(): void {
    for (const listener of this.#listeners) listener(this.#outSince);
  }

  #release(atOnce = RELEASED_AT_ONCE): void {
    for (const waiter of this.#waiters) {
      if (this.#state !== 'up' || this.#released >= atOnce) return;
      this.#waiters.delete(waiter);
      this.#released += 1;
      let left = false;
      const leave = (): void => {
        if (left) return;
        left = true;
        place.cancel();
        this.#released -= 1;
        this.#release();
      };
      const place = this.#options.clock.after(PLACE_MS, leave);
      waiter.pass(leave);
    }
  }
}
