/** Lines in the log of the calls of one machine: each call has its own, but for a flood of them. */

import type { Lease } from '../leases/index.ts';
import { Rate } from './rate.ts';
import type { Route } from './routes.ts';
import type { ProxyServices } from './services.ts';

/** A runner makes a call each 3 s. More lines than that for days would fill a disk, or cost others theirs. */
const LINES_PER_SECOND = 1;

/** So many at once before that rate holds: a job that downloads what hundreds of others made has a line for each. */
const BURST = 500;

interface Lines {
  readonly rate: Rate;
  leftOut: number;
}

const lines = new WeakMap<Lease, Lines>();

/** The line after some that were left out says how many. */
export function logCall(
  { route, lease }: { readonly route: Route; readonly lease: Lease },
  { log, monotonic }: Pick<ProxyServices, 'log' | 'monotonic'>,
  level: 'info' | 'warn',
  what: string,
  fields: object,
): void {
  const now = monotonic();
  let known = lines.get(lease);
  if (known === undefined) {
    known = { rate: new Rate(LINES_PER_SECOND, BURST, now), leftOut: 0 };
    lines.set(lease, known);
  }
  const { rate, leftOut } = known;
  const isLogged = rate.take(now);
  known.leftOut = isLogged ? 0 : leftOut + 1;
  if (!isLogged) return;
  const message = `${route.name} of job ${lease.facts.id}${what}`;
  log[level](message, leftOut === 0 ? { ...fields } : { ...fields, leftOut });
}
