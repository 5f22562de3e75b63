/** The one way out to GitLab. */

export type { AnswerHead } from './answer-parser.ts';
export type { Fetch } from './fetch.ts';
export { createFetch } from './fetch.ts';
export { GitlabHealth, type Probed } from './health.ts';
export { probeGitlab } from './probe.ts';
export { createSend, type Send } from './send.ts';
export type { Upstream, UpstreamOptions, UpstreamRequest } from './upstream.ts';
export { createUpstream, upstreamError } from './upstream.ts';
export type { PendingCall, SmallCall, WholeAnswer } from './wire.ts';
