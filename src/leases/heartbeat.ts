/** Keeps a job alive in GitLab while its runner does not, and sees what GitLab has decided meanwhile. */

import type { JobFacts, UpdateOutcome } from '../gitlab/index.ts';
import type { Timer } from '../lib/clock.ts';
import type { LeaseServices } from './services.ts';
import { isLive, type LeaseState } from './state.ts';

/** The job that is kept alive. */
export interface Beating {
  readonly facts: JobFacts;
  readonly state: LeaseState;
  /** For how long its runner has made no call. */
  readonly silentMs: number;
  /** GitLab's answer, where it still counts: to a request that was sent in the present state. */
  onKeptAlive(answer: UpdateOutcome): Promise<void>;
}

export class Heartbeat {
  readonly #job: Beating;
  readonly #services: Pick<LeaseServices, 'clock' | 'timings' | 'gitlab'>;
  #timer: Timer | null = null;
  #stopped = false;

  constructor(job: Beating, services: Pick<LeaseServices, 'clock' | 'timings' | 'gitlab'>) {
    this.#job = job;
    this.#services = services;
  }

  start(): void {
    if (this.#stopped) return;
    const { clock, timings } = this.#services;
    this.#timer = clock.after(timings.heartbeatMs, () => void this.#beat());
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  async #beat(): Promise<void> {
    const { facts, state: sentIn, silentMs } = this.#job;
    if (!isLive(sentIn) || this.#stopped) return;
    const { timings, gitlab } = this.#services;
    if (sentIn.name !== 'running' || silentMs >= timings.silenceMs) {
      const answer = await gitlab.updateJob(facts.id, facts.token, { state: 'running' });
      // An answer counts only in the state in which its request was sent.
      if (this.#job.state === sentIn) await this.#job.onKeptAlive(answer);
    }
    if (isLive(this.#job.state) && !this.#stopped) this.start();
  }
}
