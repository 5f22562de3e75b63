/** Ending an answer while the guest still sends its body. */

import type { Clock } from '../lib/clock.ts';
import type { NodeCall } from './guest-call.ts';

/** A guest has so long to read an answer that came before the end of its body. */
const DISCARD_MS = 500;

/** So much of a body that nobody wants any more is read, so that a short rest keeps no guest from its answer. */
const MAX_DISCARDED_BYTES = 1024 * 1024;

/**
 * Node closes the connection with the end of such an answer, and the guest, which still sends, would
 * lose it: so that end waits until it has had time to read. A little of what it still sends is thrown
 * away; the rest is not read. The head, with `Connection: close`, has been written.
 */
export function endEarly(
  { incoming, outgoing }: NodeCall,
  body: Buffer | string,
  clock: Clock,
): void {
  outgoing.flushHeaders();
  if (body.length > 0) outgoing.write(body);
  const end = (): void => void outgoing.end();
  const limit = clock.after(DISCARD_MS, end);
  incoming.once('end', end);
  outgoing.once('close', () => limit.cancel());
  let discarded = 0;
  incoming.on('data', (chunk: Buffer) => {
    discarded += chunk.length;
    if (discarded > MAX_DISCARDED_BYTES) incoming.pause();
  });
  incoming.resume();
}
