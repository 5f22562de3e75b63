/** GitLab's runner API: one method per call, each answer sorted into an outcome. */

import ky, { type Options } from 'ky';
import type { Clock } from '../lib/clock.ts';
import { describeError, errorCode, toError } from '../lib/errors.ts';
import { isPage } from '../lib/is-page.ts';
import { headersOf } from '../lib/raw-headers.ts';
import { readKey } from '../lib/read-key.ts';
import { readRetryAfter } from '../lib/retry-after.ts';
import type { Fetch, Send } from '../upstream/index.ts';
import { HEADERS, JOB_STATUS, type JobStatus, parseRangeEnd } from './headers.ts';
import type {
  GitlabClient,
  RequestJobOutcome,
  TraceOutcome,
  UpdateOutcome,
  VerifyOutcome,
} from './outcomes.ts';
import { readPayload } from './payload.ts';

export interface GitlabClientOptions {
  /** GitLab's address without a trailing slash. */
  readonly url: string;
  /**
   * Its time-out is that of `jobs/request`. Long: the answer may hold a job, and one that we do not wait for is
   * lost. GitLab itself gives up a request after 60 s, its front queue after 30 s more.
   */
  readonly fetch: Fetch;
  /**
   * What is below `fetch`, for `jobs/request` alone: each runner asks it every few seconds, for ever, and two thirds
   * of a call’s CPU are ky’s, `Request`’s and `Response`’s. Absent: by ky, as everything else.
   */
  readonly send?: Send;
  readonly userAgent: string;
  /** For every other call as a whole, in ms. */
  readonly callTimeoutMs: number;
  readonly clock: Clock;
  /** Told of each call once it is over. */
  observed?(call: ObservedCall): void;
}

/** One call, for metrics and checks. Holds no token. */
export interface ObservedCall {
  /** As gitlab-runner's metrics name it. */
  readonly endpoint: 'request_job' | 'update_job' | 'patch_trace' | 'verify_runner';
  readonly jobId: number | null;
  readonly durationMs: number;
  /** Null where there was no answer. */
  readonly answer: { readonly status: number; readonly headers: Headers } | null;
  /** Why there was none: the system's code, such as `ECONNREFUSED`, where there is one. */
  readonly failure: string | null;
}

/** A job's payload is at most some MiB; beyond this it is no job but a mistake. */
const MAX_PAYLOAD_BYTES = 64 * 1024 * 1024;
const MAX_ANSWER_BYTES = 1024 * 1024;

const METHODS = {
  update_job: 'put',
  patch_trace: 'patch',
  verify_runner: 'post',
} as const;

/** What a 202 asks for where it names no interval: the runner's own. */
const DEFAULT_INTERVAL_MS = 3000;

export function createGitlabClient(options: GitlabClientOptions): GitlabClient {
  const { clock, callTimeoutMs, send } = options;
  const common = { accept: 'application/json', 'user-agent': options.userAgent };
  const api = ky.create({
    prefix: `${options.url}/api/v4`,
    fetch: options.fetch as typeof globalThis.fetch,
    headers: common,
    // A blind repetition of `jobs/request` would lose a job; of all else the callers know better.
    retry: { limit: 0 },
    throwHttpErrors: false,
    redirect: 'manual',
    // Its timer would not let the socket be read first, where this process was stopped for a while.
    timeout: false,
  });
  const observe = async (
    endpoint: ObservedCall['endpoint'],
    jobId: number | null,
    exchange: () => Promise<Answer>,
  ): Promise<Exchange> => {
    const startedAt = clock.monotonic();
    const exchanged = await exchange().catch(toFailed);
    options.observed?.({
      endpoint,
      jobId,
      durationMs: clock.monotonic() - startedAt,
      answer:
        exchanged.kind === 'answer'
          ? { status: exchanged.status, headers: exchanged.headers }
          : null,
      failure: exchanged.kind === 'answer' ? null : exchanged.code,
    });
    return exchanged;
  };
  const call = (
    endpoint: Exclude<ObservedCall['endpoint'], 'request_job'>,
    path: string,
    init: Options,
    jobId: number | null = null,
  ): Promise<Exchange> =>
    observe(endpoint, jobId, async () => {
      const late = new AbortController();
      const tooLate = (): void => late.abort(new DOMException('no answer in time', 'TimeoutError'));
      const limit = clock.after(callTimeoutMs, tooLate);
      const response = await api(path, {
        ...init,
        method: METHODS[endpoint],
        signal: late.signal,
      }).finally(() => limit.cancel());
      return readAnswer(response, MAX_ANSWER_BYTES);
    });
  // An answer that has begun may be a job: however long it takes, it is not cut off from here.
  const ask = async (json: object): Promise<Answer> => {
    const path = 'jobs/request';
    if (send === undefined) return readAnswer(await api.post(path, { json }), MAX_PAYLOAD_BYTES);
    const { statusCode, rawHeaders, body } = await send({
      method: 'POST',
      path: `/api/v4/${path}`,
      headers: { ...common, 'content-type': 'application/json' },
      body: Buffer.from(JSON.stringify(json)),
    });
    return { kind: 'answer', status: statusCode, headers: headersOf(rawHeaders), body };
  };

  return {
    async requestJob(token, systemId, info) {
      const answer = await observe('request_job', null, () =>
        ask({ token, system_id: systemId, info }),
      );
      return answer.kind === 'failed' ? answer.retry : toRequestJobOutcome(answer);
    },
    async updateJob(jobId, jobToken, update) {
      const init = { json: { token: jobToken, ...update } };
      const answer = await call('update_job', `jobs/${jobId}`, init, jobId);
      return answer.kind === 'failed' ? answer.retry : toUpdateOutcome(answer);
    },
    async repeatUpdate(jobId, body) {
      const init = {
        body: new Uint8Array(body),
        headers: { 'content-type': 'application/json' },
      };
      const answer = await call('update_job', `jobs/${jobId}`, init, jobId);
      return answer.kind === 'failed' ? answer.retry : toUpdateOutcome(answer);
    },
    async appendTrace(jobId, jobToken, offset, bytes) {
      const init = {
        body: new Uint8Array(bytes),
        headers: {
          'content-type': 'text/plain',
          [HEADERS.contentRange]: `${offset}-${offset + Math.max(bytes.length - 1, 0)}`,
          [HEADERS.jobToken]: jobToken,
        },
      };
      const answer = await call('patch_trace', `jobs/${jobId}/trace`, init, jobId);
      return answer.kind === 'failed' ? answer.retry : toTraceOutcome(answer);
    },
    async verifyRunner(token, systemId, info) {
      const answer = await call('verify_runner', 'runners/verify', {
        json: { token, system_id: systemId, info },
      });
      return answer.kind === 'failed' ? answer.retry : toVerifyOutcome(answer);
    },
  };
}

interface Answer {
  readonly kind: 'answer';
  readonly status: number;
  readonly headers: Headers;
  readonly body: Buffer;
}

type Exchange =
  | Answer
  | { readonly kind: 'failed'; readonly retry: RetryOutcome; readonly code: string | null };
type RetryOutcome = Extract<RequestJobOutcome, { kind: 'retry' }>;

function toFailed(error: unknown): Exchange {
  const failure = describeFailure(error);
  return { kind: 'failed', retry: retry(failure.text), code: failure.code };
}

/** Never the error itself: ky's carries request and options, and those hold tokens. */
function describeFailure(thrown: unknown): { text: string; code: string | null } {
  const error = toError(thrown);
  const code = errorCode(error.cause ?? error);
  if (error.name === 'TimeoutError' || code === 'upstream_timeout') {
    return { text: 'no answer in time', code: 'ETIMEDOUT' };
  }
  // Of ours, the message says more than the code.
  if (code === 'upstream_unreachable') return { text: describeError(error), code };
  return code === undefined
    ? { text: describeError(error.cause ?? error), code: null }
    : { text: `connection failed: ${code}`, code };
}

async function readAnswer(response: Response, maxBytes: number): Promise<Answer> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength;
    if (size > maxBytes) throw new Error(`an answer of more than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  const { status, headers } = response;
  return { kind: 'answer', status, headers, body: Buffer.concat(chunks) };
}

function toRequestJobOutcome(answer: Answer): RequestJobOutcome {
  switch (answer.status) {
    case 201:
      return toJob(answer);
    case 204:
      return { kind: 'none' };
    case 409:
      return { kind: 'conflict' };
    default:
      return forbiddenOrRetry(answer);
  }
}

/** A firewall's or a sign-in's page says nothing of the token. */
function forbiddenOrRetry(
  answer: Answer,
): Extract<RequestJobOutcome, { kind: 'forbidden' | 'retry' }> {
  const isRefused = answer.status === 401 || answer.status === 403;
  return isRefused && !isPage(answer.headers.get('content-type'))
    ? { kind: 'forbidden', reason: describeAnswer(answer) }
    : retry(describeAnswer(answer), answer);
}

/** Whatever the content type says: what can be read as a job is one, and must be ended by us. */
function toJob(answer: Answer): RequestJobOutcome {
  const read = readPayload(answer.body);
  if (!read.ok) {
    const reason = `201 with ${contentType(answer)}: ${read.reason}`;
    return { kind: 'broken', reason, left: read.left };
  }
  return {
    kind: 'job',
    payload: answer.body,
    facts: read.facts,
    secrets: read.secrets,
    queue: read.queue,
    requestId: answer.headers.get(HEADERS.requestId) ?? undefined,
  };
}

function toUpdateOutcome(answer: Answer): UpdateOutcome {
  const jobStatus = readJobStatus(answer);
  // A box in between says 200 as well, with a page; it has told GitLab nothing.
  const isTold = jobStatus !== undefined || !isPage(answer.headers.get('content-type'));
  switch (answer.status) {
    case 200:
      return isTold ? { kind: 'done', jobStatus } : retry(describeAnswer(answer), answer);
    case 202:
      return { kind: 'pending', intervalMs: readInterval(answer) };
    default:
      return overOrRetry(answer, jobStatus);
  }
}

function toTraceOutcome(answer: Answer): TraceOutcome {
  const jobStatus = readJobStatus(answer);
  const size = parseRangeEnd(answer.headers.get(HEADERS.range) ?? undefined);
  switch (answer.status) {
    case 202:
      return { kind: 'accepted', size, jobStatus };
    case 416:
      return size === undefined
        ? retry('416 without a usable Range', answer)
        : { kind: 'wrong-offset', size };
    default:
      return overOrRetry(answer, jobStatus);
  }
}

function overOrRetry(
  answer: Answer,
  jobStatus: JobStatus | undefined,
): Extract<UpdateOutcome, { kind: 'over' | 'retry' }> {
  // GitLab's own 403 ends a job; one from a box in between must not.
  const fromGitlab = jobStatus !== undefined || readMessage(answer)?.startsWith('403') === true;
  return answer.status === 403 && fromGitlab
    ? { kind: 'over', jobStatus, reason: describeAnswer(answer) }
    : retry(describeAnswer(answer), answer);
}

function toVerifyOutcome(answer: Answer): VerifyOutcome {
  // A page of a proxy's, or of another server, is 200 as well, and says nothing of the token.
  if (answer.status === 200 && readJson(answer) !== undefined) {
    return { kind: 'valid', tokenExpiresAt: readExpiry(answer) };
  }
  return forbiddenOrRetry(answer);
}

function retry(reason: string, answer?: Answer): RetryOutcome {
  return {
    kind: 'retry',
    reason,
    retryAfterMs: readRetryAfter(answer?.headers.get(HEADERS.retryAfter)),
  };
}

function readJobStatus(answer: Answer): JobStatus | undefined {
  const status = answer.headers.get(HEADERS.jobStatus);
  return JOB_STATUS.find((known) => known === status);
}

function readInterval(answer: Answer): number {
  const seconds = Number(answer.headers.get(HEADERS.traceUpdateInterval));
  return seconds > 0 ? seconds * 1000 : DEFAULT_INTERVAL_MS;
}

function readExpiry(answer: Answer): Date | null {
  const text = readKey(readJson(answer), 'token_expires_at');
  const date = typeof text === 'string' ? new Date(text) : null;
  return date === null || Number.isNaN(date.getTime()) ? null : date;
}

function readMessage(answer: Answer): string | undefined {
  return asText(readKey(readJson(answer), 'message'));
}

/** Of a rate limit and of a missing field they stand elsewhere. */
function readWords(answer: Answer): string | undefined {
  const body = readJson(answer);
  const error = readKey(readKey(body, 'message'), 'error') ?? readKey(body, 'error');
  return readMessage(answer) ?? asText(error);
}

function asText(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

function readJson(answer: Answer): unknown {
  try {
    return JSON.parse(answer.body.toString('utf8'));
  } catch {
    return undefined;
  }
}

function contentType(answer: Answer): string {
  const type = answer.headers.get('content-type')?.split(';')[0]?.trim().toLowerCase();
  return type === undefined || type === '' ? 'no content type' : type;
}

/** Status and GitLab's message; of anything else only its type, since it may be a page of HTML. */
function describeAnswer(answer: Answer): string {
  const words = readWords(answer)?.slice(0, 200);
  if (words !== undefined)
    return words.startsWith(String(answer.status)) ? words : `${answer.status} ${words}`;
  return answer.body.length === 0 || contentType(answer) === 'text/plain'
    ? String(answer.status)
    : `${answer.status} with ${contentType(answer)} instead of GitLab's JSON: is gitlab.url right?`;
}
