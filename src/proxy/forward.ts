/** Passing one call on to GitLab: Node streams piped both ways, nothing buffered. */

import { once } from 'node:events';
import type {
  ClientRequest,
  IncomingMessage,
  OutgoingHttpHeaders,
  ServerResponse,
} from 'node:http';
import { pipeline } from 'node:stream/promises';
import type { Upstream } from '../upstream/index.ts';
import { headersDown } from './headers.ts';
import type { RouteName } from './routes.ts';

export interface Forward {
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
  readonly upstream: Upstream;
  readonly route: RouteName;
  readonly method: string;
  /** Path and query below GitLab's address, made of checked parts. */
  readonly path: string;
  readonly headers: OutgoingHttpHeaders;
  /** The body where it has been read already; else the guest's is streamed. */
  readonly body?: Buffer;
  readonly answerTimeoutMs: number;
  /** GitLab's answer, before the guest gets any of it. */
  onAnswer?(answer: IncomingMessage): Promise<void>;
}

export type Forwarded =
  | {
      readonly kind: 'answered';
      readonly status: number;
      readonly bytesUp: number;
      readonly bytesDown: number;
      readonly requestId: string | undefined;
    }
  /** The guest went away; what was under way to GitLab was cut off too. */
  | { readonly kind: 'guest-gone' }
  /** GitLab could not be reached, or broke off. `headersSent`: the guest's connection was cut. */
  | { readonly kind: 'failed'; readonly error: unknown; readonly headersSent: boolean };

/** Never rejects. An early answer is passed on while the guest still sends. */
export async function forward(call: Forward): Promise<Forwarded> {
  const { incoming, outgoing } = call;
  const request = call.upstream.request({
    method: call.method,
    path: call.path,
    headers: call.headers,
    answerTimeoutMs: call.answerTimeoutMs,
  });
  let guestGone = false;
  const onGuestClose = (): void => {
    if (outgoing.writableFinished) return;
    guestGone = true;
    request.destroy();
  };
  outgoing.once('close', onGuestClose);
  try {
    const answered = once(request, 'response') as Promise<[IncomingMessage]>;
    const count = send(call, request);
    const [answer] = await answered;
    // Sending may still fail after an early answer; what counts then is the answer.
    request.on('error', () => undefined);
    await call.onAnswer?.(answer);
    const early = call.body === undefined && !incoming.complete;
    outgoing.writeHead(answer.statusCode ?? 502, {
      ...headersDown(call.route, answer.headers),
      ...(early ? { connection: 'close' } : {}),
    });
    answer.on('data', (chunk: Buffer) => {
      count.down += chunk.length;
    });
    await pipeline(answer, outgoing);
    if (early) discardRest(incoming, request);
    return {
      kind: 'answered',
      status: answer.statusCode ?? 502,
      bytesUp: count.up,
      bytesDown: count.down,
      requestId: answer.headers['x-request-id'] as string | undefined,
    };
  } catch (error) {
    request.on('error', () => undefined).destroy();
    if (guestGone) return { kind: 'guest-gone' };
    const { headersSent } = outgoing;
    // A cut connection is the only honest end of a body that GitLab did not finish.
    if (headersSent) outgoing.destroy();
    return { kind: 'failed', error, headersSent };
  } finally {
    outgoing.off('close', onGuestClose);
  }
}

/** Not a `pipeline`: it would close the guest's side with GitLab's, and its answer must still go out there. */
function send(call: Forward, request: ClientRequest): { up: number; down: number } {
  const count = { up: 0, down: 0 };
  if (call.body !== undefined) {
    count.up = call.body.length;
    request.end(call.body);
    return count;
  }
  call.incoming.on('data', (chunk: Buffer) => {
    count.up += chunk.length;
  });
  call.incoming.pipe(request);
  return count;
}

/** How much longer a guest may go on sending what nobody wants any more. */
const DISCARD_MS = 500;

/**
 * GitLab answered before the body's end. Closing at once could cost the guest that answer, so what
 * it still sends is thrown away for a moment; then the connection goes.
 */
function discardRest(incoming: IncomingMessage, request: ClientRequest): void {
  incoming.unpipe(request);
  request.destroy();
  if (incoming.complete) return;
  incoming.resume();
  const limit = setTimeout(() => incoming.destroy(), DISCARD_MS);
  incoming.once('close', () => clearTimeout(limit));
}
