/** Room for a job's next machine: it comes before all other requests. */

import type { Reservation } from '../contract/index.ts';
import type { LeaseServices } from './services.ts';

export class NextRoom {
  readonly #jobId: number;
  readonly #runner: string;
  readonly #services: Pick<LeaseServices, 'pool' | 'machineTypeOf'>;
  readonly #signal: AbortSignal;
  #room: Promise<Reservation> | null = null;

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
    this.#room ??= this.#reserve();
    // Whoever takes it looks at its failure, maybe later.
    this.#room.catch(() => undefined);
  }

  /** The room is the caller's from here on. */
  take(): Promise<Reservation> {
    this.ask();
    const room = this.#room ?? this.#reserve();
    this.#room = null;
    return room;
  }

  giveBack(): void {
    void this.#room?.then((room) => room.release()).catch(() => undefined);
    this.#room = null;
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
      signal: this.#signal,
    });
  }
}
