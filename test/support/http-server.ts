/** A real HTTP server on a free port of loopback, closed with its test. */

import http from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';

export interface TestServer {
  readonly server: http.Server;
  readonly port: number;
  readonly url: string;
}

export async function startServer(
  t: Pick<TestContext, 'after'>,
  listener: http.RequestListener,
  tls?: { readonly key: string; readonly cert: string },
): Promise<TestServer> {
  const server =
    tls === undefined ? http.createServer(listener) : https.createServer(tls, listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { server, port, url: `${tls === undefined ? 'http' : 'https'}://127.0.0.1:${port}` };
}

/** A request body whole. */
export async function bodyOf(request: http.IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
