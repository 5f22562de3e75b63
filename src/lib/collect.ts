/** A small body, read whole. */

import type { Readable } from 'node:stream';
import { Pieces } from './pieces.ts';

export interface Collected {
  readonly body: Buffer;
  /** False where it was cut off, or went on beyond the limit: then its beginning is all there is. */
  readonly isWhole: boolean;
}

/** Small answers have a few bytes; of an error page nobody needs more. */
export const MAX_COLLECTED_BYTES: number = 64 * 1024;

/** Reads so much at most, then destroys the stream. Never rejects: what came of it counts in any case. */
export function collect(
  stream: Readable,
  maxBytes: number = MAX_COLLECTED_BYTES,
): Promise<Collected> {
  return new Promise((resolve) => {
    const pieces = new Pieces();
    const settle = (isWhole: boolean): void => resolve({ body: pieces.take(), isWhole });
    stream.on('data', (chunk: Buffer) => {
      if (pieces.length + chunk.length <= maxBytes) return pieces.add(chunk);
      // Told first: a stream that has come to its end may still say so.
      settle(false);
      stream.destroy();
    });
    stream.once('end', () => settle(true));
    stream.once('close', () => settle(false));
    if (stream.destroyed) settle(false);
  });
}
