/** Randomness as an injected dependency. */

import { randomBytes } from 'node:crypto';

/** A source of randomness; the defaults are the process's own. */
export interface Randomness {
  /** Evenly distributed in [0, 1): for jitter, never for secrets. */
  random(): number;
  /** Bytes that nobody can guess. */
  randomBytes(count: number): Uint8Array;
}

/** The process's real randomness. */
export const systemRandomness: Randomness = {
  random: () => Math.random(),
  randomBytes: (count) => randomBytes(count),
};

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789';

/** A name part of lower-case letters and digits; `length` × 5.17 bits. */
export function randomName(source: Randomness, length: number): string {
  let name = '';
  // Bytes from 252 on would favour the first letters of the alphabet.
  while (name.length < length) {
    for (const byte of source.randomBytes(length * 2)) {
      if (byte < 252 && name.length < length) name += ALPHABET[byte % ALPHABET.length];
    }
  }
  return name;
}
