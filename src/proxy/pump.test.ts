import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import net, { type AddressInfo, type Socket } from 'node:net';
import { it } from 'node:test';
import { standing } from '../../test/support/deadline.ts';
import { startServer } from '../../test/support/http-server.ts';
import { Pump } from './pump.ts';

it('waits for a slow receiver, however small the chunks are: each of them costs memory', async (t) => {
  const receiver = net.createServer((socket) => void socket.pause()).listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  t.after(() => receiver.close());
  const target = { port: (receiver.address() as AddressInfo).port, method: 'POST' };
  let passed = 0;
  const { port } = await startServer(t, async (incoming) => {
    const request = http.request({ ...target, agent: false });
    request.on('error', () => undefined);
    t.after(() => request.destroy());
    request.flushHeaders();
    const [socket] = (await once(request, 'socket')) as [Socket];
    await once(socket, 'connect');
    // More than both systems keep on the way: whatever follows waits here.
    socket.write(Buffer.alloc(64 * 1024 * 1024));
    new Pump(incoming, request, (count) => {
      passed += count;
    });
  });
  const sender = net.connect(port, '127.0.0.1');
  t.after(() => sender.destroy());
  sender.on('error', () => undefined);
  sender.write('POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n');
  sender.write('1\r\nx\r\n'.repeat(1_000_000));
  await standing('it to stand still', () => passed);
  assert.ok(passed <= 1024, `${passed} chunks wait`);
});
