/** What GitLab's word about a job's end means to its owner. */

import type { JobOutcome } from '../contract/index.ts';
import type { JobStatus } from '../gitlab/index.ts';
import type { Delivered } from './delivery.ts';

/** GitLab turns our `failed` into `canceled` where a cancel was under way, and may have ended the job before us. */
export function outcomeOf(
  delivered: Exclude<Delivered, { kind: 'stopped' }>,
  ours: JobOutcome,
): JobOutcome {
  if (delivered.kind === 'over') return explainOver(delivered.jobStatus).outcome;
  return delivered.jobStatus === 'canceled' || delivered.jobStatus === 'canceling'
    ? 'canceled'
    : ours;
}

export function explainOver(jobStatus: JobStatus | undefined): {
  outcome: JobOutcome;
  reason: string;
} {
  switch (jobStatus) {
    case 'canceled':
    case 'canceling':
      return { outcome: 'canceled', reason: 'canceled in GitLab' };
    case 'success':
      return { outcome: 'success', reason: 'already a success in GitLab' };
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
