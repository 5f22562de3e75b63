/** What the proxy needs of a guest's request and of its answer: Node's, or those of the small calls' lane. */

import type {
  IncomingHttpHeaders,
  IncomingMessage,
  OutgoingHttpHeaders,
  ServerResponse,
} from 'node:http';

/** A request that has come whole, body included. */
export interface WholeRequest {
  readonly httpVersion: '1.1';
  readonly method: string;
  readonly url: string;
  /** By lower-case name; none comes twice. */
  readonly headers: IncomingHttpHeaders;
  readonly rawHeaders: string[];
  readonly complete: true;
  /** Its guest has gone. */
  readonly destroyed: boolean;
  readonly body: Buffer;
}

export type GuestRequest = IncomingMessage | WholeRequest;

/** Where a guest is answered. `ServerResponse` is one. */
export interface GuestResponse {
  readonly headersSent: boolean;
  readonly destroyed: boolean;
  /** Bytes that the guest has not taken yet. */
  readonly writableLength: number;
  writeHead(status: number, message: string, headers: string[] | OutgoingHttpHeaders): unknown;
  end(body?: Buffer | string): unknown;
  destroy(): unknown;
  /** The guest has the answer, or has gone. */
  once(event: 'close', listener: () => void): unknown;
  off(event: 'close', listener: () => void): unknown;
}

/** A call of a guest, whichever way it came. */
export interface GuestCall {
  readonly incoming: GuestRequest;
  readonly outgoing: GuestResponse;
}

/** A call through Node's server: the only one whose bodies are streams. */
export interface NodeCall {
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
}

/** The streams of a call that has not come whole. */
export function streamsOf({ incoming, outgoing }: GuestCall): NodeCall {
  if (isWhole(incoming)) throw new TypeError('a whole request has no stream');
  return { incoming, outgoing: outgoing as ServerResponse };
}

export function isWhole(request: GuestRequest): request is WholeRequest {
  return 'body' in request;
}
