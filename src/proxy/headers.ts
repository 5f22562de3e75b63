/** Which headers pass, per route and direction: allowlists, since the protocol is known. */

import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http';
import { HEADERS } from '../gitlab/index.ts';
import type { RouteName } from './routes.ts';

interface Passing {
  /** What its body is; GitLab would read fields, and tokens, out of a body of another type. */
  readonly body: keyof typeof TYPES | 'none' | 'any';
  readonly up: readonly string[];
  readonly down: readonly string[];
}

const TYPES = {
  json: { expected: /^application\/json(?: *; *charset=utf-8)?$/i, assumed: 'application/json' },
  text: { expected: /^text\/plain(?: *; *charset=[a-z0-9-]+)?$/i, assumed: 'text/plain' },
  multipart: {
    expected: /^multipart\/form-data *; *boundary=(?:[\w'()+,./:=?-]{1,200}|"[^"\\]{1,200}")$/i,
    assumed: undefined,
  },
} as const;

/** From the guest to GitLab. No token but the job's, and that only after it was checked. */
const UP = ['accept', 'accept-encoding', 'user-agent', HEADERS.requestId];

/** From GitLab to the guest. */
const DOWN = [
  'content-encoding',
  'content-length',
  'content-type',
  'date',
  HEADERS.jobStatus,
  'ratelimit-limit',
  'ratelimit-observed',
  'ratelimit-remaining',
  'ratelimit-reset',
  'ratelimit-resettime',
  HEADERS.requestId,
  HEADERS.retryAfter,
  'x-runtime',
];

const ANSWERED_HERE: Passing = { body: 'any', up: [], down: [] };

const PASSING: Readonly<Record<RouteName, Passing>> = {
  'jobs-request': ANSWERED_HERE,
  'runners-verify': ANSWERED_HERE,
  update: { body: 'json', up: ['content-length'], down: [HEADERS.traceUpdateInterval] },
  trace: {
    body: 'text',
    up: ['content-length', HEADERS.contentRange],
    down: [HEADERS.range, HEADERS.traceUpdateInterval],
  },
  'artifacts-upload': { body: 'multipart', up: ['content-length'], down: ['location'] },
  'artifacts-download': {
    body: 'none',
    up: ['if-none-match', 'if-range', HEADERS.range],
    down: [
      'accept-ranges',
      'cache-control',
      'content-disposition',
      HEADERS.contentRange,
      'etag',
      'last-modified',
      'location',
    ],
  },
  'runtime-environment-key': { body: 'none', up: [], down: [] },
};

/** Whether the body is what that route takes, as its headers tell it. */
export function takesBody(route: RouteName, headers: IncomingHttpHeaders): boolean {
  const { body } = PASSING[route];
  if (body === 'any') return true;
  if (body === 'none') return !hasBody(headers);
  const type = headers['content-type'];
  const { expected, assumed } = TYPES[body];
  return type === undefined ? assumed !== undefined : expected.test(type);
}

export function hasBody(headers: IncomingHttpHeaders): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
}

/** What GitLab is sent. `content-length` and chunking stay as they came. */
export function headersUp(
  route: RouteName,
  incoming: IncomingHttpHeaders,
  jobToken: string,
): OutgoingHttpHeaders {
  const { body, up } = PASSING[route];
  const type =
    body === 'none' || body === 'any'
      ? undefined
      : (incoming['content-type'] ?? TYPES[body].assumed);
  return {
    ...pick(incoming, UP),
    ...pick(incoming, up),
    ...(type === undefined ? {} : { 'content-type': type }),
    [HEADERS.jobToken]: jobToken,
  };
}

function pick(headers: IncomingHttpHeaders, names: readonly string[]): OutgoingHttpHeaders {
  const picked: OutgoingHttpHeaders = {};
  for (const name of names) {
    const value = headers[name];
    if (value !== undefined) picked[name] = value;
  }
  return picked;
}

const DOWN_NAMES = new Map<RouteName, ReadonlySet<string>>(
  Object.entries(PASSING).map(([route, { down }]) => [
    route as RouteName,
    new Set([...DOWN, ...down]),
  ]),
);

/**
 * What the guest is answered, of Node's raw headers: names, order and repetitions as GitLab has them, but for the
 * length: it comes last, since Node takes a `Content-Disposition` after it for Latin-1, and fails where it is not. A
 * relative `Location` counts from what GitLab was asked for, `path` below its `url`: a guest would look for it here.
 */
export function rawHeadersDown(
  route: RouteName,
  raw: readonly string[],
  url: string,
  path: string,
): string[] {
  const passed: string[] = [];
  const length: string[] = [];
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = raw[at] as string;
    const value = raw[at + 1] as string;
    const key = name.toLowerCase();
    if (!DOWN_NAMES.get(route)?.has(key)) continue;
    const to = key === 'content-length' ? length : passed;
    to.push(name, key === 'location' ? absolute(value, url + path) : value);
  }
  passed.push(...length);
  return passed;
}

function absolute(location: string, url: string): string {
  return URL.canParse(location) ? location : (URL.parse(location, url)?.href ?? location);
}

/** For a body that was cut off, and is passed on as far as it came. */
export function withLength(headers: readonly string[], length: number): string[] {
  const kept: string[] = [];
  for (let at = 0; at + 1 < headers.length; at += 2) {
    const name = headers[at] as string;
    if (name.toLowerCase() !== 'content-length') kept.push(name, headers[at + 1] as string);
  }
  return [...kept, 'Content-Length', String(length)];
}
