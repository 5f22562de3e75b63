import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
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

it('downloads that share a connection to GitLab come byte for byte, in whatever pieces', async (t) => {
  const bodies = [
    { body: randomBytes(3_000_000), chunked: false },
    { body: randomBytes(200_000), chunked: true },
    { body: randomBytes(3_000_000), chunked: true },
    { body: randomBytes(10), chunked: false },
    { body: randomBytes(1_000_000), chunked: false },
  ];
  let connections = 0;
  const gitlab = await startServer(t, (request, response) => {
    const { body = Buffer.alloc(0), chunked = false } = bodies[Number(request.url?.slice(1))] ?? {};
    if (!chunked) response.setHeader('Content-Length', body.length);
    for (let at = 0; at < body.length; at += 70_001) response.write(body.subarray(at, at + 70_001));
    response.end();
  });
  gitlab.server.on('connection', () => {
    connections += 1;
  });
  const agent = new http.Agent({ keepAlive: true });
  t.after(() => agent.destroy());
  const proxy = await startServer(t, async (incoming, outgoing) => {
    const request = http.request(gitlab.url + incoming.url, { agent });
    const exchange = new StreamedExchange(request, incoming, outgoing);
    await exchange.send('none', 10_000);
    outgoing.flushHeaders();
    await exchange.relay();
  });
  for (const [index, { body }] of bodies.entries()) {
    const answer = await within('a download', fetch(`${proxy.url}/${index}`));
    const got = Buffer.from(await within('its body', answer.arrayBuffer()));
    assert.ok(got.equals(body), `the body of download ${index}`);
  }
  assert.equal(connections, 1);
});
