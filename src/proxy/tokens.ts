/** Finding the token of a call wherever a runner of any version puts it. */

import type { IncomingHttpHeaders } from 'node:http';
import { HEADERS } from '../gitlab/index.ts';
import { sameToken } from '../leases/index.ts';

/** What a call carries besides its path. No header stands twice: `readHead` has seen to that. */
export interface TokenPlaces {
  readonly headers: IncomingHttpHeaders;
  /** The query's `token`. */
  readonly queryToken: string | undefined;
  /** The JSON body's `token`, where the route has one. */
  readonly bodyToken?: unknown;
}

/** No runner sends the last; GitLab would read a token from it. */
const TOKEN_HEADERS = [
  HEADERS.jobToken,
  HEADERS.privateToken,
  HEADERS.runnerToken,
  'authorization',
] as const;

/**
 * The one job token of a call, or undefined where there is none or where two disagree: GitLab might
 * then believe the one that we did not check. `RUNNER-TOKEN` may also hold the machine's own token.
 */
export function jobTokenOf(places: TokenPlaces, vmToken: string): string | undefined {
  const runnerToken = places.headers[HEADERS.runnerToken];
  const isMachines = typeof runnerToken === 'string' && sameToken(runnerToken, vmToken);
  const found = tokensOf(places, isMachines ? HEADERS.runnerToken : undefined);
  const [first, ...others] = found ?? [];
  if (first === undefined) return undefined;
  return others.every((token) => sameToken(token, first)) ? first : undefined;
}

/** Whether every token of a call that asks for a job is the machine's own; the path has one already. */
export function namesOnly(vmToken: string, places: TokenPlaces): boolean {
  return tokensOf(places)?.every((token) => sameToken(token, vmToken)) ?? false;
}

/** All of them; undefined where one is not even a string. */
function tokensOf(places: TokenPlaces, without?: string): string[] | undefined {
  const found: unknown[] = TOKEN_HEADERS.filter((name) => name !== without).map(
    (name) => places.headers[name],
  );
  found.push(places.queryToken, places.bodyToken);
  const named = found.filter((token) => token !== undefined);
  return named.every((token) => typeof token === 'string') ? named : undefined;
}
