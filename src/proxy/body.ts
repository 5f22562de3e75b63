/** Reading a small request body whole. */

import type { Clock } from '../lib/clock.ts';
import { Pieces } from '../lib/pieces.ts';
import { type GuestRequest, isWhole } from './guest-call.ts';

/** A body this small is sent at once: that is time for a starved guest. */
const WHOLE_WITHIN_MS = 60_000;

/**
 * The bytes, or `too-large` where there are more, told at once, the rest left unread. Rejects where the
 * guest goes away; its connection is closed where they do not come in time.
 */
export function readBody(
  incoming: GuestRequest,
  limit: number,
  clock: Clock,
  withinMs: number = WHOLE_WITHIN_MS,
): Promise<Buffer | 'too-large'> {
  if (Number(incoming.headers['content-length'] ?? 0) > limit) return Promise.resolve('too-large');
  if (isWhole(incoming)) return Promise.resolve(incoming.body);
  return new Promise((resolve, reject) => {
    const pieces = new Pieces();
    const onData = (chunk: Buffer): void => {
      pieces.add(chunk);
      if (pieces.length <= limit) return;
      settle();
      incoming.pause();
      resolve('too-large');
    };
    const onEnd = (): void => {
      settle();
      resolve(pieces.take());
    };
    const onClose = (): void => {
      settle();
      reject(new Error('the guest has gone'));
    };
    const waiting = clock.after(withinMs, () => incoming.destroy());
    const settle = (): void => {
      waiting.cancel();
      incoming.off('data', onData);
      incoming.off('end', onEnd);
      incoming.off('close', onClose);
    };
    incoming.on('data', onData);
    incoming.on('end', onEnd);
    incoming.on('close', onClose);
    if (incoming.destroyed) onClose();
  });
}
