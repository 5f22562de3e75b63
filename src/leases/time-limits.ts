/** How long a job may be in each state, and what happens then. */

import type { Timings } from '../config/index.ts';
import type { FailureReason, JobFacts } from '../gitlab/index.ts';
import type { LeaseState } from './state.ts';

export interface TimeLimit {
  readonly afterMs: number;
  readonly reason: string;
  /** What the job is failed with; null: only its machine is stopped, and what follows is as if it had ended by itself. */
  readonly fails: FailureReason | null;
}

/** One limit at a time: the one of the state. */
export function timeLimitOf(
  state: LeaseState,
  facts: JobFacts,
  timings: Timings,
): TimeLimit | null {
  const stop = (afterMs: number, what: string): TimeLimit => ({
    afterMs,
    reason: `${what} within ${Math.round(afterMs / 1000)} s`,
    fails: null,
  });
  switch (state.name) {
    case 'booting':
      return stop(timings.askLimitMs, 'its runner did not ask for its job');
    case 'offered':
      return stop(
        timings.firstCallLimitMs,
        'its runner was given the job and did not speak for it',
      );
    case 'running':
      return {
        afterMs: facts.timeoutSeconds * 1000 + timings.jobGraceMs,
        reason: `the job outlived its timeout of ${facts.timeoutSeconds} s, and the time to wind up`,
        fails: 'job_execution_timeout',
      };
    case 'finishing':
      return state.machineGone
        ? null
        : stop(timings.finishGraceMs, 'its job is over and it did not power off');
    case 'claimed':
    case 'ended':
      return null;
    default:
      return state satisfies never;
  }
}
