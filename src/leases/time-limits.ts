/** How long a job may be in each state, and what happens then. */

import type { Timings } from '../config/index.ts';
import type { JobOutcome } from '../contract/index.ts';
import type { FailureReason, JobFacts } from '../gitlab/index.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import type { EndCause, LeaseState } from './state.ts';

/** What is being timed. All times are monotonic: a clock that jumps ends no job. */
export interface Timed {
  readonly state: LeaseState;
  readonly facts: Pick<JobFacts, 'timeoutSeconds'>;
  /** When the present state was entered, in whichever process that was. */
  readonly enteredAt: number;
  /** The last call of its runner. */
  readonly spokeAt: number;
  /** When GitLab was first heard to be canceling the job; null: it is not. */
  readonly cancelingSince: number | null;
}

export interface TimeLimit {
  readonly at: number;
  readonly reason: string;
  readonly cause: EndCause;
  /** How the job ends; null: only its machine is stopped, and what follows is as if it had ended by itself. */
  readonly ends: { readonly outcome: JobOutcome; readonly failureReason: FailureReason } | null;
}

/** One limit at a time: the next one of the state. */
export function timeLimitOf(timed: Timed, timings: Timings): TimeLimit | null {
  const { state, enteredAt } = timed;
  const stop = (afterMs: number, cause: EndCause, what: string): TimeLimit => ({
    at: enteredAt + afterMs,
    reason: `${what} within ${inWords(afterMs)}`,
    cause,
    ends: null,
  });
  switch (state.name) {
    case 'booting':
      return stop(timings.askLimitMs, 'never-asked', 'its runner did not ask for its job');
    case 'offered':
      return stop(
        timings.firstCallLimitMs,
        'never-spoke',
        'its runner was given the job and did not speak for it',
      );
    case 'running':
      return earliest([jobTimeout(timed, timings), ...cancelLimits(timed, timings)]);
    case 'finishing':
      return state.machineGone
        ? null
        : stop(
            timings.finishGraceMs,
            'machine-stopped',
            'its job is over and it did not power off',
          );
    // Waiting for room: before all others, and a cancel or GitLab's own time limit ends it.
    case 'claimed':
    case 'ended':
      return null;
    default:
      return state satisfies never;
  }
}

function jobTimeout({ facts, enteredAt }: Timed, timings: Timings): TimeLimit {
  return {
    at: enteredAt + facts.timeoutSeconds * 1000 + timings.jobGraceMs,
    reason: `the job outlived its timeout of ${facts.timeoutSeconds} s, and the time to wind up`,
    cause: 'job-timeout',
    ends: { outcome: 'system_failure', failureReason: 'job_execution_timeout' },
  };
}

/** A canceled job may run its `after_script` and its uploads; one whose runner says nothing is frozen. */
function cancelLimits({ cancelingSince, spokeAt }: Timed, timings: Timings): TimeLimit[] {
  if (cancelingSince === null) return [];
  const limit = (at: number, reason: string): TimeLimit => ({
    at,
    reason,
    cause: 'cancel-timeout',
    ends: { outcome: 'canceled', failureReason: 'unknown_failure' },
  });
  return [
    limit(
      cancelingSince + timings.cancelLimitMs,
      `canceled in GitLab; the job did not wind up within ${inWords(timings.cancelLimitMs)}`,
    ),
    limit(
      Math.max(spokeAt + timings.cancelSilenceMs, cancelingSince),
      `canceled in GitLab; the job's runner has been silent for ${inWords(timings.cancelSilenceMs)}`,
    ),
  ];
}

function earliest(limits: readonly TimeLimit[]): TimeLimit | null {
  return limits.toSorted((a, b) => a.at - b.at)[0] ?? null;
}

function inWords(ms: number): string {
  return `${Math.round(ms / 1000)} s`;
}

/** Node's timers hold no more than 24.8 days. */
const LONGEST_WAIT_MS = 24 * 60 * 60 * 1000;

/** Watches the one limit that counts; asked again whenever time has passed or something has changed. */
export class TimeLimitWatch {
  readonly #clock: Clock;
  readonly #next: () => TimeLimit | null;
  readonly #reach: (limit: TimeLimit) => void;
  #timer: Timer | null = null;
  #stopped = false;

  constructor(clock: Clock, next: () => TimeLimit | null, reach: (limit: TimeLimit) => void) {
    this.#clock = clock;
    this.#next = next;
    this.#reach = reach;
  }

  arm(): void {
    this.#timer?.cancel();
    const limit = this.#next();
    if (limit === null || this.#stopped) return;
    const remainingMs = Math.max(0, limit.at - this.#clock.monotonic());
    this.#timer = this.#clock.after(Math.min(remainingMs, LONGEST_WAIT_MS), () => this.#look());
  }

  /** For good, also for a step that is under way. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  /** The limit may have moved on meanwhile: a silent runner has spoken. */
  #look(): void {
    const limit = this.#next();
    if (limit !== null && limit.at <= this.#clock.monotonic()) this.#reach(limit);
    else this.arm();
  }
}
