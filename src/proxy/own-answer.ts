/** Answers of our own to calls that were to go on to GitLab, in GitLab's words. */

import { STATUS_CODES } from 'node:http';
import type { Clock } from '../lib/clock.ts';
import { endEarly } from './early.ts';
import { type GuestCall, streamsOf } from './guest-call.ts';
import { MAX_REPEATED_BYTES } from './held.ts';

export interface OwnAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** As for an update that it took. */
export function plain(status: number, headers: Readonly<Record<string, string>> = {}): OwnAnswer {
  return inJson(status, String(status), headers);
}

export function withMessage(
  status: number,
  message: string,
  headers: Readonly<Record<string, string>>,
): OwnAnswer {
  return inJson(status, JSON.stringify({ message }), headers);
}

function inJson(status: number, body: string, headers: OwnAnswer['headers']): OwnAnswer {
  return { status, headers: { 'Content-Type': 'application/json', ...headers }, body };
}

/** Whatever the guest still sends, nobody reads it any more. */
export function giveAnswer(
  call: GuestCall,
  { status, headers, body }: OwnAnswer,
  clock: Clock,
): void {
  const { incoming, outgoing } = call;
  // Node reads the rest of a small body by itself; a large one is not worth it.
  const isSmall = Number(incoming.headers['content-length'] ?? Number.NaN) <= MAX_REPEATED_BYTES;
  const hasRest = !incoming.complete && !isSmall && incoming.method !== 'GET';
  outgoing.writeHead(status, STATUS_CODES[status] ?? '', {
    ...headers,
    'Content-Length': body.length,
    ...(hasRest ? { Connection: 'close' } : {}),
  });
  if (hasRest) endEarly(streamsOf(call), body, clock);
  else outgoing.end(body);
}
