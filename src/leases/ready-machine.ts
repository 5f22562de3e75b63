/** A machine that was booted before there was a job for it, in the place of room for a new one. */

import type { Machine, Reservation } from '../contract/index.ts';
import type { JobFacts } from '../gitlab/index.ts';

export interface ReadyMachine {
  /** Its identity, and from its binding on the job's. */
  readonly runnerName: string;
  readonly vmToken: string;
  /** Whether it can serve that job: it may have ended meanwhile. */
  suits(job: JobFacts): boolean;
  /** There is a job for it. */
  makeFirm(): void;
  /** It is the job's from now on: its runner is answered by the lease. */
  take(): Machine;
  /** There was no job for it; one that was made firm is of no use to anybody else, and ends. */
  release(ask?: 'no-job' | 'failed'): void;
}

/** Where a claimed job gets its machine from. */
export type Place = Reservation | ReadyMachine;

export function isReady(place: Place): place is ReadyMachine {
  return 'take' in place;
}
