/** What came of a run, from the facts about each job and what was left behind. Pure: its checks are tested. */

import type { Expected } from './jobs.ts';
import { checkLog, JOURNAL_DAMAGED } from './log-check.ts';
import type { FaultKind } from './schedule.ts';

/** One final update as GitLab saw it. */
export interface FinalUpdate {
  readonly state: 'success' | 'failed';
  /** GitLab's answer; null: it sent none. */
  readonly status: number | null;
}

/** All that is known about a job in the end. */
export interface JobFacts {
  readonly id: number;
  readonly name: string;
  readonly expected: Expected;
  /** GitLab's. */
  readonly status: string;
  readonly failureReason: string | null;
  readonly handedOut: number;
  readonly ended: number;
  readonly finals: readonly FinalUpdate[];
  /** What a client did that no correct one does. */
  readonly anomalies: readonly string[];
  readonly log: Buffer;
  /** The log is, to the byte, what its runner says that it has sent. */
  readonly logIntact: boolean;
  /** Whether a host had it in its journal, or spoke for it. */
  readonly received: boolean;
  /** Whether its 201 may have been cut, by a fault that was on when it was assigned. */
  readonly answerMayBeLost: boolean;
  /** How often its script began. */
  readonly began: number;
  /**
   * Its runner may be one from before 18.5, which runs the script for up to 3 s before its first call: a machine
   * that is killed within these has run something, and nobody knows.
   */
  readonly mayBeginUnheard: boolean;
  /** The exit code that its script came to; null: it did not. */
  readonly scriptEnded: number | null;
  readonly canceled: boolean;
  /** What was done to it that may end it as a failure of the system; empty: nothing. */
  readonly disturbances: readonly string[];
}

export interface Leaks {
  readonly machines: number;
  readonly reservationsMb: number;
  readonly runDirs: number;
  readonly journalFiles: number;
  readonly tokens: number;
  readonly processes: number;
  readonly sockets: number;
}

export interface Summary {
  readonly seed: number;
  readonly rounds: number;
  readonly jobs: number;
  readonly faults: Readonly<Partial<Record<FaultKind, number>>>;
  /** Received and never final. */
  readonly lost: number;
  /** Never handed out, and never final. */
  readonly unfinished: number;
  readonly endedTwice: number;
  readonly ranTwice: number;
  readonly logDamaged: number;
  /** Not disturbed, and not as its script ended; or disturbed, and in a state that nothing explains. */
  readonly wrongState: number;
  /** Their 201 was cut before it was read: GitLab's own sweep ends those. */
  readonly neverReceived: number;
  readonly leaked: Leaks;
}

export interface Run {
  readonly seed: number;
  readonly rounds: number;
  readonly faults: Summary['faults'];
  readonly jobs: readonly JobFacts[];
  readonly leaked: Leaks;
}

export type Violation =
  | 'lost'
  | 'unfinished'
  | 'endedTwice'
  | 'ranTwice'
  | 'logDamaged'
  | 'wrongState';

export interface Verdict {
  readonly summary: Summary;
  /** A sentence for each thing that is not as it must be. */
  readonly violations: readonly string[];
}

/** GitLab's own reason for a job that nobody speaks for. */
export const SWEPT = 'no_updates_running';

/** Of a disturbance: the job's machine, or its runner, was killed. */
export const KILLED = 'its machine was killed';

const FINAL = ['success', 'failed', 'canceled', 'skipped'];

export function judge(run: Run): Verdict {
  const counts = {
    lost: 0,
    unfinished: 0,
    endedTwice: 0,
    ranTwice: 0,
    logDamaged: 0,
    wrongState: 0,
  };
  const violations: string[] = [];
  let neverReceived = 0;
  for (const job of run.jobs) {
    if (isNeverReceived(job)) {
      neverReceived += 1;
      continue;
    }
    for (const [violation, what] of findViolations(job)) {
      counts[violation] += 1;
      violations.push(`${violation}: job ${job.id} ${job.name} (${job.status}): ${what}`);
    }
  }
  for (const [what, count] of Object.entries(run.leaked)) {
    if (count !== 0) violations.push(`leaked: ${count} ${what}`);
  }
  const { seed, rounds, faults, leaked } = run;
  const summary = {
    ...{ seed, rounds, jobs: run.jobs.length, faults, ...counts, neverReceived, leaked },
  };
  return { summary, violations };
}

/** Nobody can end such a job, as nobody has its token: GitLab's sweep does, sooner or later. */
function isNeverReceived(job: JobFacts): boolean {
  const isOpen = !isFinal(job) || job.failureReason === SWEPT;
  return isOpen && job.handedOut > 0 && !job.received && job.answerMayBeLost;
}

function isFinal(job: JobFacts): boolean {
  return FINAL.includes(job.status);
}

function findViolations(job: JobFacts): [Violation, string][] {
  const found: [Violation, string | null][] = [
    ['lost', !isFinal(job) && job.handedOut > 0 ? 'nobody ends it' : null],
    ['unfinished', !isFinal(job) && job.handedOut === 0 ? 'nobody takes it' : null],
    ['endedTwice', endedTwice(job)],
    ['ranTwice', ranTwice(job)],
    ['logDamaged', job.handedOut === 0 ? null : checkLog(job)],
    ['wrongState', isFinal(job) ? wrongState(job) : null],
  ];
  return found.flatMap(([violation, what]) => (what === null ? [] : [[violation, what]]));
}

function ranTwice({ began, mayBeginUnheard, disturbances }: JobFacts): string | null {
  const most = mayBeginUnheard && disturbances.includes(KILLED) ? 2 : 1;
  return began > most ? `its script began ${began} times` : null;
}

function endedTwice(job: JobFacts): string | null {
  const taken = job.finals.filter(({ status }) => status === 200).length;
  if (taken > 1) return `GitLab took ${taken} final updates`;
  if (job.ended > 1) return `it ended ${job.ended} times`;
  // Of a damaged entry nothing is left of what the runner has said: our own end goes without a checksum.
  const anomalies = job.disturbances.includes(JOURNAL_DAMAGED)
    ? job.anomalies.filter((anomaly) => !anomaly.startsWith('a final update without a checksum'))
    : job.anomalies;
  return anomalies.length > 0 ? anomalies.join('; ') : null;
}

function wrongState(job: JobFacts): string | null {
  const { expected, disturbances, status, failureReason } = job;
  if (job.handedOut === 0) return null;
  const isAsScript =
    status === expected.state && (status === 'success' || failureReason === 'script_failure');
  if (isAsScript) {
    const said = expected.state === 'success' ? 0 : 3;
    return job.scriptEnded === said ? null : 'its script never came to that end';
  }
  if (job.canceled && status === 'canceled') return null;
  const how = `${status} ${failureReason ?? ''}`.trim();
  if (disturbances.length === 0) return `${how} instead of ${expected.state}, and nothing hit it`;
  // An upload that nobody took is, to its runner, the script's failure.
  const excused =
    failureReason === 'runner_system_failure' ||
    (expected.transfers && failureReason === 'script_failure');
  return status === 'failed' && excused ? null : `${how} after ${disturbances.join(', ')}`;
}

/** Whether all is as it must be. */
export function isClean({ summary }: Verdict): boolean {
  const { lost, unfinished, endedTwice: twice, ranTwice, logDamaged, wrongState: wrong } = summary;
  const counts = [lost, unfinished, twice, ranTwice, logDamaged, wrong];
  return [...counts, ...Object.values(summary.leaked)].every((count) => count === 0);
}
