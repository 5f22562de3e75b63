/** Which headers pass, in each direction: allowlists, since the protocol is known. */

import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http';
import { HEADERS } from '../gitlab/index.ts';

/** From the guest to GitLab. No token but the job's, and that only after it was checked. */
const UP = [
  'accept',
  'accept-encoding',
  'content-encoding',
  'content-length',
  'content-type',
  'if-none-match',
  'user-agent',
  HEADERS.contentRange,
  HEADERS.range,
  HEADERS.requestId,
] as const;

/** From GitLab to the guest: what runners read, and what describes the body. */
const DOWN = [
  'accept-ranges',
  'cache-control',
  'content-disposition',
  'content-encoding',
  'content-length',
  HEADERS.contentRange,
  'content-type',
  'date',
  'etag',
  HEADERS.jobStatus,
  'last-modified',
  'location',
  HEADERS.range,
  'ratelimit-limit',
  'ratelimit-observed',
  'ratelimit-remaining',
  'ratelimit-reset',
  'ratelimit-resettime',
  HEADERS.retryAfter,
  'x-gitlab-last-update',
  HEADERS.traceUpdateInterval,
  HEADERS.requestId,
  'x-runtime',
] as const;

/** What GitLab is sent. `content-length` and chunking stay as they came. */
export function headersUp(incoming: IncomingHttpHeaders, jobToken: string): OutgoingHttpHeaders {
  return { ...pick(incoming, UP), [HEADERS.jobToken]: jobToken };
}

function pick(headers: IncomingHttpHeaders, names: readonly string[]): OutgoingHttpHeaders {
  const picked: OutgoingHttpHeaders = {};
  for (const name of names) {
    const value = headers[name];
    if (value !== undefined) picked[name] = value;
  }
  return picked;
}

const DOWN_NAMES: ReadonlySet<string> = new Set(DOWN);

/** What the guest is answered, of Node's raw headers: names, order and repetitions as GitLab has them. */
export function rawHeadersDown(raw: readonly string[]): string[] {
  const passed: string[] = [];
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = raw[at] as string;
    if (DOWN_NAMES.has(name.toLowerCase())) passed.push(name, raw[at + 1] as string);
  }
  return passed;
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
