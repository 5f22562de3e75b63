import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import net, { type AddressInfo } from 'node:net';
import { it, type TestContext } from 'node:test';
import { eventually, standing, within } from '../../test/support/deadline.ts';
import { GuestMessage } from './guest-message.ts';

/** Sends a body in chunks of those sizes; resolves with the request that it arrives as, and its bytes. */
async function send(
  t: TestContext,
  sizes: readonly number[],
): Promise<{ incoming: http.IncomingMessage; body: Buffer }> {
  const server = http.createServer({ IncomingMessage: GuestMessage }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const sender = net.connect((server.address() as AddressInfo).port, '127.0.0.1');
  t.after(() => {
    sender.destroy();
    server.close();
  });
  const body = Buffer.from(
    Array.from({ length: sizes.reduce((a, b) => a + b, 0) }, (_, i) => i % 251),
  );
  let at = 0;
  const chunks = sizes.flatMap((size) => {
    const chunk = body.subarray(at, at + size);
    at += size;
    return [Buffer.from(`${size.toString(16)}\r\n`), chunk, Buffer.from('\r\n')];
  });
  const head = Buffer.from('POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n');
  sender.write(Buffer.concat([head, ...chunks, Buffer.from('0\r\n\r\n')]));
  const [incoming] = (await within('the request', once(server, 'request'))) as [
    http.IncomingMessage,
  ];
  return { incoming, body };
}

it('keeps small chunks that nobody reads yet together: each of them costs memory', async (t) => {
  const { incoming, body } = await send(
    t,
    Array.from({ length: 600 }, () => 100),
  );
  await eventually('all of it to wait', () => incoming.complete);
  const chunks: Buffer[] = [];
  incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
  await within('its end', once(incoming, 'end'));
  assert.deepEqual(Buffer.concat(chunks), body);
  assert.ok(chunks.length < 10, `${chunks.length} chunks`);
});

for (const [how, pauseEvery] of [
  ['at once', Number.POSITIVE_INFINITY],
  ['with pauses', 3],
  ['with a pause after each chunk', 1],
] as const) {
  it(`hands over a body of all sizes of chunks exactly, read ${how}`, async (t) => {
    const sizes = Array.from({ length: 3000 }, (_, i) => [1, 7, 1023, 1024, 1, 5000][i % 6] ?? 1);
    const { incoming, body } = await send(t, sizes);
    const chunks: Buffer[] = [];
    incoming.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      if (chunks.length % pauseEvery !== 0) return;
      incoming.pause();
      setImmediate(() => incoming.resume());
    });
    await within('its end', once(incoming, 'end'));
    assert.deepEqual(Buffer.concat(chunks), body);
  });
}

it('slows down who sends nothing but tiny chunks, and hands over all of them', async (t) => {
  const { incoming, body } = await send(
    t,
    Array.from({ length: 15_000 }, () => 1),
  );
  const chunks: Buffer[] = [];
  const ended = once(incoming, 'end');
  incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
  await eventually('its begin', () => chunks.length > 0);
  const begun = chunks.length;
  assert.ok(begun < 12_000, `${begun} chunks came at once`);
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(chunks.length, begun, 'it rests');
  await within('its end', ended, 20_000);
  assert.deepEqual(Buffer.concat(chunks), body);
});

it('stops reading from who sends more than is read', async (t) => {
  const { incoming } = await send(
    t,
    Array.from({ length: 20_000 }, () => 100),
  );
  const before = await standing('it to stand still', () => incoming.socket.bytesRead);
  // 64 KiB of body wait, and what was read with the last of them.
  assert.ok(before < 1024 * 1024, `${before} bytes were read`);
});

it('of requests before their turn, looks at no more than the first', async (t) => {
  let made = 0;
  class Counted extends GuestMessage {
    constructor(socket: net.Socket) {
      super(socket);
      made += 1;
    }
  }
  const server = http.createServer({ IncomingMessage: Counted }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const cut = once(server, 'upgrade');
  const sender = net.connect((server.address() as AddressInfo).port, '127.0.0.1');
  t.after(() => {
    sender.destroy();
    server.close();
  });
  sender.write('GET / HTTP/1.1\r\nHost:\r\n\r\n'.repeat(2000));
  const [, socket] = (await within('them to be cut off', cut)) as [unknown, net.Socket];
  assert.equal(made, 2);
  socket.destroy();
});
