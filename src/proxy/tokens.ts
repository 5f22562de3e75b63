/** Finding the job token wherever a runner of any version puts it. */

import type { IncomingHttpHeaders } from 'node:http';
import { HEADERS } from '../gitlab/index.ts';
import { sameToken } from '../leases/index.ts';

/** What a call carries besides its path. */
export interface TokenPlaces {
  readonly headers: IncomingHttpHeaders;
  readonly query: URLSearchParams;
  /** The JSON body's `token`, where the route has one. */
  readonly bodyToken?: unknown;
}

/** Query names that GitLab would read a token from. */
const QUERY_TOKENS = ['token', 'job_token', 'private_token', 'access_token', 'token[]'] as const;

/**
 * The one job token of a call, or undefined where there is none or where two disagree: GitLab might
 * then believe the one that we did not check. `RUNNER-TOKEN` may also hold the machine's own token.
 */
export function jobTokenOf(places: TokenPlaces, vmToken: string): string | undefined {
  const found: string[] = [];
  for (const name of [
    HEADERS.jobToken,
    HEADERS.privateToken,
    HEADERS.runnerToken,
    'authorization',
  ]) {
    const value = places.headers[name];
    if (value === undefined) continue;
    if (typeof value !== 'string') return undefined;
    if (name === HEADERS.runnerToken && sameToken(value, vmToken)) continue;
    found.push(value);
  }
  for (const name of QUERY_TOKENS) found.push(...places.query.getAll(name));
  if (places.bodyToken !== undefined) {
    if (typeof places.bodyToken !== 'string') return undefined;
    found.push(places.bodyToken);
  }
  const [first, ...others] = found;
  if (first === undefined || !others.every((token) => sameToken(token, first))) return undefined;
  return first;
}
