/** Reading a small request body whole. */

import type { IncomingMessage } from 'node:http';

/** The bytes, or `too-large` where there are more than `limit`; the rest is then left unread. */
export async function readBody(
  incoming: Pick<IncomingMessage, 'headers'> & AsyncIterable<Buffer>,
  limit: number,
): Promise<Buffer | 'too-large'> {
  if (Number(incoming.headers['content-length'] ?? 0) > limit) return 'too-large';
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of incoming) {
    size += chunk.length;
    if (size > limit) return 'too-large';
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
