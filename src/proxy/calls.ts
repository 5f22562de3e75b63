/**
 * The calls that go on to GitLab: everything is decided here before a byte of them does. They pass by
 * Hono, which serves what is answered here.
 */

import { STATUS_CODES } from 'node:http';
import { HEADERS, isJobOver, JOB_STATUS, type JobStatus, parseRangeEnd } from '../gitlab/index.ts';
import { type Lease, type PendingFinal, sameToken } from '../leases/index.ts';
import { readKey } from '../lib/read-key.ts';
import { refusalBody } from './answers.ts';
import { readBody } from './body.ts';
import type { GuestCall, GuestRequest } from './guest-call.ts';
import { headersUp, takesBody } from './headers.ts';
import { parseStrictObject } from './json.ts';
import type { Limits } from './limits.ts';
import { type Answered, type CheckedCall, passOn } from './passage.ts';
import { readQuery } from './query.ts';
import { type Route, type RouteName, upstreamPath } from './routes.ts';
import type { ProxyServices } from './services.ts';
import { jobTokenOf, type TokenPlaces } from './tokens.ts';

type Services = ProxyServices & { readonly limits: Limits };

/** A call whose path is that of a route of a job; nothing else of it is checked. */
export interface JobCall extends GuestCall {
  readonly route: Route;
  readonly vmToken: string;
  readonly jobId: number;
}

/** The status of a call that goes no further; null where it was passed on and has been answered. */
type Refused = 400 | 403 | 413 | 500 | null;

/** Resolves when the guest has its answer, or has gone. */
export async function answerCall(call: JobCall, services: Services): Promise<void> {
  const { outgoing } = call;
  let refused: Refused;
  try {
    refused = await check(call, services);
  } catch (error) {
    // A guest that goes away in the middle of its call is no fault, and hears no answer. (A request that was read
    // to its end counts as destroyed: that would say nothing.)
    if (outgoing.destroyed) return;
    services.log.error('a guest call failed inside the proxy', { error });
    refused = 500;
  }
  if (refused === null) return;
  if (outgoing.headersSent) {
    outgoing.destroy();
    return;
  }
  const body = refusalBody(refused);
  outgoing.writeHead(refused, STATUS_CODES[refused] ?? '', {
    'Content-Type': 'application/json',
    'Content-Length': body.length,
  });
  outgoing.end(body);
}

function check(call: JobCall, services: Services): Promise<Refused> {
  switch (call.route.handling) {
    case 'update':
      return updateJob(call, services);
    case 'trace':
      return streamOwn(call, services, noteLogBytes);
    case 'download':
      return call.route.check === 'own-job'
        ? streamOwn(call, services)
        : downloadArtifacts(call, services);
    default:
      return streamOwn(call, services);
  }
}

/** `PUT jobs/:id`: the body names the token and the state, so it is read; GitLab gets its very bytes. */
async function updateJob(call: JobCall, services: Services): Promise<Refused> {
  const lease = findLease(call, services);
  if (lease === undefined) return 403;
  const { limits, clock } = services;
  const body = await readBody(call.incoming, limits.jsonBytes, clock, limits.jsonMs);
  if (body === 'too-large') return 413;
  const json = parseStrictObject(body);
  if (json === undefined) return 400;
  if (!maySpeak(call, lease, json['token'])) return 403;
  if (!(await lease.speak())) return 403;
  const { state, failure_reason: reason } = json;
  if (state !== 'success' && state !== 'failed') return pass(call, services, lease, { body });
  const final: PendingFinal = { body, outcome: state };
  const bytes = readKey(json['output'], 'bytesize');
  const count = (): void => {
    if (state === 'failed') services.failed(lease.runner, typeof reason === 'string' ? reason : '');
  };
  // Whatever becomes of its machine and of us: this is the job's own last word, and it is kept.
  await lease.finalPending(final);
  return pass(call, services, lease, {
    body,
    final: {
      state,
      async takeOver() {
        const isHeld = lease.hasLog(bytes) && (await lease.finalHeld(final));
        if (isHeld) count();
        return isHeld;
      },
    },
    async onAnswer({ statusCode, headers }) {
      if (statusCode !== 200) return;
      // A cancel that was under way makes GitLab end the job as canceled, whatever its runner says.
      const canceling = /^cancel/.test(headers[HEADERS.jobStatus]?.toString() ?? '');
      await lease.finalTaken(canceling ? 'canceled' : state);
      count();
    },
  });
}

/** Of the log of the lease's own job. */
async function noteLogBytes(lease: Lease, { headers }: Answered): Promise<void> {
  const size = parseRangeEnd(headers[HEADERS.range]?.toString());
  if (size !== undefined) lease.noteLogBytes(size);
}

/** A route for the lease's own job, whose body is streamed. */
async function streamOwn(
  call: JobCall,
  services: Services,
  note?: (lease: Lease, answer: Answered) => Promise<void>,
): Promise<Refused> {
  const lease = findLease(call, services);
  if (lease === undefined || !maySpeak(call, lease)) return 403;
  if (!(await lease.speak())) return 403;
  return pass(call, services, lease, note && { onAnswer: (answer) => note(lease, answer) });
}

/** Artifacts of this job, or of one that it depends on with the very token that GitLab gave for that. */
async function downloadArtifacts(call: JobCall, services: Services): Promise<Refused> {
  const lease = services.leases.byVmToken(call.vmToken);
  if (lease === undefined) return 403;
  const places = placesOf(call);
  const token = places && jobTokenOf(places, lease.vmToken);
  const { facts } = lease;
  const allowed =
    token !== undefined &&
    [facts, ...facts.dependencies].some(
      (job) => job.id === call.jobId && sameToken(job.token, token),
    );
  if (!allowed || !(await lease.speak())) return 403;
  return pass(call, services, lease, undefined, token);
}

/** Passes a checked call on. */
async function pass(
  call: JobCall,
  services: Services,
  lease: Lease,
  options: Partial<Pick<CheckedCall, 'body' | 'final' | 'onAnswer'>> = {},
  token: string = lease.facts.token,
): Promise<Refused> {
  const { route, incoming, outgoing } = call;
  // The machine may have ended since the checks: then nothing would close this connection any more.
  if (!lease.isOpen) return 403;
  const checked: CheckedCall = {
    lease,
    route,
    incoming,
    outgoing,
    path:
      upstreamPath(route, call.jobId) + (readQuery(route.name, searchOf(incoming))?.search ?? ''),
    headers: headersUp(route.name, incoming.headers, token),
    ...options,
    async onAnswer(answer) {
      const jobStatus = readJobStatus(answer.headers[HEADERS.jobStatus]);
      lease.noteStatus(jobStatus);
      await options.onAnswer?.(answer);
      if (isJobOver(jobStatus)) await lease.over(jobStatus);
    },
  };
  await passOn(checked, services);
  return null;
}

/** The token's lease, where the path names its own job. */
function findLease(call: JobCall, services: Services): Lease | undefined {
  const lease = services.leases.byVmToken(call.vmToken);
  return lease?.facts.id === call.jobId ? lease : undefined;
}

function maySpeak(call: JobCall, lease: Lease, bodyToken?: unknown): boolean {
  const places = placesOf(call, bodyToken);
  const token = places && jobTokenOf(places, lease.vmToken);
  return token !== undefined && sameToken(token, lease.facts.token);
}

function placesOf({ route, incoming }: JobCall, bodyToken?: unknown): TokenPlaces | undefined {
  return tokenPlaces(route.name, incoming, bodyToken);
}

/** Undefined where query or body are such as no runner sends there. */
export function tokenPlaces(
  route: RouteName,
  incoming: GuestRequest,
  bodyToken?: unknown,
): TokenPlaces | undefined {
  const { headers } = incoming;
  const query = readQuery(route, searchOf(incoming));
  if (query === undefined || !takesBody(route, headers)) return undefined;
  return { headers, queryToken: query.token, bodyToken };
}

/** As it came. */
function searchOf({ url = '' }: GuestRequest): string {
  const at = url.indexOf('?');
  return at === -1 ? '' : url.slice(at);
}

function readJobStatus(value: string | string[] | undefined): JobStatus | undefined {
  return JOB_STATUS.find((status) => status === value);
}
