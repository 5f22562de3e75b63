import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { it } from 'node:test';
import { eventually, within } from '../../test/support/deadline.ts';
import { startServer } from '../../test/support/http-server.ts';
import { Guests } from './guests.ts';
import { DEFAULT_LIMITS } from './limits.ts';

it('a guest that does not take the end of its answer is not waited for', async (t) => {
  let now = 0;
  const guests = new Guests(DEFAULT_LIMITS, () => now);
  let hasEnded = false;
  const { server, port } = await startServer(t, (incoming, outgoing) => {
    guests.of(incoming.socket)?.begin(incoming, outgoing);
    // More than both systems keep on the way.
    outgoing.end(Buffer.alloc(64 * 1024 * 1024));
    hasEnded = true;
  });
  server.on('connection', (socket) => void guests.admit(socket));
  const guest = net.connect(port, '127.0.0.1');
  t.after(() => guest.destroy());
  guest.on('error', () => undefined);
  guest.pause();
  const [connection] = await within('the connection', once(server, 'connection'));
  guest.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
  await eventually('the answer', () => hasEnded);
  guests.sweep();
  now = DEFAULT_LIMITS.idleMs - 1;
  guests.sweep();
  assert.ok(!connection.destroyed);
  now = DEFAULT_LIMITS.idleMs;
  guests.sweep();
  assert.ok(connection.destroyed);
});
