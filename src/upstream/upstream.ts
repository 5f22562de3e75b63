/** The one transport to GitLab: node:http(s) with keep-alive, private CA, HTTP proxy and time-outs. */

import http from 'node:http';
import https from 'node:https';
import tls from 'node:tls';
import { ForrestGitlabError, isForrestGitlabError } from '../errors.ts';
import type { Clock } from '../lib/clock.ts';
import { collect } from '../lib/collect.ts';
import { ADDRESS_MS, Addresses } from './addresses.ts';
import { MAX_HEAD_BYTES } from './answer-parser.ts';
import { type PendingCall, type SmallCall, type WholeAnswer, Wire } from './wire.ts';

export interface UpstreamOptions {
  /** GitLab's address; may have a path (`https://example.com/gitlab`). */
  readonly url: string;
  /** CA certificates in PEM that are trusted besides the system's. */
  readonly ca?: string | undefined;
  /** `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY` and their lower-case forms. Loopback is never proxied. */
  readonly proxyEnv: Readonly<Record<string, string | undefined>>;
  /** How long a connection may take to stand, TLS included. */
  readonly connectTimeoutMs: number;
  readonly clock: Clock;
}

export interface UpstreamRequest {
  readonly method: string;
  /** Absolute path and query below GitLab's address, such as `/api/v4/jobs/request`. Already checked. */
  readonly path: string;
  readonly headers: http.OutgoingHttpHeaders;
  /** How long GitLab may take to begin its answer, from the last byte of the request on. */
  readonly answerTimeoutMs: number;
  /** Over a new connection: one that was kept may be dead and not know it. */
  readonly fresh?: boolean;
}

/** A connection pool to one GitLab. */
export interface Upstream {
  /** GitLab's address, normalised, without a trailing slash. */
  readonly url: string;
  /**
   * Begins a request; the caller writes and ends the body. Emits `response` or `error` like any
   * `ClientRequest` (see {@link upstreamError}). Redirects are not followed.
   */
  request(request: UpstreamRequest): http.ClientRequest;
  /** Makes a call whose body is at hand, and hands over its answer whole. Fails as `request` does. */
  call(call: SmallCall): PendingCall;
  /** Closes idle and open connections. */
  close(): void;
}

/** What a request failed with, as a coded error with Node's own as its cause. */
export function upstreamError(error: unknown, url: string): ForrestGitlabError {
  if (isForrestGitlabError(error)) return error;
  return new ForrestGitlabError('upstream_unreachable', `no answer from ${url}`, { cause: error });
}

/** Idle connections kept per GitLab: as many as a large host has jobs talking at once. */
const MAX_IDLE_CONNECTIONS = 256;

/** The system takes so much at once, so that the wait for its answer begins with it. */
const MAX_WIRE_BYTES = 64 * 1024;

/** As Go's net/http does, and so the official runner: a proxy cannot know what our loopback is. */
const NEVER_PROXIED = 'localhost,127.0.0.1,[::1],::1';

/** Opens nothing yet; connections are made as requests need them. */
export function createUpstream(options: UpstreamOptions): Upstream {
  const base = new URL(options.url);
  const secure = base.protocol === 'https:';
  const prefix = base.pathname.replace(/\/+$/, '');
  const url = base.origin + prefix;
  // Once: reading hundreds of certificates for each connection would take tens of ms of it.
  const secureContext = secure
    ? tls.createSecureContext(options.ca === undefined ? {} : { ca: trusted(options.ca) })
    : null;
  const addresses = new Addresses(options.clock);
  const agentOptions = {
    lookup: addresses.lookup,
    maxFreeSockets: MAX_IDLE_CONNECTIONS,
    proxyEnv: withLoopbackExempt(options.proxyEnv),
    autoSelectFamilyAttemptTimeout: ADDRESS_MS,
  };
  const createAgent = (keepAlive: boolean): http.Agent =>
    secureContext === null
      ? new http.Agent({ ...agentOptions, keepAlive })
      : new https.Agent({ ...agentOptions, keepAlive, secureContext });
  const agent = createAgent(true);
  const freshAgent = createAgent(false);
  const hostname = base.hostname.replace(/^\[|\]$/g, '');
  const port = base.port === '' ? (secure ? 443 : 80) : Number(base.port);
  const request = (one: UpstreamRequest): http.ClientRequest => {
    const outgoing = (secure ? https : http).request({
      protocol: base.protocol,
      hostname,
      port,
      method: one.method,
      path: prefix + one.path,
      headers: one.headers,
      maxHeaderSize: MAX_HEAD_BYTES,
      agent: one.fresh === true ? freshAgent : agent,
    });
    limitWaits(outgoing, one, url, options);
    outgoing.once('socket', (socket) => socket.connecting && addresses.watch(socket));
    return outgoing;
  };
  const wire = new Wire({
    hostname,
    port,
    host: base.host,
    secureContext,
    url,
    connectTimeoutMs: options.connectTimeoutMs,
    clock: options.clock,
    addresses,
  });
  const isProxied = namesProxy(options.proxyEnv, secure ? 'https_proxy' : 'http_proxy');
  // How a proxy is spoken to is Node's affair, and so is a body that takes its time on a slow line.
  const isWires = ({ body }: SmallCall): boolean => !isProxied && body.length <= MAX_WIRE_BYTES;
  return {
    url,
    request,
    call: (call) =>
      isWires(call)
        ? wire.call({ ...call, path: prefix + call.path })
        : callByRequest(request, call, options.clock),
    close() {
      wire.close();
      agent.destroy();
      freshAgent.destroy();
    },
  };
}

function namesProxy(env: UpstreamOptions['proxyEnv'], name: string): boolean {
  return Boolean(env[name] || env[name.toUpperCase()]);
}

function callByRequest(
  request: (one: UpstreamRequest) => http.ClientRequest,
  call: SmallCall,
  clock: Clock,
): PendingCall {
  const outgoing = request({
    ...call,
    headers: { ...call.headers, 'content-length': call.body.length },
  });
  // Whatever fails after the answer has begun ends its body, too.
  const { promise, resolve, reject } = Promise.withResolvers<WholeAnswer>();
  outgoing.once('response', (answer) => {
    endStalled(answer, call.stallMs, clock);
    resolve(toWhole(answer, call.maxAnswerBytes));
  });
  outgoing.on('error', reject);
  outgoing.once('close', () => reject(new Error('closed without an answer')));
  // Only of what is sent: after a stop of this process, this timer comes before an answer that is there.
  outgoing.setTimeout(call.stallMs, () => {
    if (!outgoing.writableFinished) outgoing.destroy();
  });
  outgoing.end(call.body);
  return { answer: promise, abort: () => void outgoing.destroy() };
}

/** Ends an answer of which nothing more comes. */
function endStalled(answer: http.IncomingMessage, stallMs: number, clock: Clock): void {
  const end = (): void => void answer.destroy();
  let limit = clock.after(stallMs, end);
  answer.on('data', () => {
    limit.cancel();
    limit = clock.after(stallMs, end);
  });
  answer.once('close', () => limit.cancel());
}

async function toWhole(
  answer: http.IncomingMessage,
  maxBytes: number | undefined,
): Promise<WholeAnswer> {
  const { statusCode = 502, statusMessage = '', headers, rawHeaders } = answer;
  const collected = await collect(answer, maxBytes);
  return { statusCode, statusMessage, headers, rawHeaders, ...collected };
}

function trusted(ca: string): string[] {
  return [...tls.getCACertificates('default'), ca];
}

function withLoopbackExempt(
  env: Readonly<Record<string, string | undefined>>,
): Record<string, string> {
  const result: Record<string, string> = {};
  for (const [name, value] of Object.entries(env)) {
    if (value !== undefined && value !== '') result[name] = value;
  }
  const exempt = result['no_proxy'] ?? result['NO_PROXY'];
  delete result['NO_PROXY'];
  result['no_proxy'] = exempt === undefined ? NEVER_PROXIED : `${exempt},${NEVER_PROXIED}`;
  return result;
}

/** node:http has no time-outs of its own for a client: one for connecting, one for the answer. */
function limitWaits(
  outgoing: http.ClientRequest,
  request: UpstreamRequest,
  url: string,
  options: UpstreamOptions,
): void {
  const fail = (message: string) => (): void => {
    outgoing.destroy(new ForrestGitlabError('upstream_timeout', message));
  };
  const connecting = options.clock.after(
    options.connectTimeoutMs,
    fail(`no connection to ${url} within ${options.connectTimeoutMs / 1000} s`),
  );
  outgoing.once('socket', (socket) => {
    if (!socket.connecting) connecting.cancel();
    else socket.once(isTls(socket) ? 'secureConnect' : 'connect', () => connecting.cancel());
  });
  outgoing.once('finish', () => {
    const waiting = options.clock.after(
      request.answerTimeoutMs,
      fail(`${url} did not answer within ${request.answerTimeoutMs / 1000} s`),
    );
    outgoing.once('response', () => waiting.cancel());
    outgoing.once('close', () => waiting.cancel());
  });
  outgoing.once('close', () => connecting.cancel());
}

function isTls(socket: object): boolean {
  return socket instanceof tls.TLSSocket;
}
