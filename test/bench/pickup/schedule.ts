/** When jobs are queued: at random times, and in bursts between them. The same for everyone who is to run them. */

import { createRandom } from '../../support/random.ts';

export interface Schedule {
  readonly single: number;
  readonly bursts: number;
  readonly burstOf: number;
  readonly forMs: number;
}

const SEED = 9;

/** Milliseconds from the beginning, in order. */
export function timesOf({ single, bursts, burstOf, forMs }: Schedule): number[] {
  const random = createRandom(SEED);
  const times = Array.from({ length: single }, () => random() * forMs);
  for (let burst = 0; burst < bursts; burst += 1) {
    const at = ((burst + random()) / bursts) * forMs;
    for (let job = 0; job < burstOf; job += 1) times.push(at);
  }
  return times.toSorted((a, b) => a - b);
}
