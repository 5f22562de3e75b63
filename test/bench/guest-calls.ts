/** Guests call when they are up: that moment is what boots are measured by. */

import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';

export const CALL_LIMIT_MS = 300_000;

export interface Calls {
  readonly port: number;
  /** When the guest of that name calls: wall clock, ms. */
  next(name: string): Promise<number>;
  close(): void;
}

/** A guest calls `GET /<its name>`. */
export async function listenForCalls(): Promise<Calls> {
  const waiting = new Map<string, (at: number) => void>();
  const server = http.createServer((request, response) => {
    waiting.get((request.url ?? '').slice(1))?.(Date.now());
    response.end();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    next: (name) =>
      new Promise((resolve, reject) => {
        const late = setTimeout(
          () => reject(new Error(`${name} did not call within ${CALL_LIMIT_MS / 1000} s`)),
          CALL_LIMIT_MS,
        );
        waiting.set(name, (at) => {
          clearTimeout(late);
          resolve(at);
        });
      }),
    close: () => void server.close(),
  };
}
