/** GitLab's runner API as typed outcomes. */

export type { GitlabClientOptions, ObservedCall } from './client.ts';
export { createGitlabClient } from './client.ts';
export { advertisedFeatures, type Features, knownFeatures } from './features.ts';
export { HEADERS, isJobOver, JOB_STATUS, type JobStatus, parseRangeEnd } from './headers.ts';
export type {
  FailureReason,
  FinalUpdate,
  GitlabClient,
  RequestJobOutcome,
  RunnerInfo,
  TraceOutcome,
  UpdateOutcome,
  VerifyOutcome,
} from './outcomes.ts';
export {
  type BareJob,
  type JobFacts,
  type JobQueue,
  type JobSecrets,
  type ReadPayload,
  readPayload,
} from './payload.ts';
