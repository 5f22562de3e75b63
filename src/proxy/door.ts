/** What every request passes before the routes see it: form, VM token, limits of its machine. */

import { type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Leases } from '../leases/index.ts';
import { type GuestRequest, type GuestResponse, isWhole } from './guest-call.ts';
import type { GuestConnection, Guests } from './guests.ts';
import { type ReadableHead, readHead } from './head.ts';
import { hasBody } from './headers.ts';
import type { Limits } from './limits.ts';
import { bodyOf, type RefusedStatus, refusals } from './refusals.ts';
import type { ProxyServices } from './services.ts';

export interface Admission {
  readonly guests: Guests;
  readonly limits: Limits;
  readonly leases: Pick<Leases, 'byVmToken'>;
  readonly warm: ProxyServices['warm'];
}

/** All that a machine without a job may call. */
const WITHOUT_JOB = new Set(['POST jobs/request', 'POST runners/verify']);

/** Whatever stands for the token: one that is none is answered as one that is nobody's. */
const ASK = /^\/[^/?]*\/api\/v4\/jobs\/request(?:\?|$)/;

/** Hears a request that may come in. */
export type Admitted = (
  head: ReadableHead,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
) => void;

/** Hears the server's requests in the listener's place, and passes on those that may come in. */
export function createDoor(server: Server, listener: Admitted, door: Admission): Server {
  const onRequest = (
    incoming: IncomingMessage,
    outgoing: ServerResponse,
  ): ReadableHead | undefined => {
    const connection = door.guests.of(incoming.socket);
    if (connection === undefined || !connection.begin(incoming, outgoing)) return undefined;
    const refuse = (status: RefusedStatus): undefined => {
      connection.refuse(refusals[status]);
    };
    const head = readHead(incoming, door.limits);
    if (head.kind === 'refused') return refuse(head.status);
    const isKnown =
      door.leases.byVmToken(head.vmToken) !== undefined ||
      (WITHOUT_JOB.has(`${incoming.method} ${head.path}`) &&
        door.warm.byVmToken(head.vmToken) !== undefined);
    if (!isKnown) {
      // Never 403 on jobs/request: it puts the official runner to sleep for five minutes.
      return refuse(incoming.method === 'POST' && ASK.test(incoming.url ?? '') ? 204 : 403);
    }
    if (!mayCall(connection, head.vmToken, incoming, outgoing, door)) return undefined;
    return head.path === undefined ? refuse(404) : head;
  };
  server.on('request', (incoming, outgoing) => {
    const head = onRequest(incoming, outgoing);
    if (head !== undefined) listener(head, incoming, outgoing);
  });
  server.on('checkContinue', (incoming, outgoing) => {
    const head = onRequest(incoming, outgoing);
    if (head === undefined) return;
    outgoing.writeContinue();
    listener(head, incoming, outgoing);
  });
  // Made of a request before its turn: see `GuestMessage`. Node has left the connection to us.
  server.on('upgrade', (_incoming, socket: Socket) => {
    socket.on('error', () => undefined);
    const connection = door.guests.of(socket);
    if (connection === undefined) socket.destroy();
    else connection.cutOff();
  });
  server.on('checkExpectation', (incoming, outgoing) => {
    const connection = door.guests.of(incoming.socket);
    if (connection?.begin(incoming, outgoing)) connection.refuse(refusals[417]);
  });
  return server;
}

/** Whether that live machine may make one more call now; else it is refused here. */
export function mayCall(
  connection: GuestConnection,
  vmToken: string,
  incoming: GuestRequest,
  outgoing: GuestResponse,
  { guests, limits }: Pick<Admission, 'guests' | 'limits'>,
): boolean {
  const taken = guests.take(connection, vmToken);
  if (taken === 'ok') return true;
  const refuse = (): void => connection.refuse(refusals[429]);
  delay(incoming, outgoing, limits, taken === 'too-fast' ? 'keep' : 'close', refuse);
  return false;
}

/** Answers 429 after a while. A connection of its machine's is kept: that costs less than the next one would. */
function delay(
  incoming: GuestRequest,
  outgoing: GuestResponse,
  limits: Limits,
  then: 'keep' | 'close',
  refuse: () => void,
): void {
  const isSmall =
    incoming.headers['transfer-encoding'] === undefined &&
    Number(incoming.headers['content-length'] ?? 0) <= limits.jsonBytes;
  if (isSmall && !isWhole(incoming)) incoming.resume();
  // Spread: the calls of a flood that are answered all at once come back all at once.
  const delayMs = limits.floodDelayMs * (1 + Math.random());
  const waiting = setTimeout(() => {
    if (then === 'close' || (hasBody(incoming.headers) && !incoming.complete)) return refuse();
    const headers = { 'content-type': 'application/json', 'retry-after': '1' };
    outgoing.writeHead(429, STATUS_CODES[429] ?? '', headers);
    outgoing.end(bodyOf(429));
  }, delayMs);
  outgoing.once('close', () => clearTimeout(waiting));
}
