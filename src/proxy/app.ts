/** What is answered here, and never goes to GitLab: the question for the job, and what is no route. */

import type { HttpBindings } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { type Context, Hono } from 'hono';
import { HEADERS } from '../gitlab/index.ts';
import { readKey } from '../lib/read-key.ts';
import { answers } from './answers.ts';
import { readBody } from './body.ts';
import { tokenPlaces } from './calls.ts';
import { parseStrictObject } from './json.ts';
import type { Limits } from './limits.ts';
import { ROUTES } from './routes.ts';
import type { ProxyServices } from './services.ts';
import { namesOnly } from './tokens.ts';

type Env = { Bindings: HttpBindings };
type Call = Context<Env, string>;
type Services = ProxyServices & { readonly limits: Limits };

/** A VM token in the path: what `createVmToken` makes, and nothing that needs decoding. */
const TOKEN = ':token{[A-Za-z0-9_-]{1,128}}';

const HANDLERS = { 'jobs-request': requestJob, 'runners-verify': verify } as const;

/** The app behind the guests' listener. */
export function createProxyApp(proxy: ProxyServices, limits: Limits): Hono<Env> {
  const services = { ...proxy, limits };
  const app = new Hono<Env>();
  for (const { name, method, path } of ROUTES) {
    if (name !== 'jobs-request' && name !== 'runners-verify') continue;
    app.on(method, `/${TOKEN}/api/v4${path}`, (c) => HANDLERS[name](c, services));
  }

  app.notFound((c) => {
    const token = /^\/([^/]+)/.exec(c.req.path)?.[1] ?? '';
    return services.leases.byVmToken(token) === undefined
      ? answers.forbidden()
      : answers.notFound();
  });
  app.onError((error, c) => {
    // A guest that goes away in the middle of its call is no fault, and hears no answer.
    if (c.env.outgoing.destroyed) return answers.badRequest();
    services.log.error('a guest call failed inside the proxy', { error });
    return answers.serverError();
  });
  return app;
}

/** The guest's runner asks for its job. Anybody else learns that there is none, and never a 403. */
async function requestJob(c: Call, services: Services): Promise<Response> {
  const vmToken = c.req.param('token') ?? '';
  const body = await readJson(c, services);
  const warm = services.warm.byVmToken(vmToken);
  const isKnown = warm !== undefined || services.leases.byVmToken(vmToken) !== undefined;
  if (!isKnown) return answers.noJob();
  if (body === 'too-large') return answers.tooLarge();
  const json = parseStrictObject(body);
  const places = tokenPlaces('jobs-request', c.env.incoming, json?.['token']);
  if (json === undefined || places === undefined || !namesOnly(vmToken, places)) {
    return answers.noJob();
  }
  if (warm !== undefined) {
    learnFeatures(warm.facts.runner, json, services);
    await warm.hold(goneOf(c));
  }
  // What is answered is the lease's to say, also to a request that has waited for it.
  const lease = services.leases.byVmToken(vmToken);
  if (lease === undefined) return answers.noJob();
  if (lease.state.name === 'booting' && warm === undefined) {
    learnFeatures(lease.runner, json, services);
  }
  const payload = await lease.offer();
  if (payload === null) return answers.noJob();
  // A Response holds a copy, and a machine may ask over all its connections, and read no answer.
  const { outgoing } = c.env;
  if (lease.requestId !== null) outgoing.setHeader(HEADERS.requestId, lease.requestId);
  outgoing.setHeader('content-type', 'application/json');
  outgoing.setHeader('content-length', payload.length);
  outgoing.writeHead(201).end(payload);
  return RESPONSE_ALREADY_SENT;
}

/** Only what is asked before there is a job is the runner's own word; a later one may be a job's doing. */
function learnFeatures(runner: string, json: unknown, services: Services): void {
  const info = readKey(json, 'info');
  const features = services.knownFeatures(readKey(info, 'features'));
  if (features === undefined) return;
  const executor = readKey(info, 'executor');
  services.leases.learnFeatures(runner, features, typeof executor === 'string' ? executor : null);
}

/** Aborts when the guest waits no more. */
function goneOf(c: Call): AbortSignal {
  const gone = new AbortController();
  if (c.env.outgoing.destroyed) gone.abort();
  c.env.outgoing.once('close', () => gone.abort());
  return gone.signal;
}

/** run-single never asks this; an agent in the guest that does must not reach GitLab with it. */
async function verify(c: Call, services: Services): Promise<Response> {
  const vmToken = c.req.param('token') ?? '';
  const isKnown =
    services.leases.byVmToken(vmToken) !== undefined ||
    services.warm.byVmToken(vmToken) !== undefined;
  if (!isKnown) return answers.forbidden();
  const body = await readJson(c, services);
  if (body === 'too-large') return answers.tooLarge();
  const bodyToken = parseStrictObject(body)?.['token'];
  const places = tokenPlaces('runners-verify', c.env.incoming, bodyToken);
  if (bodyToken === undefined || places === undefined || !namesOnly(vmToken, places)) {
    return answers.forbidden();
  }
  return Response.json({ id: 0, token: vmToken, token_expires_at: null });
}

function readJson(c: Call, { limits, clock }: Services): Promise<Buffer | 'too-large'> {
  return readBody(c.env.incoming, limits.jsonBytes, clock, limits.jsonMs);
}
