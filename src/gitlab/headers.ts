/** Names and values of the headers that GitLab and its runners exchange. */

/** In lower case, as Node hands them over. */
export const HEADERS = {
  jobStatus: 'job-status',
  jobToken: 'job-token',
  runnerToken: 'runner-token',
  privateToken: 'private-token',
  range: 'range',
  contentRange: 'content-range',
  requestId: 'x-request-id',
  retryAfter: 'retry-after',
  traceUpdateInterval: 'x-gitlab-trace-update-interval',
} as const;

/** Job statuses that GitLab tells in `Job-Status`. */
export const JOB_STATUS = ['running', 'canceling', 'canceled', 'failed', 'success'] as const;
export type JobStatus = (typeof JOB_STATUS)[number];

/** True where GitLab will take nothing more for this job. */
export function isJobOver(status: string | undefined): status is 'canceled' | 'failed' | 'success' {
  return status === 'canceled' || status === 'failed' || status === 'success';
}

/** The stored size in GitLab's `Range: 0-<size>` (one past the last byte), or undefined. */
export function parseRangeEnd(range: string | undefined): number | undefined {
  const match = /^0-(\d{1,15})$/.exec(range ?? '');
  return match?.[1] === undefined ? undefined : Number(match[1]);
}
