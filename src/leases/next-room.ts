/** Room for a job's next machine: it comes before all other requests. */

import type { Reservation } from '../contract/index.ts';
import type { LeaseServices } from './services.ts';

export class NextRoom {
  readonly #jobId: number;
  readonly #runner: string;
  readonly #services: Pick<LeaseServices, 'pool' | 'machineTypeOf'>;
  readonly #signal: AbortSignal;
  #room: Promise<Reservation> | null = null;
  #wanted = new AbortController();

  constructor(
    jobId: number,
    runner: string,
    services: Pick<LeaseServices, 'pool' | 'machineTypeOf'>,
    signal: AbortSignal,
  ) {
    this.#jobId = jobId;
    this.#runner = runner;
    this.#services = services;
    this.#signal = signal;
  }

  /** Asks at once, so that nobody else gets the room that has just become free. */
  ask(): void {
    void this.#ask();
  }

  /** The room is the caller's once it is granted. */
  take(): Promise<Reservation> {
    const room = this.#ask();
    this.#room = null;
    return room;
  }

  /** The job needs no machine any more. */
  forgo(): void {
    this.#wanted.abort();
    this.#wanted = new AbortController();
    this.#room?.then((room) => room.release()).catch(() => undefined);
    this.#room = null;
  }

  #ask(): Promise<Reservation> {
    const room = this.#room ?? this.#reserve();
    this.#room = room;
    // Whoever takes it looks at its failure, maybe later.
    room.catch(() => undefined);
    return room;
  }

  async #reserve(): Promise<Reservation> {
    const machineType = this.#services.machineTypeOf(this.#runner);
    if (machineType === undefined) {
      throw new Error(`the runner ${this.#runner} is no longer configured on this host`);
    }
    return this.#services.pool.reserve({
      machineType,
      firm: true,
      claimed: true,
      purpose: `job ${this.#jobId}: second boot`,
      signal: AbortSignal.any([this.#signal, this.#wanted.signal]),
    });
  }
}
