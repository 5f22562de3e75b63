/** What happens in a run: jobs and faults by round, all drawn before it begins. */

import { between, createRandom, pick, type Random, shuffle } from '../support/random.ts';

export const FAULT_KINDS = [
  'kill-host',
  'kill-host-and-supervisor',
  'kill-machine',
  'kill-runner',
  'stop-host',
  'stop-machine',
  'gitlab-refuses',
  'gitlab-hangs',
  'gitlab-5xx',
  'gitlab-cuts',
  'journal-truncated',
  'disk-full',
  'lost-201',
  'duplicate-answer',
  'slow-network',
] as const;

export type FaultKind = (typeof FAULT_KINDS)[number];

/** States of a lease in their order. */
export const STATES = ['claimed', 'booting', 'offered', 'running', 'finishing'] as const;

export type State = (typeof STATES)[number];

const JOB_KINDS = ['short', 'long', 'noisy', 'fails', 'pipeline'] as const;

export type JobKind = (typeof JOB_KINDS)[number];

export interface PlannedJob {
  readonly kind: JobKind;
  /** What its log is made of. */
  readonly seed: number;
  readonly lines: number;
  /** Queued so long after the one before it. */
  readonly gapMs: number;
  /** Canceled so long after it was queued; null: not at all. */
  readonly cancelAfterMs: number | null;
}

export interface PlannedFault {
  readonly kind: FaultKind;
  /** Which of the round's jobs it waits for. */
  readonly job: number;
  /** Of a pipeline: the job that uploads, or the one that downloads. */
  readonly stage: 0 | 1;
  readonly state: State;
  readonly afterMs: number;
  /** How long it lasts, where it lasts. */
  readonly holdMs: number;
  /** For what a kind leaves open, in [0, 1). */
  readonly variant: number;
  /** Who is hit where nobody has the job. */
  readonly host: 0 | 1;
}

export interface Round {
  readonly jobs: readonly PlannedJob[];
  readonly fault: PlannedFault;
}

export interface ScheduleOptions {
  readonly seed: number;
  readonly rounds: number;
  readonly jobsPerRound: number;
}

/** The same options, the same schedule. Every kind of fault comes before any comes again. */
export function drawSchedule({ seed, rounds, jobsPerRound }: ScheduleOptions): Round[] {
  const random = createRandom(seed);
  let deck: FaultKind[] = [];
  return Array.from({ length: rounds }, () => {
    if (deck.length === 0) deck = shuffle(random, FAULT_KINDS);
    const kind = deck.pop() ?? 'kill-host';
    const jobs = Array.from({ length: jobsPerRound }, () => drawJob(random));
    return { jobs, fault: drawFault(kind, random, jobsPerRound) };
  });
}

function drawJob(random: Random): PlannedJob {
  const kind = pick(random, JOB_KINDS);
  const lines = { short: 8, long: between(random, 12, 30), noisy: 6000, fails: 5, pipeline: 10 };
  return {
    kind,
    seed: between(random, 1, 1_000_000_000),
    lines: lines[kind],
    gapMs: between(random, 0, 400),
    cancelAfterMs: random() < 0.15 ? between(random, 0, 6000) : null,
  };
}

function drawFault(kind: FaultKind, random: Random, jobs: number): PlannedFault {
  const state = pick(random, STATES);
  const afterMs = between(random, 0, 600);
  return {
    kind,
    job: between(random, 0, jobs - 1),
    stage: random() < 0.5 ? 0 : 1,
    state,
    // The other states are over in a moment.
    afterMs: state === 'booting' || state === 'running' ? afterMs : 0,
    holdMs: between(random, 500, 3500),
    variant: random(),
    host: random() < 0.5 ? 0 : 1,
  };
}
