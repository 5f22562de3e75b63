/** A request's first line and headers, judged before anything else looks at them. */

import type { IncomingMessage } from 'node:http';
import type { Limits } from './limits.ts';

export interface ReadableHead {
  readonly kind: 'readable';
  /** Not checked yet; may be anything. */
  readonly vmToken: string;
  /** Below the API; undefined where it is none that could be a route's. */
  readonly path: string | undefined;
}

export type Head =
  | ReadableHead
  | { readonly kind: 'refused'; readonly status: 400 | 414 | 415 | 431 | 505 };

/** `/<vm token>/api/v4/<path>?<query>`: plain characters only, so that there is nothing to normalise. */
const TARGET =
  /^\/([A-Za-z0-9_-]{1,128})\/api\/v4\/([a-z0-9_]+(?:\/[a-z0-9_]+)*)(?:\?[\x21-\x7e]*)?$/;

const METHODS = new Set(['GET', 'POST', 'PUT', 'PATCH']);

/** Another protocol, another method, a body in disguise: no runner sends these. */
const REFUSED: ReadonlyMap<string, 400 | 415> = new Map([
  ['upgrade', 400],
  ['x-http-method', 400],
  ['x-http-method-override', 400],
  ['x-method-override', 400],
  ['content-encoding', 415],
]);

export function readHead(
  incoming: Pick<IncomingMessage, 'httpVersion' | 'method' | 'rawHeaders' | 'url'>,
  limits: Limits,
): Head {
  const { rawHeaders, url = '' } = incoming;
  if (incoming.httpVersion !== '1.1') return { kind: 'refused', status: 505 };
  if (url.length > limits.targetBytes) return { kind: 'refused', status: 414 };
  if (rawHeaders.length > 2 * limits.headers) return { kind: 'refused', status: 431 };
  const names = new Set<string>();
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]?.toLowerCase() ?? '';
    const status = REFUSED.get(name);
    if (status !== undefined) return { kind: 'refused', status };
    // Of two that differ, GitLab might believe the other one.
    if (names.has(name)) return { kind: 'refused', status: 400 };
    names.add(name);
    // Node takes any list that ends in `chunked`.
    if (name === 'transfer-encoding' && rawHeaders[at + 1]?.toLowerCase() !== 'chunked') {
      return { kind: 'refused', status: 400 };
    }
  }
  if (!names.has('host')) return { kind: 'refused', status: 400 };
  const [, vmToken = /^\/?([^/?]*)/.exec(url)?.[1] ?? '', path] = TARGET.exec(url) ?? [];
  return { kind: 'readable', vmToken, path: METHODS.has(incoming.method ?? '') ? path : undefined };
}
