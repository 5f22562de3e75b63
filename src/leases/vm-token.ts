/** The token that opens the proxy for one machine: made here, found here. */

import { hash, timingSafeEqual } from 'node:crypto';
import type { Randomness } from '../lib/random.ts';

/** The runner derives cache paths and names from this many characters after the prefix. */
const SHORT_TOKEN_LENGTH = 9;

/** 192 bits: beyond guessing. */
const RANDOM_BYTES = 24;

/**
 * `glrt-`, the real runner's short token (public: it stands in paths and job logs), then random.
 * The short token keeps cache paths the same from machine to machine.
 */
export function createVmToken(runnerToken: string, source: Randomness): string {
  const random = Buffer.from(source.randomBytes(RANDOM_BYTES)).toString('base64url');
  return `${beginningFor(runnerToken)}${random}`;
}

/** Whether that VM token was made for this runner token, as far as people can see. */
export function isVmTokenOf(vmToken: string, runnerToken: string): boolean {
  return vmToken.startsWith(beginningFor(runnerToken));
}

function beginningFor(runnerToken: string): string {
  return `glrt-${shortToken(runnerToken)}`;
}

/** The first nine characters after a token's prefix, as the official runner shortens tokens. */
export function shortToken(token: string): string {
  const body = token.replace(/^(?:[A-Za-z0-9_-]*?glrtr?-)?(?:t\d_)?/, '');
  // What goes into a URL path must not need escaping there.
  return body
    .slice(0, SHORT_TOKEN_LENGTH)
    .replace(/[^A-Za-z0-9_-]/g, '-')
    .padEnd(SHORT_TOKEN_LENGTH, '-');
}

/** Compares by digest in constant time, whatever the lengths. */
export function sameToken(one: string, other: string): boolean {
  return timingSafeEqual(digest(one), digest(other));
}

/** What tokens are looked up by: its timing tells nothing about the token. */
export function tokenKey(token: string): string {
  return hash('sha256', token, 'hex');
}

function digest(token: string): Buffer {
  return hash('sha256', token, 'buffer');
}
