/** A token that is about to expire is told a week ahead. */

import type { Logger } from '../contract/index.ts';

/** From when on an operator is to be told. */
export const EXPIRY_WARNING_MS: number = 7 * 24 * 3600 * 1000;

/** Null: it never does. */
export function warnOfExpiry(
  runner: string,
  expiresAt: Date | null,
  now: number,
  log: Logger,
): void {
  if (expiresAt === null || expiresAt.getTime() - now > EXPIRY_WARNING_MS) return;
  log.warn(
    `the token of runner ${runner} expires at ${expiresAt.toISOString()}: make a new one in GitLab and put it into its token file, which is read again when it changes`,
    { runner },
  );
}
