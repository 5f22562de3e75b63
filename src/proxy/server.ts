/** The proxy's HTTP server on a socket that the host owns. */

import type { Server } from 'node:http';
import { createAdaptorServer } from '@hono/node-server';
import type { ListenTarget } from '../contract/index.ts';
import { createProxyApp } from './app.ts';
import type { ProxyServices } from './services.ts';

/** A guest's connection may idle as long as the official runner keeps it: 90 s, and a little more. */
const KEEP_ALIVE_MS = 95_000;

/** Time for a request's headers; bodies may take as long as they move. */
const HEADERS_TIMEOUT_MS = 30_000;

/** The largest headers that a runner sends have a few hundred bytes. */
const MAX_HEADER_BYTES = 16 * 1024;

export interface ProxyServer {
  /** Begins to answer; connections that already wait come first. */
  accept(target: ListenTarget): void;
  /** Closes every connection without an answer: a 403 now would end a job that lives on. */
  close(): Promise<void>;
}

export function createProxyServer(services: ProxyServices): ProxyServer {
  const app = createProxyApp(services);
  const server = createAdaptorServer({
    fetch: app.fetch,
    // We are a guest in the host's process: its Request and Response stay its own.
    overrideGlobalObjects: false,
    serverOptions: {
      requestTimeout: 0,
      headersTimeout: HEADERS_TIMEOUT_MS,
      keepAliveTimeout: KEEP_ALIVE_MS,
      maxHeaderSize: MAX_HEADER_BYTES,
    },
  }) as Server;
  let listening: ListenTarget | null = null;
  return {
    accept(target) {
      listening = target;
      // The host listens, not this server; Node starts its connection list and its time-outs by this.
      server.emit('listening');
      target.accept((socket) => {
        server.emit('connection', socket);
        socket.resume();
      });
    },
    async close() {
      await listening?.close();
      server.closeAllConnections();
      server.close();
    },
  };
}
