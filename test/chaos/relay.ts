/** The network between a host and GitLab: bytes go through, or fare as the network does at the moment. */

import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from '../support/deadline.ts';

export type Weather =
  | { readonly kind: 'open' }
  /** Nobody listens. */
  | { readonly kind: 'refuse' }
  /** Connections stand, nothing comes through. */
  | { readonly kind: 'hang' }
  /** Each connection is cut once so many bytes have gone through, either way. */
  | { readonly kind: 'cut'; readonly afterBytes: number }
  | { readonly kind: 'slow'; readonly latencyMs: number; readonly bytesPerSecond: number };

export interface Relay {
  readonly port: number;
  /** Connections of the host that stand. */
  readonly connections: number;
  set(weather: Weather): Promise<void>;
  close(): Promise<void>;
}

export async function startRelay(port: number, upstreamPort: number): Promise<Relay> {
  const sockets = new Set<net.Socket>();
  let weather: Weather = { kind: 'open' };
  let changed = Promise.withResolvers<void>();
  let connections = 0;

  /** True once the bytes may go on; false: the connection is to be cut. */
  const pass = async (bytes: number, passed: { bytes: number }): Promise<boolean> => {
    while (weather.kind === 'hang') await changed.promise;
    if (weather.kind === 'slow') {
      await sleep(weather.latencyMs + (bytes * 1000) / weather.bytesPerSecond);
    }
    passed.bytes += bytes;
    return weather.kind !== 'cut' || passed.bytes < weather.afterBytes;
  };

  const server = net.createServer({ allowHalfOpen: true }, (near) => {
    const far = net.connect({ port: upstreamPort, host: '127.0.0.1', allowHalfOpen: true });
    const passed = { bytes: 0 };
    connections += 1;
    near.once('close', () => {
      connections -= 1;
    });
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from);
      const cut = (): void => {
        near.destroy();
        far.destroy();
      };
      from.on('error', cut);
      from.once('close', () => {
        sockets.delete(from);
        cut();
      });
      void pump(from, to, (bytes) => pass(bytes, passed)).catch(cut);
    }
  });
  const listen = (): Promise<void> =>
    new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, '127.0.0.1', () => {
        server.off('error', reject);
        resolve();
      });
    });
  const shut = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve());
      for (const socket of sockets) socket.destroy();
    });

  await listen();
  return {
    port,
    get connections() {
      return connections;
    },
    async set(next) {
      const before = weather;
      weather = next;
      changed.resolve();
      changed = Promise.withResolvers();
      if (next.kind === 'refuse') await shut();
      else if (before.kind === 'refuse') {
        // A connection of somebody else may have the port for a moment.
        await eventually(`port ${port} to be free`, () =>
          listen().then(
            () => true,
            () => false,
          ),
        );
      }
    },
    async close() {
      weather = { kind: 'open' };
      changed.resolve();
      await shut();
    },
  };
}

/** One chunk after the other, so that neither order nor back-pressure is lost. */
async function pump(
  from: net.Socket,
  to: net.Socket,
  pass: (bytes: number) => Promise<boolean>,
): Promise<void> {
  for await (const chunk of from as AsyncIterable<Buffer>) {
    const goesOn = await pass(chunk.length);
    if (to.destroyed) return;
    if (!to.write(chunk)) {
      await new Promise((resolve) => {
        to.once('drain', resolve);
        to.once('close', resolve);
      });
    }
    if (!goesOn) throw new Error('cut');
  }
  // An end takes as long as what was before it.
  if (await pass(0)) to.end();
}
