import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import net, { type AddressInfo, type Socket } from 'node:net';
import { it } from 'node:test';
import { within } from '../../test/support/deadline.ts';
import { startServer } from '../../test/support/http-server.ts';
import { type Reply, StreamedExchange } from './forward.ts';

it('an upload whose last bytes GitLab does not take is given up', async (t) => {
  const gitlab = net.createServer((socket) => void socket.pause()).listen(0, '127.0.0.1');
  await once(gitlab, 'listening');
  t.after(() => gitlab.close());
  const target = { port: (gitlab.address() as AddressInfo).port, method: 'POST' };
  const replied = Promise.withResolvers<Reply>();
  const { url } = await startServer(t, async (incoming, outgoing) => {
    const request = http.request({ ...target, agent: false });
    t.after(() => request.destroy());
    const exchange = new StreamedExchange(request, incoming, outgoing);
    // More than both systems keep on the way: the body waits here.
    request.once('socket', (socket: Socket) => {
      socket.once('connect', () => socket.write(Buffer.alloc(64 * 1024 * 1024)));
    });
    replied.resolve(await exchange.send('streamed', 300));
  });
  const upload = http.request(url, { method: 'POST', agent: false });
  t.after(() => upload.destroy());
  upload.on('error', () => undefined);
  upload.end('the end of a body');
  const { error } = await within('the reply', replied.promise);
  assert.match(String(error), /GitLab took and sent nothing for 0\.3 s/);
});
