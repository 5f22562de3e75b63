/** The proxy's HTTP server on a socket that the host owns: who may not come in is turned away here. */

import http, { type RequestListener, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { createAdaptorServer } from '@hono/node-server';
import type { ListenTarget } from '../contract/index.ts';
import { createProxyApp } from './app.ts';
import { answerCall } from './calls.ts';
import { type Admission, type Admitted, createDoor, mayCall } from './door.ts';
import { GuestMessage } from './guest-message.ts';
import { Guests } from './guests.ts';
import { Lane } from './lane.ts';
import { DEFAULT_LIMITS, effectiveLimits } from './limits.ts';
import { findJobRoute } from './routes.ts';
import type { ProxyServices } from './services.ts';

export interface ProxyServer {
  /** Begins to answer; connections that already wait come first. */
  accept(target: ListenTarget): void;
  /** That VM token opens nothing any more: what is under way for it ends, held calls included. */
  end(vmToken: string): void;
  /** Closes every connection without an answer: a 403 now would end a job that lives on. */
  close(): Promise<void>;
}

export function createProxyServer(services: ProxyServices): ProxyServer {
  const limits = effectiveLimits({ ...DEFAULT_LIMITS, ...services.limits });
  const guests = new Guests(limits, () => services.monotonic());
  const door: Admission = { guests, limits, leases: services.leases, warm: services.warm };
  const checked = { ...services, limits };
  /** A job's calls need nothing of what Hono makes of a request. */
  const bypass =
    (listener: RequestListener): Admitted =>
    ({ vmToken, path = '' }, incoming, outgoing) => {
      const found = findJobRoute(incoming.method ?? '', path);
      if (found === undefined) listener(incoming, outgoing);
      else void answerCall({ ...found, vmToken, incoming, outgoing }, checked);
    };
  const server = createAdaptorServer({
    fetch: createProxyApp(services, limits).fetch,
    // We are a guest in the host's process: its Request and Response stay its own.
    overrideGlobalObjects: false,
    createServer: (options: http.ServerOptions, listener: RequestListener) =>
      createDoor(
        http.createServer({ ...options, IncomingMessage: GuestMessage }),
        bypass(listener),
        door,
      ),
    serverOptions: {
      // Bodies may take as long as they move: see `Guests.sweep`.
      requestTimeout: 0,
      headersTimeout: limits.headersMs,
      connectionsCheckingInterval: limits.checkEveryMs,
      keepAliveTimeout: limits.keepAliveMs,
      maxHeaderSize: limits.headerBytes,
      insecureHTTPParser: false,
      // `readHead` does: Node would answer, and read on.
      requireHostHeader: false,
      rejectNonStandardBodyWrites: true,
    },
  } as Parameters<typeof createAdaptorServer>[0]) as Server;
  // Of a process that was stopped for longer, the next call may be there already.
  server.on('timeout', (socket: Socket) => {
    const { bytesRead } = socket;
    setImmediate(() => {
      if (socket.bytesRead === bytesRead) socket.destroy();
    });
  });
  // Not by `unshift`: Node pauses a connection only where it flows, which is not so while that is read.
  const leaveToNode = (socket: Socket, bytes: Buffer): void => {
    server.emit('connection', socket);
    socket.emit('data', bytes);
    socket.resume();
  };
  const lane = new Lane({
    limits,
    monotonic: () => services.monotonic(),
    own: (connection, vmToken) =>
      services.leases.byVmToken(vmToken) !== undefined && guests.own(connection, vmToken),
    answer(connection, { route, jobId, vmToken }, incoming, outgoing) {
      if (!mayCall(connection, vmToken, incoming, outgoing, door)) return;
      void answerCall({ route, jobId, vmToken, incoming, outgoing }, checked);
    },
    leave: leaveToNode,
  });
  /** After everything that has arrived by then has been read. */
  const sweep = (): void => {
    guests.sweep();
    lane.sweep();
  };
  let listening: ListenTarget | null = null;
  let sweeping: NodeJS.Timeout | undefined;
  return {
    accept(target) {
      listening = target;
      // The host listens, not this server; Node starts its connection list and its time-outs by this.
      server.emit('listening');
      sweeping = setInterval(() => void setImmediate(sweep), limits.checkEveryMs).unref();
      target.accept((socket) => {
        const connection = guests.admit(socket);
        if (!socket.destroyed) lane.enter(socket, connection);
      });
    },
    end: (vmToken) => guests.end(vmToken),
    async close() {
      clearInterval(sweeping);
      await listening?.close();
      guests.close();
      server.close();
    },
  };
}
