/** One warm machine, from its boot until a job has it or it ends. */

import type { Timings } from '../config/index.ts';
import type { Machine } from '../contract/index.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import type { WarmFacts } from './metadata.ts';

/**
 * Why a warm machine is one no more. `bound`: a job has it. `yielded`: others need its room. `failed`: its runner did
 * not ask, stopped asking, or the machine ended by itself. `retired`: too old, or not what would be booted now.
 */
export type WarmCause = 'bound' | 'yielded' | 'failed' | 'retired' | 'surplus';

export class WarmMachine {
  readonly machine: Machine;
  readonly facts: WarmFacts;
  readonly #clock: Clock;
  readonly #timings: Pick<Timings, 'askLimitMs' | 'warmSilenceMs' | 'warmHoldMs' | 'warmAgeMs'>;
  /** A claimer asks GitLab with it in hand: it neither retires nor yields. */
  isPinned = false;
  #hasAsked: boolean;
  /** Monotonic: the last call of its runner, or its beginning. */
  #heardAt: number;
  /** Answers its runner's request, once. */
  #settle: (() => void) | null = null;

  /** `hasAsked`: an earlier run has heard of it. */
  constructor(
    machine: Machine,
    facts: WarmFacts,
    hasAsked: boolean,
    clock: Clock,
    timings: Pick<Timings, 'askLimitMs' | 'warmSilenceMs' | 'warmHoldMs' | 'warmAgeMs'>,
  ) {
    this.machine = machine;
    this.facts = facts;
    this.#clock = clock;
    this.#timings = timings;
    this.#hasAsked = hasAsked;
    this.#heardAt = clock.monotonic();
  }

  /** Its runner has asked: it is up. */
  get isReady(): boolean {
    return this.#hasAsked;
  }

  get isHeld(): boolean {
    return this.#settle !== null;
  }

  /** The better, the sooner its runner can begin a job. */
  get readiness(): number {
    return this.isHeld ? 2 : this.isReady ? 1 : 0;
  }

  /** When its runner must have asked; monotonic. */
  get silentAt(): number {
    if (this.isHeld) return Number.POSITIVE_INFINITY;
    const { askLimitMs, warmSilenceMs } = this.#timings;
    return this.#heardAt + (this.#hasAsked ? warmSilenceMs : askLimitMs);
  }

  /** When it is too old; monotonic. */
  get retireAt(): number {
    return this.facts.retireAt;
  }

  /**
   * Its runner asks for a job: resolves when that is to be answered, from the state of the lease that has it by then.
   * A runner has one request at a time: an earlier one is of a connection that has broken. `gone`: the runner has.
   */
  hold(gone: AbortSignal): Promise<void> {
    this.#settle?.();
    if (!this.#hasAsked) this.machine.report('online');
    this.#hasAsked = true;
    this.#heardAt = this.#clock.monotonic();
    return new Promise((resolve) => {
      let timer: Timer | null = null;
      const settle = (): void => {
        timer?.cancel();
        gone.removeEventListener('abort', settle);
        this.#heardAt = this.#clock.monotonic();
        if (this.#settle === settle) this.#settle = null;
        resolve();
      };
      timer = this.#clock.after(this.#timings.warmHoldMs, settle);
      if (gone.aborted) return settle();
      gone.addEventListener('abort', settle, { once: true });
      this.#settle = settle;
    });
  }

  /** Its request is answered now. */
  settle(): void {
    this.#settle?.();
  }
}
