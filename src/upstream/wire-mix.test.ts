/** Whatever GitLab and guests do to connections: a call has its own answer, or none. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net, { type AddressInfo, type Socket } from 'node:net';
import { it } from 'node:test';
import { eventually, within } from '../../test/support/deadline.ts';
import { createRandom } from '../../test/support/random.ts';
import { systemClock } from '../lib/clock.ts';
import { createUpstream } from './index.ts';

const CALLERS = 16;
const CALLS = 40;

const random = createRandom(6);
const below = (limit: number): number => Math.floor(random() * limit);

const ENDS = ['closes', 'resets', 'hangs', 'cuts off', 'says more', 'closes after it', 'is slow'];

/** Repeats what it was sent, in one of many ways, or does not. */
function answer(socket: Socket, said: string): void {
  const body = said.padEnd(20 + below(100), '.');
  const cut = 1 + below(body.length - 1);
  const announced = below(4) === 0 ? 'HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n' : '';
  const inChunks = `Transfer-Encoding: chunked\r\n\r\n${cut.toString(16)}\r\n${body.slice(0, cut)}\r\n${(body.length - cut).toString(16)}\r\n${body.slice(cut)}\r\n0\r\n\r\n`;
  const framed = below(2) === 0 ? `Content-Length: ${body.length}\r\n\r\n${body}` : inChunks;
  const bytes = `${announced}HTTP/1.1 200 OK\r\n${framed}`;
  // Half of them nothing happens to.
  switch (ENDS[below(2 * ENDS.length)]) {
    case 'closes':
      socket.end();
      break;
    case 'resets':
      socket.resetAndDestroy();
      break;
    case 'hangs':
      break;
    case 'cuts off':
      socket.end(bytes.slice(0, below(bytes.length)));
      break;
    case 'says more':
      socket.write(`${bytes}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong`);
      break;
    case 'closes after it':
      socket.end(bytes);
      break;
    case 'is slow':
      setTimeout(() => {
        socket.write(bytes.slice(0, cut));
        setImmediate(() => socket.write(bytes.slice(cut)));
      }, below(250));
      break;
    default:
      socket.write(bytes);
  }
}

it('a call has its own answer or none, and no connection is left over', async (t) => {
  const open = new Set<Socket>();
  const server = net.createServer((socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
    socket.on('error', () => undefined);
    socket.on('data', (data) => {
      const said = /\r\n\r\n(.+;)$/.exec(data.toString('latin1'))?.[1];
      if (said !== undefined) answer(socket, said);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const upstream = createUpstream({
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    proxyEnv: {},
    connectTimeoutMs: 10_000,
    clock: systemClock,
  });
  t.after(() => upstream.close());
  let answered = 0;
  const caller = async (name: number): Promise<void> => {
    for (let number = 0; number < CALLS; number += 1) {
      const said = `call ${name}.${number};`;
      const call = upstream.call({
        method: 'PUT',
        path: '/',
        headers: {},
        body: Buffer.from(said),
        answerTimeoutMs: 100 + below(100),
        stallMs: 100 + below(100),
        fresh: below(10) === 0,
      });
      // Some guests go away: at once, a little later, or when all is over.
      if (below(4) === 0) setTimeout(() => call.abort(), below(40));
      if (below(8) === 0) setImmediate(() => call.abort());
      const got = await call.answer.catch(() => null);
      if (got === null) continue;
      const text = got.body.toString();
      const own = text.slice(0, said.length);
      assert.equal(own, said.slice(0, got.isWhole ? said.length : own.length));
      if (got.isWhole) answered += 1;
    }
  };
  const callers = Array.from({ length: CALLERS }, (_, name) => caller(name));
  await within('all calls', Promise.all(callers), 50_000);
  assert.ok(answered > CALLS, `${answered} answered`);
  upstream.close();
  await eventually('all connections to be closed', () => open.size === 0);
});
