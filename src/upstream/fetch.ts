/** A `fetch` over the upstream, for small requests: bodies are sent whole, never streamed. */

import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import type { ReadableStream as NodeReadableStream } from 'node:stream/web';
import { ForrestGitlabError } from '../errors.ts';
import type { Clock } from '../lib/clock.ts';
import { describeError } from '../lib/errors.ts';
import { type GitlabHealth, outageOf } from './health.ts';
import { type Upstream, upstreamError } from './upstream.ts';

export type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

/** Statuses whose answers have no body; `Response` refuses one for them. */
const BODILESS = new Set([204, 205, 304]);

/**
 * Rejects with the upstream's coded errors, or with the signal's reason. Redirects are not followed;
 * nothing is decompressed, so none is asked for. Refuses addresses outside of the upstream's. Tells
 * `health` what it met.
 */
export function createFetch(
  upstream: Upstream,
  clock: Clock,
  answerTimeoutMs: number,
  health?: Pick<GitlabHealth, 'answered' | 'suspect'>,
): Fetch {
  return async (input, init) => {
    // ky hands over a whole request: a copy would pass its body through a stream.
    const request = input instanceof Request ? input : new Request(input, init);
    if (!request.url.startsWith(`${upstream.url}/`)) {
      throw new TypeError(`${new URL(request.url).origin} is not below ${upstream.url}`);
    }
    const body = Buffer.from(await request.arrayBuffer());
    const outgoing = upstream.request({
      method: request.method,
      path: request.url.slice(upstream.url.length),
      headers: {
        ...Object.fromEntries(request.headers),
        ...(body.length > 0 ? { 'content-length': body.length } : {}),
        'accept-encoding': 'identity',
      },
      answerTimeoutMs,
    });
    const abort = (): void => void outgoing.destroy(request.signal.reason);
    request.signal.addEventListener('abort', abort, { once: true });
    outgoing.once('close', () => request.signal.removeEventListener('abort', abort));
    // Errors after the answer began reach its body; this listener keeps them from being thrown twice.
    outgoing.on('error', () => undefined);
    outgoing.end(body);
    try {
      const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage];
      const limit = clock.after(answerTimeoutMs, () => {
        const message = `${upstream.url} did not end its answer within ${answerTimeoutMs / 1000} s`;
        incoming.destroy(new ForrestGitlabError('upstream_timeout', message));
      });
      incoming.once('close', () => limit.cancel());
      const outage = outageOf(incoming.statusCode ?? 502, incoming.headers['content-type']);
      if (outage === null) health?.answered();
      else health?.suspect(outage);
      return toResponse(incoming);
    } catch (error) {
      if (request.signal.aborted) throw request.signal.reason;
      const failure = upstreamError(error, upstream.url);
      health?.suspect(describeError(failure));
      throw failure;
    }
  };
}

function toResponse(incoming: IncomingMessage): Response {
  const headers = new Headers();
  for (let index = 0; index + 1 < incoming.rawHeaders.length; index += 2) {
    headers.append(incoming.rawHeaders[index] as string, incoming.rawHeaders[index + 1] as string);
  }
  const status = incoming.statusCode ?? 502;
  if (BODILESS.has(status)) {
    incoming.resume();
    return new Response(null, { status, headers });
  }
  const body = Readable.toWeb(
    incoming,
  ) as NodeReadableStream<Uint8Array> as ReadableStream<Uint8Array>;
  return new Response(body, { status, headers });
}
