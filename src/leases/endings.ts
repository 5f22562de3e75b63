/** What GitLab's word about a job's end means to its owner. */

import type { JobOutcome } from '../contract/index.ts';
import type { FailureReason, JobStatus } from '../gitlab/index.ts';
import type { Finishing } from './state.ts';

/** How a job ended, for its row. */
export type End = Pick<Finishing, 'outcome' | 'reason' | 'cause'>;

/** GitLab's answer to our final update. `taken`: it has it. `over`: the job had ended there before. */
export interface Told {
  readonly kind: 'taken' | 'over';
  readonly jobStatus: JobStatus | undefined;
}

/** The end of a job whose final state we delivered, or wanted to: GitLab may have decided before us. */
export function endOf(delivered: Told, { outcome, reason, cause }: End): End {
  const ours = { outcome, reason, cause };
  if (delivered.kind === 'taken') {
    // A cancel was under way: GitLab makes that of our `failed`.
    const isCanceled = delivered.jobStatus === 'canceled' || delivered.jobStatus === 'canceling';
    return isCanceled ? { ...ours, outcome: 'canceled' } : ours;
  }
  const told = explainOver(delivered.jobStatus);
  // Maybe it is our own word that it repeats: an answer was lost, or we died before we wrote it down.
  const isOurs =
    told.outcome === outcome || (told.outcome === 'failed' && outcome === 'system_failure');
  return isOurs ? ours : { ...told, cause: null };
}

/** Reasons that every GitLab has known for years; any other one must stand in the payload. */
const ALWAYS_KNOWN: ReadonlySet<FailureReason> = new Set([
  'runner_system_failure',
  'job_execution_timeout',
  'unknown_failure',
]);

/** What a job is failed with: the exact reason where this GitLab knows it. */
export function failureReasonOf(wanted: FailureReason, known: readonly string[]): FailureReason {
  return ALWAYS_KNOWN.has(wanted) || known.includes(wanted) ? wanted : 'runner_system_failure';
}

export function explainOver(jobStatus: JobStatus | undefined): {
  outcome: JobOutcome;
  reason: string | null;
} {
  switch (jobStatus) {
    case 'canceled':
    case 'canceling':
      return { outcome: 'canceled', reason: 'canceled in GitLab' };
    case 'success':
      return { outcome: 'success', reason: null };
    case 'failed':
      return { outcome: 'failed', reason: 'failed by GitLab' };
    case 'running':
    case undefined:
      return {
        outcome: 'canceled',
        reason: 'GitLab no longer accepts this job: deleted, erased or expired',
      };
    default:
      return jobStatus satisfies never;
  }
}
