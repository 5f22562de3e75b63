/** Sends one case's bytes in one of many ways, and looks at what comes back. */

import net from 'node:net';
import type { Chance } from './random.ts';

/** An answer that is slower is not waited for: the case is over. */
const PATIENCE_MS = 1000;

/** Resolves with all that came back, once either side has closed. Never rejects. */
export function shoot(port: number, bytes: Buffer, chance: Chance): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
  const got: Buffer[] = [];
  const patience = setTimeout(() => socket.destroy(), PATIENCE_MS);
  socket.on('data', (chunk: Buffer) => {
    got.push(chunk);
    // What keeps the connection open has said all that it has to say.
    socket.end();
  });
  socket.on('error', () => undefined);
  socket.once('close', () => {
    clearTimeout(patience);
    resolve(Buffer.concat(got).toString('latin1'));
  });
  const pieces = chance.is(0.5) ? 1 : 1 + chance.below(8);
  const size = Math.max(1, Math.ceil(bytes.length / pieces));
  const leavesAfter = chance.is(0.1) ? chance.below(pieces) : pieces;
  const sendFrom = (at: number, piece: number): void => {
    if (socket.destroyed) return;
    if (piece > leavesAfter) {
      if (chance.is(0.5)) socket.resetAndDestroy();
      else socket.destroy();
    } else if (at < bytes.length) {
      socket.write(bytes.subarray(at, at + size));
      setImmediate(() => sendFrom(at + size, piece + 1));
    } else if (chance.is(0.2)) socket.end();
  };
  socket.once('connect', () => sendFrom(0, 0));
  return promise;
}
