/** A `fetch` over the upstream, for requests and answers that are sent and read whole. */

import { headersOf } from '../lib/raw-headers.ts';
import type { Send } from './send.ts';

export type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

/** Statuses whose answers have no body; `Response` refuses one for them. */
const BODILESS = new Set([204, 205, 304]);

/** Sends by `send`, whose upstream has that `url`; refuses addresses outside of it. */
export function createFetch(url: string, send: Send): Fetch {
  return async (input, init) => {
    // ky hands over a whole request: a copy would pass its body through a stream.
    const request = input instanceof Request ? input : new Request(input, init);
    if (!request.url.startsWith(`${url}/`)) {
      throw new TypeError(`${new URL(request.url).origin} is not below ${url}`);
    }
    const { statusCode, rawHeaders, body } = await send(
      {
        method: request.method,
        path: request.url.slice(url.length),
        headers: Object.fromEntries(request.headers),
        body: Buffer.from(await request.arrayBuffer()),
      },
      request.signal,
    );
    return new Response(BODILESS.has(statusCode) ? null : new Uint8Array(body), {
      status: statusCode,
      headers: headersOf(rawHeaders),
    });
  };
}
