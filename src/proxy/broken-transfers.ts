/**
 * Uploads and downloads that broke off in the middle: only their runner can repeat one, and it has few tries.
 * So it is told late, or let through late, each time later than before.
 */

import type { Timings } from '../config/index.ts';
import type { Lease } from '../leases/index.ts';

/** The time between two tries grows by it. */
const DELAY_FACTOR = 4;

/** Of each lease, since its last whole one. */
const broken = new WeakMap<Lease, number>();

export function hasBrokenTransfer(lease: Lease): boolean {
  return broken.has(lease);
}

export function noteBrokenTransfer(lease: Lease): void {
  broken.set(lease, (broken.get(lease) ?? 0) + 1);
}

export function noteWholeTransfer(lease: Lease): void {
  broken.delete(lease);
}

/** `isAgain`: before the runner's repeated one; else after one that has just broken off. */
export function transferDelayMs(lease: Lease, isAgain: boolean, timings: Timings): number {
  // A download has three tries in all, an upload six.
  const before = (broken.get(lease) ?? 1) + (isAgain ? 1 : 0);
  const delayMs = timings.repeatMs * DELAY_FACTOR ** Math.min(before - 1, 20);
  return Math.min(delayMs, timings.holdLimitMs);
}
