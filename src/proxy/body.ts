/** Reading a small request body whole. */

import type { IncomingMessage } from 'node:http';

/** A body this small is sent at once: that is time for a starved guest. */
const WHOLE_WITHIN_MS = 60_000;

/**
 * The bytes, or `too-large` where there are more, told at once, the rest left unread. Rejects where the
 * guest goes away; its connection is closed where they do not come in time.
 */
export async function readBody(
  incoming: IncomingMessage,
  limit: number,
  withinMs: number = WHOLE_WITHIN_MS,
): Promise<Buffer | 'too-large'> {
  if (Number(incoming.headers['content-length'] ?? 0) > limit) return 'too-large';
  const waiting = setTimeout(() => incoming.destroy(), withinMs);
  try {
    const chunks: Buffer[] = [];
    let size = 0;
    // Left alone, the loop's end would take the connection with it, and the answer.
    for await (const chunk of incoming.iterator({ destroyOnReturn: false })) {
      size += chunk.length;
      if (size > limit) return 'too-large';
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  } finally {
    clearTimeout(waiting);
  }
}
