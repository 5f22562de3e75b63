/** Reading a small request body whole. */

import type { IncomingMessage } from 'node:http';

export interface BodyLimits {
  readonly jsonBytes: number;
  readonly jsonMs: number;
}

/**
 * The bytes, or `too-large` where there are more, told at once, the rest left unread. Rejects where the
 * guest goes away; its connection is closed where they do not come in time.
 */
export async function readBody(
  incoming: IncomingMessage,
  limits: BodyLimits,
): Promise<Buffer | 'too-large'> {
  if (Number(incoming.headers['content-length'] ?? 0) > limits.jsonBytes) return 'too-large';
  const limit = setTimeout(() => incoming.destroy(), limits.jsonMs);
  try {
    const chunks: Buffer[] = [];
    let size = 0;
    // Left alone, the loop's end would take the connection with it, and the answer.
    for await (const chunk of incoming.iterator({ destroyOnReturn: false })) {
      size += chunk.length;
      if (size > limits.jsonBytes) return 'too-large';
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  } finally {
    clearTimeout(limit);
  }
}
