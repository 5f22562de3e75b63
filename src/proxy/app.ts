/** What each route does: everything is decided here before a byte goes to GitLab. */

import type { HttpBindings } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { type Context, Hono } from 'hono';
import { HEADERS, isJobOver, JOB_STATUS, type JobStatus, parseRangeEnd } from '../gitlab/index.ts';
import { type Lease, type PendingFinal, sameToken } from '../leases/index.ts';
import { answers } from './answers.ts';
import { readBody } from './body.ts';
import { headersUp, takesBody } from './headers.ts';
import { parseStrictObject } from './json.ts';
import type { Limits } from './limits.ts';
import { type Answered, type CheckedCall, passOn } from './passage.ts';
import { readQuery } from './query.ts';
import { ROUTES, type Route, type RouteName, upstreamPath } from './routes.ts';
import type { ProxyServices } from './services.ts';
import { jobTokenOf, namesOnly, type TokenPlaces } from './tokens.ts';

type Env = { Bindings: HttpBindings };
type Call = Context<Env, string>;
type Services = ProxyServices & { readonly limits: Limits };

/** A VM token in the path: what `createVmToken` makes, and nothing that needs decoding. */
const TOKEN = ':token{[A-Za-z0-9_-]{1,128}}';

type Handler = (c: Call, services: Services, route: Route) => Promise<Response>;

const HANDLERS: Readonly<Record<RouteName, Handler>> = {
  'jobs-request': requestJob,
  'runners-verify': verify,
  update: updateJob,
  trace: appendTrace,
  'artifacts-upload': streamOwn,
  'artifacts-download': downloadArtifacts,
  'runtime-environment-key': streamOwn,
};

/** The app behind the guests' listener. */
export function createProxyApp(proxy: ProxyServices, limits: Limits): Hono<Env> {
  const services = { ...proxy, limits };
  const app = new Hono<Env>();
  for (const route of ROUTES) {
    app.on(route.method, `/${TOKEN}/api/v4${route.path}`, (c) =>
      HANDLERS[route.name](c, services, route),
    );
  }

  app.notFound((c) => {
    const token = /^\/([^/]+)/.exec(c.req.path)?.[1] ?? '';
    return services.leases.byVmToken(token) === undefined
      ? answers.forbidden()
      : answers.notFound();
  });
  app.onError((error, c) => {
    // A guest that goes away in the middle of its call is no fault, and hears no answer.
    if (c.env.incoming.destroyed) return answers.badRequest();
    services.log.error('a guest call failed inside the proxy', { error });
    return answers.serverError();
  });
  return app;
}

/** The guest's runner asks for its job. Anybody else learns that there is none, and never a 403. */
async function requestJob(c: Call, services: Services): Promise<Response> {
  const vmToken = c.req.param('token') ?? '';
  const body = await readJson(c, services);
  const lease = services.leases.byVmToken(vmToken);
  if (lease === undefined) return answers.noJob();
  if (body === 'too-large') return answers.tooLarge();
  const json = parseStrictObject(body);
  const places = placesOf(c, 'jobs-request', json?.['token']);
  if (json === undefined || places === undefined || !namesOnly(vmToken, places)) {
    return answers.noJob();
  }
  if (lease.state.name === 'booting') {
    // Only the first request is the runner's own word; a later one may be a job's doing.
    const features = services.knownFeatures(readKey(readKey(json, 'info'), 'features'));
    if (features !== undefined) services.leases.learnFeatures(lease.runner, features);
  }
  const payload = await lease.offer();
  if (payload === null) return answers.noJob();
  const headers = new Headers({ 'content-type': 'application/json' });
  if (lease.requestId !== null) headers.set(HEADERS.requestId, lease.requestId);
  return new Response(new Uint8Array(payload), { status: 201, headers });
}

/** run-single never asks this; an agent in the guest that does must not reach GitLab with it. */
async function verify(c: Call, services: Services): Promise<Response> {
  const vmToken = c.req.param('token') ?? '';
  if (services.leases.byVmToken(vmToken) === undefined) return answers.forbidden();
  const body = await readJson(c, services);
  if (body === 'too-large') return answers.tooLarge();
  const bodyToken = parseStrictObject(body)?.['token'];
  const places = placesOf(c, 'runners-verify', bodyToken);
  if (bodyToken === undefined || places === undefined || !namesOnly(vmToken, places)) {
    return answers.forbidden();
  }
  return Response.json({ id: 0, token: vmToken, token_expires_at: null });
}

/** `PUT jobs/:id`: the body names the token and the state, so it is read; GitLab gets its very bytes. */
async function updateJob(c: Call, services: Services, route: Route): Promise<Response> {
  const lease = findLease(c, services);
  if (lease === undefined) return answers.forbidden();
  const body = await readJson(c, services);
  if (body === 'too-large') return answers.tooLarge();
  const json = parseStrictObject(body);
  if (json === undefined) return answers.badRequest();
  if (!maySpeak(c, lease, route.name, json['token'])) return answers.forbidden();
  if (!(await lease.speak())) return answers.forbidden();
  const { state } = json;
  if (state !== 'success' && state !== 'failed') return pass(c, services, lease, route, { body });
  const final: PendingFinal = { body, outcome: state };
  const bytes = readKey(json['output'], 'bytesize');
  // Whatever becomes of its machine and of us: this is the job's own last word, and it is kept.
  await lease.finalPending(final);
  return pass(c, services, lease, route, {
    body,
    final: { state, takeOver: async () => lease.hasLog(bytes) && (await lease.finalHeld(final)) },
    async onAnswer({ statusCode, headers }) {
      if (statusCode !== 200) return;
      // A cancel that was under way makes GitLab end the job as canceled, whatever its runner says.
      const canceling = /^cancel/.test(headers[HEADERS.jobStatus]?.toString() ?? '');
      await lease.finalTaken(canceling ? 'canceled' : state);
    },
  });
}

/** Appends to the log of the lease's own job. */
async function appendTrace(c: Call, services: Services, route: Route): Promise<Response> {
  return streamOwn(c, services, route, async (lease, { headers }) => {
    const size = parseRangeEnd(headers[HEADERS.range]?.toString());
    if (size !== undefined) lease.noteLogBytes(size);
  });
}

/** A route for the lease's own job, whose body is streamed. */
async function streamOwn(
  c: Call,
  services: Services,
  route: Route,
  note?: (lease: Lease, answer: Answered) => Promise<void>,
): Promise<Response> {
  const lease = findLease(c, services);
  if (lease === undefined || !maySpeak(c, lease, route.name)) return answers.forbidden();
  if (!(await lease.speak())) return answers.forbidden();
  return pass(c, services, lease, route, note && { onAnswer: (answer) => note(lease, answer) });
}

/** Artifacts of this job, or of one that it depends on with the very token that GitLab gave for that. */
async function downloadArtifacts(c: Call, services: Services, route: Route): Promise<Response> {
  const lease = leaseOf(c, services);
  if (lease === undefined) return answers.forbidden();
  const id = jobIdOf(c);
  const places = placesOf(c, route.name);
  const token = places && jobTokenOf(places, lease.vmToken);
  const { facts } = lease;
  const allowed =
    token !== undefined &&
    [facts, ...facts.dependencies].some((job) => job.id === id && sameToken(job.token, token));
  if (!allowed || !(await lease.speak())) return answers.forbidden();
  return pass(c, services, lease, route, undefined, token);
}

/** Passes a checked call on. */
async function pass(
  c: Call,
  services: Services,
  lease: Lease,
  route: Route,
  options: Partial<Pick<CheckedCall, 'body' | 'final' | 'onAnswer'>> = {},
  token: string = lease.facts.token,
): Promise<Response> {
  const { incoming, outgoing } = c.env as {
    incoming: CheckedCall['incoming'];
    outgoing: CheckedCall['outgoing'];
  };
  // The machine may have ended since the checks: then nothing would close this connection any more.
  if (!lease.isOpen) return answers.forbidden();
  const call: CheckedCall = {
    lease,
    route,
    incoming,
    outgoing,
    path: upstreamPath(route, jobIdOf(c)) + (readQuery(route.name, searchOf(c))?.search ?? ''),
    headers: headersUp(route.name, incoming.headers, token),
    ...options,
    async onAnswer(answer) {
      const jobStatus = readJobStatus(answer.headers[HEADERS.jobStatus]);
      lease.noteStatus(jobStatus);
      await options.onAnswer?.(answer);
      if (isJobOver(jobStatus)) await lease.over(jobStatus);
    },
  };
  await passOn(call, services);
  return RESPONSE_ALREADY_SENT;
}

function leaseOf(c: Call, services: Services): Lease | undefined {
  return services.leases.byVmToken(c.req.param('token') ?? '');
}

function readJson(c: Call, { limits }: Services): Promise<Buffer | 'too-large'> {
  return readBody(c.env.incoming, limits.jsonBytes, limits.jsonMs);
}

/** The token's lease, where the path names its own job. */
function findLease(c: Call, services: Services): Lease | undefined {
  const lease = leaseOf(c, services);
  return lease?.facts.id === jobIdOf(c) ? lease : undefined;
}

function maySpeak(c: Call, lease: Lease, route: RouteName, bodyToken?: unknown): boolean {
  const places = placesOf(c, route, bodyToken);
  const token = places && jobTokenOf(places, lease.vmToken);
  return token !== undefined && sameToken(token, lease.facts.token);
}

/** Undefined where query or body are such as no runner sends there. */
function placesOf(c: Call, route: RouteName, bodyToken?: unknown): TokenPlaces | undefined {
  const { headers } = c.env.incoming;
  const query = readQuery(route, searchOf(c));
  if (query === undefined || !takesBody(route, headers)) return undefined;
  return { headers, queryToken: query.token, bodyToken };
}

/** As it came. */
function searchOf(c: Call): string {
  const url = c.env.incoming.url ?? '';
  const at = url.indexOf('?');
  return at === -1 ? '' : url.slice(at);
}

function jobIdOf(c: Call): number {
  return Number(c.req.param('id'));
}

function readJobStatus(value: string | string[] | undefined): JobStatus | undefined {
  return JOB_STATUS.find((status) => status === value);
}

function readKey(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, key)
    ? Reflect.get(value, key)
    : undefined;
}
