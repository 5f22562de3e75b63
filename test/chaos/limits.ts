/** How long a run and what it waits for may take: on a busy machine, and for virtual ones without KVM. */

import type { Guests } from './host-config.ts';

export const LIMITS = {
  process: { reachMs: 20_000, drainMs: 90_000, setUpMs: 180_000, roundMs: 30_000 },
  qemu: { reachMs: 120_000, drainMs: 400_000, setUpMs: 600_000, roundMs: 120_000 },
};

/** Several times what a run takes on a busy machine. */
export function limitOf(driver: Guests['driver'], rounds: number): number {
  const { setUpMs, roundMs, drainMs } = LIMITS[driver];
  return setUpMs + rounds * roundMs + drainMs;
}

/** Whatever hangs, hangs on; the run does not. */
export function rejectedOnAbort(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  });
}
