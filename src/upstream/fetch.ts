/** A `fetch` over the upstream, for requests and answers that are sent and read whole. */

import { ForrestGitlabError } from '../errors.ts';
import { describeError } from '../lib/errors.ts';
import { type GitlabHealth, outageOf } from './health.ts';
import { type Upstream, upstreamError } from './upstream.ts';
import type { PendingCall, WholeAnswer } from './wire.ts';

export type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

/** Statuses whose answers have no body; `Response` refuses one for them. */
const BODILESS = new Set([204, 205, 304]);

/** The largest answer is a job's payload, of some MiB at most; beyond this it is a mistake. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

/**
 * Rejects with the upstream's coded errors, or with the signal's reason. Redirects are not followed;
 * nothing is decompressed, so none is asked for. Refuses addresses outside of the upstream's. Tells
 * `health` what it met. GitLab may take `answerTimeoutMs` to begin its answer, and rest for as long within it.
 */
export function createFetch(
  upstream: Upstream,
  answerTimeoutMs: number,
  health?: Pick<GitlabHealth, 'answered' | 'suspect'>,
): Fetch {
  return async (input, init) => {
    // ky hands over a whole request: a copy would pass its body through a stream.
    const request = input instanceof Request ? input : new Request(input, init);
    if (!request.url.startsWith(`${upstream.url}/`)) {
      throw new TypeError(`${new URL(request.url).origin} is not below ${upstream.url}`);
    }
    const call = upstream.call({
      method: request.method,
      path: request.url.slice(upstream.url.length),
      headers: { ...Object.fromEntries(request.headers), 'accept-encoding': 'identity' },
      body: Buffer.from(await request.arrayBuffer()),
      answerTimeoutMs,
      stallMs: answerTimeoutMs,
      maxAnswerBytes: MAX_ANSWER_BYTES,
    });
    try {
      const answer = await unlessAborted(call, request.signal);
      if (!answer.isWhole) {
        throw new ForrestGitlabError(
          'upstream_unreachable',
          `${upstream.url} broke off its answer`,
        );
      }
      const outage = outageOf(answer.statusCode, answer.headers['content-type']);
      if (outage === null) health?.answered();
      else health?.suspect(outage);
      return toResponse(answer);
    } catch (error) {
      if (request.signal.aborted) throw request.signal.reason;
      const failure = upstreamError(error, upstream.url);
      health?.suspect(describeError(failure));
      throw failure;
    }
  };
}

async function unlessAborted(call: PendingCall, signal: AbortSignal): Promise<WholeAnswer> {
  const abort = (): void => call.abort();
  signal.addEventListener('abort', abort, { once: true });
  if (signal.aborted) abort();
  try {
    return await call.answer;
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

function toResponse({ statusCode: status, rawHeaders, body }: WholeAnswer): Response {
  const headers = new Headers();
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    headers.append(rawHeaders[index] as string, rawHeaders[index + 1] as string);
  }
  return new Response(BODILESS.has(status) ? null : new Uint8Array(body), { status, headers });
}
