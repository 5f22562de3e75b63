/** A request whose body is at hand, and its answer whole: our own calls, and what GitLab’s health learns of them. */

import { gunzipSync } from 'node:zlib';
import { ForrestGitlabError } from '../errors.ts';
import { describeError } from '../lib/errors.ts';
import { type GitlabHealth, outageOf } from './health.ts';
import { type Upstream, upstreamError } from './upstream.ts';
import type { PendingCall, SmallCall, WholeAnswer } from './wire.ts';

export type Sent = Pick<SmallCall, 'method' | 'path' | 'headers' | 'body'>;

/** Rejects with the upstream's coded errors, or with the signal's reason. */
export type Send = (request: Sent, signal?: AbortSignal) => Promise<WholeAnswer>;

/** The largest answer is a job's payload, of some MiB at most; beyond this it is a mistake. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

/**
 * Redirects are not followed. No compression is asked for; a box in between may know better. Tells `health` what it met.
 * GitLab may take `answerTimeoutMs` to begin its answer, and rest for as long within it.
 */
export function createSend(
  upstream: Upstream,
  answerTimeoutMs: number,
  health?: Pick<GitlabHealth, 'answered' | 'suspect'>,
): Send {
  return async (request, signal) => {
    const call = upstream.call({
      ...request,
      headers: { ...request.headers, 'accept-encoding': 'identity' },
      answerTimeoutMs,
      stallMs: answerTimeoutMs,
      maxAnswerBytes: MAX_ANSWER_BYTES,
    });
    try {
      const answer = await unlessAborted(call, signal);
      // Of a 201, which may hold a job, the beginning is enough to end that.
      if (!answer.isWhole && answer.statusCode !== 201) {
        throw new ForrestGitlabError(
          'upstream_unreachable',
          `${upstream.url} broke off its answer`,
        );
      }
      const outage = answer.isWhole
        ? outageOf(answer.statusCode, answer.headers['content-type'])
        : 'it broke off its answer';
      if (outage === null) health?.answered();
      else health?.suspect(outage);
      return unpacked(answer);
    } catch (error) {
      if (signal?.aborted === true) throw signal.reason;
      const failure = upstreamError(error, upstream.url);
      health?.suspect(describeError(failure));
      throw failure;
    }
  };
}

function unpacked(answer: WholeAnswer): WholeAnswer {
  if (!/^(?:x-)?gzip$/i.test(answer.headers['content-encoding'] ?? '')) return answer;
  return { ...answer, body: gunzipSync(answer.body, { maxOutputLength: MAX_ANSWER_BYTES }) };
}

async function unlessAborted(
  call: PendingCall,
  signal: AbortSignal | undefined,
): Promise<WholeAnswer> {
  const abort = (): void => call.abort();
  signal?.addEventListener('abort', abort, { once: true });
  if (signal?.aborted === true) abort();
  try {
    return await call.answer;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}
