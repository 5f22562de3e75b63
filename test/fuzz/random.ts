/** Chance that a seed decides: the same seed and case, the same choices. */

import { createRandom, type Random } from '../support/random.ts';

export class Chance {
  /** In [0, 1). */
  readonly next: Random;

  constructor(seed: number, case_: number) {
    this.next = createRandom(Math.imul(seed, 0x9e3779b1) ^ Math.imul(case_ + 1, 0x85ebca6b));
  }

  /** In [0, limit). */
  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  is(share: number): boolean {
    return this.next() < share;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.below(256)));
  }
}
