/** The route table (design §6): everything is decided here before a byte goes to GitLab. */

import type { HttpBindings } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { type Context, Hono } from 'hono';
import { HEADERS, isJobOver, JOB_STATUS, type JobStatus, parseRangeEnd } from '../gitlab/index.ts';
import { type Lease, sameToken } from '../leases/index.ts';
import { answers } from './answers.ts';
import { readBody } from './body.ts';
import { type Forward, forward } from './forward.ts';
import { headersUp } from './headers.ts';
import type { ProxyServices } from './services.ts';
import { jobTokenOf } from './tokens.ts';

type Env = { Bindings: HttpBindings };
type Call = Context<Env, string>;

/** `jobs/request` and the small JSON calls: what GitLab itself takes, with room for later versions. */
const MAX_JSON_BYTES = 256 * 1024;

/** A VM token in the path: what `createVmToken` makes, and nothing that needs decoding. */
const TOKEN = ':token{[A-Za-z0-9_-]{1,128}}';
const JOB_ID = ':id{[1-9][0-9]{0,14}}';

/** The app behind the guests' listener. */
export function createProxyApp(services: ProxyServices): Hono<Env> {
  const app = new Hono<Env>();
  const api = `/${TOKEN}/api/v4`;
  const own = ownJob(services);

  app.post(`${api}/jobs/request`, (c) => requestJob(c, services));
  app.post(`${api}/runners/verify`, (c) => verify(c, services));
  app.put(`${api}/jobs/${JOB_ID}`, (c) => updateJob(c, services));
  app.patch(`${api}/jobs/${JOB_ID}/trace`, own('trace', '/trace', noteTrace));
  app.post(`${api}/jobs/${JOB_ID}/artifacts`, own('artifacts-upload', '/artifacts'));
  app.get(`${api}/jobs/${JOB_ID}/artifacts`, (c) => downloadArtifacts(c, services));
  app.get(
    `${api}/jobs/${JOB_ID}/runtime_environment_key`,
    own('runtime-environment-key', '/runtime_environment_key'),
  );

  app.notFound((c) => {
    const token = /^\/([^/]+)/.exec(c.req.path)?.[1] ?? '';
    return services.leases.byVmToken(token) === undefined
      ? answers.forbidden()
      : answers.notFound();
  });
  app.onError((error) => {
    services.log.error('a guest call failed inside the proxy', { error });
    return answers.serverError();
  });
  return app;
}

/** The guest's runner asks for its job. Anybody else learns that there is none, and never a 403. */
async function requestJob(c: Call, services: ProxyServices): Promise<Response> {
  const vmToken = c.req.param('token') ?? '';
  const body = await readBody(c.env.incoming, MAX_JSON_BYTES);
  const lease = services.leases.byVmToken(vmToken);
  if (lease === undefined || body === 'too-large') return answers.noJob();
  const json = parseJson(body);
  const told = readKey(json, 'token');
  if (told !== undefined && !(typeof told === 'string' && sameToken(told, vmToken))) {
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
async function verify(c: Call, services: ProxyServices): Promise<Response> {
  const vmToken = c.req.param('token') ?? '';
  if (services.leases.byVmToken(vmToken) === undefined) return answers.forbidden();
  const body = await readBody(c.env.incoming, MAX_JSON_BYTES);
  if (body === 'too-large') return answers.tooLarge();
  const told = readKey(parseJson(body), 'token');
  if (typeof told !== 'string' || !sameToken(told, vmToken)) return answers.forbidden();
  return Response.json({ id: 0, token: vmToken, token_expires_at: null });
}

/** `PUT jobs/:id`: the body names the token and the state, so it is read; GitLab gets its very bytes. */
async function updateJob(c: Call, services: ProxyServices): Promise<Response> {
  const lease = findLease(c, services);
  if (lease === undefined) return answers.forbidden();
  const body = await readBody(c.env.incoming, MAX_JSON_BYTES);
  if (body === 'too-large') return answers.tooLarge();
  const json = parseJson(body);
  if (json === undefined) return answers.badRequest();
  if (!maySpeak(c, lease, readKey(json, 'token'))) return answers.forbidden();
  if (!(await lease.speak())) return answers.forbidden();
  const state = readKey(json, 'state');
  const final = state === 'success' || state === 'failed' ? state : undefined;
  // Whatever becomes of its machine and of us: this is the job's own last word, and it is kept.
  if (final !== undefined) await lease.finalPending({ body, outcome: final });
  return pass(c, services, lease, 'update', '', {
    body,
    onAnswer: async (answer) => {
      if (final === undefined || answer.statusCode !== 200) return;
      // A cancel that was under way makes GitLab end the job as canceled, whatever its runner says.
      const canceling = /^cancel/.test(answer.headers[HEADERS.jobStatus]?.toString() ?? '');
      await lease.finalTaken(canceling ? 'canceled' : final);
    },
  });
}

type OnAnswer = NonNullable<Forward['onAnswer']>;

/** A route for the lease's own job, whose body is streamed. */
function ownJob(services: ProxyServices) {
  return (route: string, suffix: string, note?: (lease: Lease) => OnAnswer) =>
    async (c: Call): Promise<Response> => {
      const lease = findLease(c, services);
      if (lease === undefined || !maySpeak(c, lease)) return answers.forbidden();
      if (!(await lease.speak())) return answers.forbidden();
      return pass(c, services, lease, route, suffix, note && { onAnswer: note(lease) });
    };
}

const noteTrace =
  (lease: Lease): OnAnswer =>
  async (answer) => {
    const size = parseRangeEnd(answer.headers[HEADERS.range]?.toString());
    if (size !== undefined) lease.noteLogBytes(size);
  };

/** Artifacts of this job, or of one that it depends on with the very token that GitLab gave for that. */
async function downloadArtifacts(c: Call, services: ProxyServices): Promise<Response> {
  const lease = leaseOf(c, services);
  if (lease === undefined) return answers.forbidden();
  const id = jobIdOf(c);
  const token = jobTokenOf(placesOf(c), lease.vmToken);
  const { facts } = lease;
  const allowed =
    token !== undefined &&
    [facts, ...facts.dependencies].some((job) => job.id === id && sameToken(job.token, token));
  if (!allowed || !(await lease.speak())) return answers.forbidden();
  return pass(c, services, lease, 'artifacts-download', '/artifacts', undefined, token);
}

/** Passes a checked call on and says what became of it. */
async function pass(
  c: Call,
  services: ProxyServices,
  lease: Lease,
  route: string,
  suffix: string,
  options: Pick<Forward, 'body' | 'onAnswer'> = {},
  token: string = lease.facts.token,
): Promise<Response> {
  const { incoming, outgoing } = c.env as {
    incoming: HttpBindings['incoming'];
    outgoing: Forward['outgoing'];
  };
  const startedAt = services.monotonic();
  const result = await forward({
    incoming,
    outgoing,
    upstream: services.upstream,
    method: c.req.method,
    path: `/api/v4/jobs/${jobIdOf(c)}${suffix}${new URL(c.req.url).search}`,
    headers: headersUp(incoming.headers, token),
    answerTimeoutMs: services.timings.forwardTimeoutMs,
    ...options,
    onAnswer: async (answer) => {
      const jobStatus = readJobStatus(answer.headers[HEADERS.jobStatus]);
      lease.noteStatus(jobStatus);
      await options.onAnswer?.(answer);
      if (isJobOver(jobStatus)) await lease.over(jobStatus);
    },
  });
  const call = { route, jobId: lease.facts.id, durationMs: services.monotonic() - startedAt };
  switch (result.kind) {
    case 'answered':
      services.forwarded({ ...call, ...result });
      return RESPONSE_ALREADY_SENT;
    case 'guest-gone':
      services.forwarded({ ...call, status: 0, bytesUp: 0, bytesDown: 0, requestId: undefined });
      return RESPONSE_ALREADY_SENT;
    case 'failed':
      services.log.warn(`${route} of job ${lease.facts.id} did not get through to GitLab`, {
        reason: services.describeFailure(result.error),
      });
      services.forwarded({ ...call, status: 502, bytesUp: 0, bytesDown: 0, requestId: undefined });
      return result.headersSent ? RESPONSE_ALREADY_SENT : answers.badGateway();
    default:
      return result satisfies never;
  }
}

function leaseOf(c: Call, services: ProxyServices): Lease | undefined {
  return services.leases.byVmToken(c.req.param('token') ?? '');
}

/** The token's lease, where the path names its own job. */
function findLease(c: Call, services: ProxyServices): Lease | undefined {
  const lease = leaseOf(c, services);
  return lease?.facts.id === jobIdOf(c) ? lease : undefined;
}

function maySpeak(c: Call, lease: Lease, bodyToken?: unknown): boolean {
  const token = jobTokenOf({ ...placesOf(c), bodyToken }, lease.vmToken);
  return token !== undefined && sameToken(token, lease.facts.token);
}

function placesOf(c: Call): {
  headers: HttpBindings['incoming']['headers'];
  query: URLSearchParams;
} {
  return { headers: c.env.incoming.headers, query: new URL(c.req.url).searchParams };
}

function jobIdOf(c: Call): number {
  return Number(c.req.param('id'));
}

function readJobStatus(value: string | string[] | undefined): JobStatus | undefined {
  return JOB_STATUS.find((status) => status === value);
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'));
  } catch {
    return undefined;
  }
}

function readKey(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, key)
    ? Reflect.get(value, key)
    : undefined;
}
