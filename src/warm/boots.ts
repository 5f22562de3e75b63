/** Booting warm machines: one after the other for each runner, with a rest after one that was of no use. */

import type { RunnerConfig } from '../config/index.ts';
import type { Machine } from '../contract/index.ts';
import { describeError, errorCode } from '../lib/errors.ts';
import type { WarmFacts } from './metadata.ts';
import { Rest } from './rest.ts';
import type { WarmServices, Wish } from './services.ts';

/** Each has its own age, so that not all are booted anew at once. */
const AGE_JITTER = 0.25;

export class Boots {
  readonly #services: WarmServices;
  readonly #begun: (machine: Machine, facts: WarmFacts) => void;
  readonly #over: () => void;
  readonly #rests = new Map<string, Rest>();
  /** By runner: room is being waited for, for a machine with those settings. */
  readonly #waits = new Map<string, { readonly settings: string; readonly end: AbortController }>();

  /** `begun`: a machine boots. `over`: the wait for room of a runner has ended, whatever came of it. */
  constructor(
    services: WarmServices,
    begun: (machine: Machine, facts: WarmFacts) => void,
    over: () => void,
  ) {
    this.#services = services;
    this.#begun = begun;
    this.#over = over;
  }

  /** One more for that runner where it lacks one, and none is on its way. `has`: how many it has. */
  adjust({ runner, count }: Wish, has: number): void {
    const { settings, problem, clock } = this.#services;
    const wait = this.#waits.get(runner.name);
    if (wait !== undefined) {
      const isWanted = has < count && settings(runner).settings === wait.settings;
      if (!isWanted) wait.end.abort();
    } else if (
      has < count &&
      problem === null &&
      clock.monotonic() >= this.rest(runner.name).until
    ) {
      void this.#boot(runner);
    }
  }

  rest(runner: string): Rest {
    const known = this.#rests.get(runner) ?? new Rest(this.#services.timings);
    this.#rests.set(runner, known);
    return known;
  }

  /** The ends of rests, monotonic. */
  get restsUntil(): readonly number[] {
    return [...this.#rests.values()].map(({ until }) => until);
  }

  /** Waits for no more room, for runners that pass. */
  abort(filter: (runner: string) => boolean = () => true): void {
    for (const [runner, { end }] of this.#waits) if (filter(runner)) end.abort();
  }

  async #boot(runner: RunnerConfig): Promise<void> {
    const { pool, newIdentity, checkpoint, bootSpec, settings } = this.#services;
    const wanted = settings(runner);
    const end = new AbortController();
    this.#waits.set(runner.name, { settings: wanted.settings, end });
    try {
      // Before there is room: that is not held for anything but the boot.
      const identity = await newIdentity(runner.name);
      const room = await pool.reserve({
        machineType: runner.machineType.name,
        firm: false,
        warm: true,
        purpose: `runner ${runner.name}: a warm machine`,
        signal: end.signal,
      });
      if (end.signal.aborted) return room.release();
      const facts = {
        ...wanted,
        runner: runner.name,
        vmToken: identity.vmToken,
        retireAt: this.#retireAt(),
      };
      this.#begun(room.boot(bootSpec(runner, identity, facts)), facts);
      await checkpoint('warm-requested');
    } catch (error) {
      if (!end.signal.aborted) this.#onRefused(runner, error);
    } finally {
      this.#waits.delete(runner.name);
      this.#over();
    }
  }

  #onRefused({ name }: RunnerConfig, error: unknown): void {
    const { log, clock } = this.#services;
    this.rest(name).begin(clock.monotonic());
    if (errorCode(error) === 'draining') return;
    log.warn(`runner ${name} gets no warm machine: ${describeError(error)}`);
  }

  #retireAt(): number {
    const { clock, timings, random } = this.#services;
    return clock.monotonic() + timings.warmAgeMs * (1 - AGE_JITTER * random());
  }
}
