/** Reading a runner's small calls, in the one form in which it usually sends them. */

import { readHead } from './head.ts';
import type { Limits } from './limits.ts';
import { findJobRoute, type Route } from './routes.ts';

/** A call with a small body, of which the head has been read. */
export interface SmallCallHead {
  readonly route: Route;
  readonly jobId: number;
  readonly vmToken: string;
  readonly method: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly rawHeaders: string[];
  readonly headBytes: number;
  readonly bodyBytes: number;
}

/** A larger body is not worth keeping for its rest. */
const MAX_BODY_BYTES = 64 * 1024;

const REQUEST_LINE = /^(PATCH|PUT) (\/[\x21-\x7e]*) HTTP\/1\.1$/;
const HEADER = /^([A-Za-z0-9-]+): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)$/;
const LENGTH = /^(?:0|[1-9][0-9]{0,4})$/;

/** They say how a connection or a body is to be understood: Node's server does that. */
const NOT_HERE = new Set([
  'connection',
  'expect',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

/**
 * `more`: it may become such a call. `other`: it is none, or not in that form, or not to be let in: somebody
 * else's, who understands all of HTTP and refuses what is to be refused.
 */
export function readSmallCall(bytes: Buffer, limits: Limits): SmallCallHead | 'more' | 'other' {
  // No other method begins with it that any runner uses for a small call.
  if (bytes[0] !== P) return 'other';
  const end = bytes.indexOf(HEAD_END);
  if (end < 0) return mayGoOn(bytes, limits) ? 'more' : 'other';
  if (end > limits.headerBytes) return 'other';
  const [first = '', ...lines] = bytes.toString('latin1', 0, end).split('\r\n');
  const [, method, url] = REQUEST_LINE.exec(first) ?? [];
  if (method === undefined || url === undefined) return 'other';
  const headers: Record<string, string> = {};
  const rawHeaders: string[] = [];
  for (const line of lines) {
    const [, name, value] = HEADER.exec(line) ?? [];
    const key = name?.toLowerCase();
    if (name === undefined || value === undefined || key === undefined) return 'other';
    if (NOT_HERE.has(key)) return 'other';
    headers[key] = value;
    rawHeaders.push(name, value);
  }
  const { host, 'content-length': length = '' } = headers;
  if (host === undefined || !LENGTH.test(length) || Number(length) > MAX_BODY_BYTES) return 'other';
  const head = readHead({ httpVersion: '1.1', method, rawHeaders, url }, limits);
  if (head.kind !== 'readable' || head.path === undefined) return 'other';
  const found = findJobRoute(method, head.path);
  if (found === undefined) return 'other';
  return {
    ...found,
    vmToken: head.vmToken,
    method,
    url,
    headers,
    rawHeaders,
    headBytes: end + HEAD_END.length,
    bodyBytes: Number(length),
  };
}

/** Lines that end otherwise have no head's end that would be waited for here. */
function mayGoOn(bytes: Buffer, { headerBytes }: Limits): boolean {
  const lineEnd = bytes.indexOf('\n');
  return bytes.length < headerBytes && (lineEnd < 0 || bytes[lineEnd - 1] === CR);
}

const CR = '\r'.charCodeAt(0);
const P = 'P'.charCodeAt(0);
const HEAD_END = Buffer.from('\r\n\r\n');
