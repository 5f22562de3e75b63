/** What GitLab's answers mean to us, as result unions: expected outcomes are values, not exceptions. */

import type { Features } from './features.ts';
import type { JobStatus } from './headers.ts';
import type { BareJob, JobFacts, JobQueue, JobSecrets } from './payload.ts';

/** The `info` object of our own requests. */
export interface RunnerInfo {
  readonly name: string;
  readonly version: string;
  readonly platform: 'linux';
  readonly architecture: string;
  readonly executor: 'shell' | 'docker';
  readonly features: Features;
}

/** An answer that says nothing about the job or the runner: try again later. */
export interface Retry {
  readonly kind: 'retry';
  /** For the log and the status page: `503`, `connection refused`, … */
  readonly reason: string;
  /** What GitLab asked for by `Retry-After`, in ms; not yet capped. */
  readonly retryAfterMs: number | undefined;
}

/** `POST jobs/request`. */
export type RequestJobOutcome =
  | {
      readonly kind: 'job';
      /** The answer's bytes, exactly. */
      readonly payload: Buffer;
      readonly facts: JobFacts;
      readonly secrets: JobSecrets;
      readonly queue: JobQueue;
      readonly requestId: string | undefined;
    }
  | { readonly kind: 'none' }
  /** Another runner was faster, or the queue is locked for a moment: ask again soon. */
  | { readonly kind: 'conflict' }
  /** The runner token is unknown or expired. */
  | { readonly kind: 'forbidden'; readonly reason: string }
  /** 201, but what came cannot be a job. */
  | { readonly kind: 'broken'; readonly reason: string; readonly left: BareJob | null }
  | Retry;

/** `PUT jobs/:id`. */
export type UpdateOutcome =
  /** 200: the state is written. */
  | { readonly kind: 'done'; readonly jobStatus: JobStatus | undefined }
  /** 202: remembered; the same update is to be sent again after the interval. */
  | { readonly kind: 'pending'; readonly intervalMs: number }
  /** GitLab's own 403: the job is over (its status, where told) or this token is not its. */
  | { readonly kind: 'over'; readonly jobStatus: JobStatus | undefined; readonly reason: string }
  | Retry;

/** `PATCH jobs/:id/trace`. */
export type TraceOutcome =
  | {
      readonly kind: 'accepted';
      readonly size: number | undefined;
      readonly jobStatus: JobStatus | undefined;
    }
  /** 416: GitLab holds this many bytes; go on from there. */
  | { readonly kind: 'wrong-offset'; readonly size: number }
  | { readonly kind: 'over'; readonly jobStatus: JobStatus | undefined; readonly reason: string }
  | Retry;

/** `POST runners/verify`. */
export type VerifyOutcome =
  | { readonly kind: 'valid'; readonly tokenExpiresAt: Date | null }
  | { readonly kind: 'forbidden'; readonly reason: string }
  | Retry;

/** Reasons that every GitLab knows, and those that it must have listed in the payload. */
export type FailureReason =
  | 'runner_system_failure'
  | 'job_execution_timeout'
  | 'runner_interrupted'
  | 'unknown_failure';

/** A final `PUT` of our own. */
export interface FinalUpdate {
  readonly state: 'failed';
  readonly failure_reason: FailureReason;
}

/** GitLab's runner API. Nothing here is ever retried: callers own every repetition. */
export interface GitlabClient {
  /**
   * Asks for a job. Not safe to abort or to repeat blindly: GitLab may have assigned a job to the
   * request, and an assigned job cannot be given back.
   */
  requestJob(token: string, systemId: string, info: RunnerInfo): Promise<RequestJobOutcome>;
  /** Keep-alive with `running`, or a final state. */
  updateJob(
    jobId: number,
    jobToken: string,
    update: { readonly state: 'running' } | FinalUpdate,
  ): Promise<UpdateOutcome>;
  /** Sends a final `PUT` again exactly as a guest's runner sent it. */
  repeatUpdate(jobId: number, body: Buffer): Promise<UpdateOutcome>;
  /** Appends bytes to the job's log at `offset`. */
  appendTrace(
    jobId: number,
    jobToken: string,
    offset: number,
    bytes: Buffer,
  ): Promise<TraceOutcome>;
  /** Makes GitLab see the runner, and tells whether its token is good. */
  verifyRunner(token: string, systemId: string, info: RunnerInfo): Promise<VerifyOutcome>;
}
