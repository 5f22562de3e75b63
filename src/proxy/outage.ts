/** What counts as "GitLab is out" for one call, and the answers on which its runner waits (design §6). */

import type { IncomingHttpHeaders } from 'node:http';
import { HEADERS, parseRangeEnd } from '../gitlab/index.ts';
import { isPage } from '../lib/is-page.ts';
import type { AnswerHead } from './forward.ts';
import { type OwnAnswer, plain, withMessage } from './own-answer.ts';
import type { Handling } from './routes.ts';

/** An answer that GitLab itself does not give to a call that is in order. */
export function isOutAnswer(handling: Handling, answer: AnswerHead): boolean {
  const status = answer.statusCode ?? 502;
  if (status === 408 || status === 429 || status >= 500) return true;
  // Maintenance, or a sign-in, that says that all is well.
  if (status < 300) return !isGitlabs(answer) && isPage(answer.headers['content-type']);
  // A missing artifact is an answer. To what a job sends, GitLab never says the following: a box in between does.
  if (handling === 'download') return false;
  if (status < 400) return handling !== 'upload' || !REPEATS_BODY.has(status);
  return status === 404 || ((status === 401 || status === 403) && !isGitlabs(answer));
}

/** Redirects by which an upload goes elsewhere: its runner sends it again there. */
const REPEATS_BODY: ReadonlySet<number> = new Set([307, 308]);

/** Whether it may be the same for everybody: worth a probe. Too many requests are one sender's affair. */
export function isSuspicious(answer: AnswerHead): boolean {
  return answer.statusCode !== 408 && answer.statusCode !== 429;
}

/**
 * Whether it ends an outage. A refusal may come from what stands before GitLab: too large, or no form at all. A job
 * that brings those about would let everybody's calls out, to their failure.
 */
export function showsGitlab(answer: AnswerHead): boolean {
  return (answer.statusCode ?? 502) < 400 || isGitlabs(answer);
}

function isGitlabs(answer: AnswerHead): boolean {
  return (
    answer.headers[HEADERS.jobStatus] !== undefined ||
    /^application\/json\b/i.test(answer.headers['content-type'] ?? '')
  );
}

/** Between the tries of a runner that waits with its final update. */
const FINAL_INTERVAL_SECONDS = 10;

/** As short as can be said: the waiting is done here, and old runners have few tries. */
const RETRY_AFTER_SECONDS = 1;

/** Where too much waits here already: then the runner is to wait. */
const CROWDED_RETRY_AFTER_SECONDS = 10;

/**
 * What its runner waits on before it gives up waiting for an answer. On a 202 to its final update and
 * on a 416 at the offset that it has, any runner waits without limit; else it tries again on 503.
 */
export function waitingAnswer(
  handling: Handling,
  headers: IncomingHttpHeaders,
  isFinal: boolean,
  isCrowded = false,
): OwnAnswer {
  if (isFinal) {
    return plain(202, { 'X-GitLab-Trace-Update-Interval': String(FINAL_INTERVAL_SECONDS) });
  }
  const start = handling === 'trace' ? patchStart(headers) : undefined;
  if (start !== undefined) {
    return withMessage(416, '416 Range Not Satisfiable', { Range: `0-${start}` });
  }
  return tryAgain(isCrowded ? CROWDED_RETRY_AFTER_SECONDS : RETRY_AFTER_SECONDS);
}

/** For an upload that broke off, once GitLab is back. */
export function tryAgain(seconds: number = RETRY_AFTER_SECONDS): OwnAnswer {
  return withMessage(503, '503 Service Unavailable', { 'Retry-After': String(seconds) });
}

/**
 * What GitLab answered to the first try, where its answer to a repeated one only says that the first was
 * taken: 416 at the very end of a log's `PATCH`, 403 for a job that is what the final update made it.
 */
export function lostAnswer(
  answer: AnswerHead,
  sent: IncomingHttpHeaders,
  body: Buffer,
  final: 'success' | 'failed' | undefined,
): OwnAnswer | null {
  const status = answer.headers[HEADERS.jobStatus]?.toString();
  const jobStatus: Record<string, string> = status === undefined ? {} : { 'Job-Status': status };
  if (answer.statusCode === 416) {
    const start = patchStart(sent);
    const size = parseRangeEnd(answer.headers[HEADERS.range]?.toString());
    return start !== undefined && size === start + body.length
      ? plain(202, { ...jobStatus, Range: `0-${size}` })
      : null;
  }
  return answer.statusCode === 403 && final !== undefined && status === final
    ? plain(200, jobStatus)
    : null;
}

/** Where a `PATCH` says that its bytes begin; only that is what GitLab reads of it. */
function patchStart(headers: IncomingHttpHeaders): number | undefined {
  const match = /^(\d{1,15})-/.exec(String(headers[HEADERS.contentRange] ?? ''));
  return match?.[1] === undefined ? undefined : Number(match[1]);
}
