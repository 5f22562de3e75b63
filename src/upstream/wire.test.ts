/** Small calls to GitLab: what answers are understood, and what becomes of the connection. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net, { type AddressInfo, type Socket } from 'node:net';
import path from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { within } from '../../test/support/deadline.ts';
import { bodyOf, startServer } from '../../test/support/http-server.ts';
import { isForrestGitlabError } from '../errors.ts';
import { systemClock } from '../lib/clock.ts';
import { createUpstream, type SmallCall, type Upstream, type UpstreamOptions } from './index.ts';

const LIMIT_MS = 10_000;

function upstreamTo(t: TestContext, url: string, options: Partial<UpstreamOptions> = {}): Upstream {
  const upstream = createUpstream({
    url,
    proxyEnv: {},
    connectTimeoutMs: LIMIT_MS,
    clock: systemClock,
    ...options,
  });
  t.after(() => upstream.close());
  return upstream;
}

const CALL: SmallCall = {
  method: 'PATCH',
  path: '/api/v4/jobs/1/trace',
  headers: { 'content-type': 'text/plain', 'content-length': '5' },
  body: Buffer.from('hello'),
  answerTimeoutMs: LIMIT_MS,
  stallMs: LIMIT_MS,
};

interface RawGitlab {
  readonly upstream: Upstream;
  /** Of each connection, what it has sent so far. */
  readonly heard: string[];
  readonly sockets: Socket[];
}

/** Answers every call, told by the end of its body, with these bytes; `null`: closes instead. */
async function startRaw(
  t: TestContext,
  answers: readonly (string | Buffer | null)[],
  options: Partial<UpstreamOptions> = {},
): Promise<RawGitlab> {
  const heard: string[] = [];
  const sockets: Socket[] = [];
  let calls = 0;
  const server = net.createServer((socket) => {
    const connection = sockets.push(socket) - 1;
    heard[connection] = '';
    socket.on('error', () => undefined);
    socket.on('data', (data) => {
      heard[connection] += data.toString('latin1');
      if (!data.toString('latin1').endsWith('hello')) return;
      const answer = answers[Math.min(calls++, answers.length - 1)] ?? null;
      if (answer === null) socket.destroy();
      else socket.write(answer);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { upstream: upstreamTo(t, `http://127.0.0.1:${port}/gitlab`, options), heard, sockets };
}

const answerOf = (upstream: Upstream, call: Partial<SmallCall> = {}) =>
  within('the answer', upstream.call({ ...CALL, ...call }).answer, LIMIT_MS);

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nJob-Status: running\r\n\r\nok';

describe('small calls to GitLab', () => {
  it('are sent whole, below its path, with one length', async (t) => {
    const { upstream, heard } = await startRaw(t, [OK]);
    await answerOf(upstream);
    const { port } = new URL(upstream.url);
    assert.equal(
      heard[0],
      `PATCH /gitlab/api/v4/jobs/1/trace HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\ncontent-type: text/plain\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello`,
    );
  });

  it('share a connection where they follow each other, and have one each where they do not', async (t) => {
    const { upstream, sockets } = await startRaw(t, [OK]);
    for (let call = 0; call < 5; call += 1) await answerOf(upstream);
    assert.equal(sockets.length, 1);
    await Promise.all([answerOf(upstream), answerOf(upstream), answerOf(upstream)]);
    assert.equal(sockets.length, 3);
    await answerOf(upstream, { fresh: true });
    assert.equal(sockets.length, 4);
  });

  it('never carry a second header in a value', async (t) => {
    const { upstream, heard } = await startRaw(t, [OK]);
    for (const value of ['a\r\nJOB-TOKEN: other', 'a\nb', 'a\u0000b', 'a\u0100b']) {
      assert.throws(() => upstream.call({ ...CALL, headers: { accept: value } }), TypeError);
    }
    assert.deepEqual(heard, []);
  });
});

describe('an answer to a small call', () => {
  const cases: readonly (readonly [string, string, number, string])[] = [
    ['with a length', OK, 200, 'ok'],
    ['without a body', 'HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n', 204, ''],
    ['of length 0', 'HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n', 202, ''],
    [
      'in chunks, with extensions and trailers',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1;x="y"\r\no\r\n01\r\nk\r\n0\r\nA: b\r\n\r\n',
      200,
      'ok',
    ],
    [
      'after others that only announce it',
      `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n${OK}`,
      200,
      'ok',
    ],
    ['of length 00', 'HTTP/1.1 409 Conflict\r\nContent-Length: 00\r\n\r\n', 409, ''],
    [
      'in chunks whose sizes are filled up with zeros',
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${'2'.padStart(16, '0')}\r\nok\r\n000\r\n\r\n`,
      200,
      'ok',
    ],
    ['behind an empty line', `\r\n${OK}`, 200, 'ok'],
    ['without words', 'HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok', 200, 'ok'],
  ];
  for (const [what, bytes, status, body] of cases) {
    it(`${what}, in one piece and byte by byte`, async (t) => {
      const { upstream, sockets } = await startRaw(t, [bytes, '']);
      const whole = await answerOf(upstream);
      assert.deepEqual(
        [whole.statusCode, whole.body.toString(), whole.isWhole],
        [status, body, true],
      );
      const slow = answerOf(upstream);
      await within('the second call', once(sockets[0] as Socket, 'data'), LIMIT_MS);
      for (const byte of Buffer.from(bytes)) {
        sockets[0]?.write(Buffer.of(byte));
        await new Promise((resolve) => setImmediate(resolve));
      }
      const dripped = await slow;
      assert.deepEqual(
        [dripped.statusCode, dripped.body.toString(), dripped.isWhole],
        [status, body, true],
      );
      assert.equal(sockets.length, 1, 'the connection was kept');
    });
  }

  it('keeps its headers as they came', async (t) => {
    const { upstream } = await startRaw(t, [
      'HTTP/1.1 202 Fine By Me\r\nX-A: 1\r\nx-a:2\r\nEmpty: \t\r\nBlanks:\t a \t b\xa0 \r\nContent-Length: 0\r\n\r\n',
    ]);
    const { statusMessage, rawHeaders, headers } = await answerOf(upstream);
    assert.equal(statusMessage, 'Fine By Me');
    assert.deepEqual(
      rawHeaders.join('|'),
      'X-A|1|x-a|2|Empty||Blanks|a \t b\xc2\xa0|Content-Length|0',
    );
    assert.equal(headers['x-a'], '1, 2');
  });

  for (const [what, bytes] of [
    ['that ends with its connection', 'HTTP/1.1 200 OK\r\n\r\nok'],
    ['of HTTP/1.0', 'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok'],
    ['that closes', 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok'],
    ['with something behind it', `${OK}HTTP/1.1 200 OK\r\n\r\n`],
  ] as const) {
    it(`${what}: the next call has another connection`, async (t) => {
      const { upstream, sockets } = await startRaw(t, [bytes, OK]);
      const first = answerOf(upstream);
      await within('the call', once(await socketOf(sockets), 'data'), LIMIT_MS);
      sockets[0]?.end();
      const { body, isWhole } = await first;
      assert.deepEqual([body.toString(), isWhole], ['ok', true]);
      await answerOf(upstream);
      assert.equal(sockets.length, 2);
    });
  }

  for (const [what, bytes] of [
    ['within a length', 'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok'],
    ['within a chunk', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok'],
    ['between chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n'],
  ] as const) {
    it(`cut off ${what}: its status counts, and what came of it`, async (t) => {
      const { upstream, sockets } = await startRaw(t, [bytes]);
      const cut = answerOf(upstream);
      await within('the call', once(await socketOf(sockets), 'data'), LIMIT_MS);
      sockets[0]?.end();
      const { statusCode, body, isWhole } = await cut;
      assert.deepEqual([statusCode, body.toString(), isWhole], [200, 'ok', false]);
    });
  }

  it('that goes on for ever is cut off', async (t) => {
    const endless = `HTTP/1.1 500 Oh\r\nContent-Length: 99999999\r\n\r\n${'x'.repeat(200_000)}`;
    const { upstream } = await startRaw(t, [endless]);
    const { statusCode, body, isWhole } = await answerOf(upstream);
    assert.equal(statusCode, 500);
    assert.equal(isWhole, false);
    assert.ok(body.length <= 64 * 1024, String(body.length));
  });

  it('longer than what is kept of one is not whole, though it has come to its end', async (t) => {
    const { upstream, sockets } = await startRaw(t, [
      `HTTP/1.1 400 Oh\r\nContent-Length: 70000\r\n\r\n${'x'.repeat(50_000)}`,
    ]);
    const long = answerOf(upstream);
    await within('the call', once(await socketOf(sockets), 'data'), LIMIT_MS);
    // Time for the beginning to be read alone: the end then comes in one piece.
    await new Promise((resolve) => setTimeout(resolve, 50));
    sockets[0]?.write('x'.repeat(20_000));
    const { body, isWhole } = await long;
    assert.ok(body.length < 70_000, String(body.length));
    assert.equal(isWhole, false);
  });

  for (const bytes of [
    'SSH-2.0-OpenSSH_9.2\r\n\r\n',
    'HTTP/2 200\r\n\r\n',
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n',
    'HTTP/1.1 200 OK\r\nA B: c\r\n\r\n',
    'HTTP/1.1 200 OK\r\nA: b\r\n folded: c\r\n\r\n',
    'HTTP/1.1 200 OK\r\nA: b\u0000\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok',
    'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok',
    'HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok',
    'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
    `HTTP/1.1 200 OK\r\nA: ${'x'.repeat(70_000)}`,
  ]) {
    it(`refuses ${JSON.stringify(bytes.slice(0, 70))}`, async (t) => {
      const { upstream } = await startRaw(t, [bytes]);
      await assert.rejects(answerOf(upstream), /no HTTP/);
    });
  }

  it('with chunks that are none is as good as cut off', async (t) => {
    for (const chunks of ['zz\r\nok\r\n', '2\r\nokX\r\n', `${'1'.repeat(300)}`]) {
      const { upstream } = await startRaw(t, [
        `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}`,
      ]);
      assert.equal((await answerOf(upstream)).isWhole, false, chunks);
    }
  });
});

describe('where no answer comes', () => {
  it('says that GitLab has closed the connection', async (t) => {
    const { upstream } = await startRaw(t, [null]);
    await assert.rejects(answerOf(upstream));
  });

  it('gives up after its time', async (t) => {
    const { upstream } = await startRaw(t, ['']);
    await assert.rejects(answerOf(upstream, { answerTimeoutMs: 100 }), (error) => {
      assert.ok(isForrestGitlabError(error));
      assert.equal(error.code, 'upstream_timeout');
      assert.match(error.message, /did not answer within 0\.1 s/);
      return true;
    });
  });

  it('gives up an answer that stops half way', async (t) => {
    const { upstream } = await startRaw(t, ['HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok']);
    const { statusCode, isWhole } = await answerOf(upstream, { stallMs: 100 });
    assert.deepEqual([statusCode, isWhole], [200, false]);
  });

  it('is told of a connection that is refused', async (t) => {
    const upstream = upstreamTo(t, 'http://127.0.0.1:1');
    await assert.rejects(answerOf(upstream), /ECONNREFUSED/);
  });

  it('closes its connection when nobody waits any more', async (t) => {
    const { upstream, sockets } = await startRaw(t, ['']);
    const call = upstream.call(CALL);
    call.answer.catch(() => undefined);
    const socket = await socketOf(sockets);
    await within('the call', once(socket, 'data'), LIMIT_MS);
    call.abort();
    await within('the connection to be closed', once(socket, 'close'), LIMIT_MS);
  });
});

describe('idle connections', () => {
  it('are closed when GitLab says something that nobody has asked for', async (t) => {
    const { upstream, sockets } = await startRaw(t, [OK]);
    await answerOf(upstream);
    const socket = sockets[0] as Socket;
    socket.write(OK);
    await within('the connection to be closed', once(socket, 'close'), LIMIT_MS);
    assert.equal((await answerOf(upstream)).isWhole, true);
    assert.equal(sockets.length, 2);
  });

  it('are not used when they have been idle for long', async (t) => {
    let laterMs = 0;
    const clock = { ...systemClock, monotonic: () => systemClock.monotonic() + laterMs };
    const { upstream, sockets } = await startRaw(t, [OK], { clock });
    await answerOf(upstream);
    laterMs = 51_000;
    await answerOf(upstream);
    assert.equal(sockets.length, 2);
  });

  it('are not used for longer than GitLab says that it keeps them', async (t) => {
    let laterMs = 0;
    const clock = { ...systemClock, monotonic: () => systemClock.monotonic() + laterMs };
    const answer = OK.replace('Job-Status', 'Keep-Alive: max=9, timeout=20\r\nJob-Status');
    const { upstream, sockets } = await startRaw(t, [answer], { clock });
    await answerOf(upstream);
    laterMs = 10_000;
    await answerOf(upstream);
    assert.equal(sockets.length, 1);
    laterMs += 20_000;
    await answerOf(upstream);
    assert.equal(sockets.length, 2);
  });
});

describe('on other ways', () => {
  it('has all the time that a large body takes to be sent', async (t) => {
    const body = Buffer.alloc(32 * 1024 * 1024);
    const server = net.createServer((socket) => {
      let missing = body.length;
      socket.on('error', () => undefined);
      socket.on('data', (data: Buffer) => {
        missing -= data.length;
        // A little more than the body has come, with the head.
        if (missing <= 0) socket.end('HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n');
      });
      // A line that takes nothing for a while.
      socket.pause();
      setTimeout(() => socket.resume(), 2000);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => server.close());
    const upstream = upstreamTo(t, `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    assert.equal((await answerOf(upstream, { body, answerTimeoutMs: 1000 })).statusCode, 202);
  });

  const tlsDir = path.join(import.meta.dirname, '../../test/support/tls');
  const read = (name: string): string => readFileSync(path.join(tlsDir, name), 'utf8');

  it('goes over TLS, and trusts the CA that it is told to trust alone', async (t) => {
    const { url } = await startServer(
      t,
      async (request, response) => void response.end(await bodyOf(request)),
      { cert: read('server.pem'), key: read('server.key') },
    );
    const trusting = upstreamTo(t, url, { ca: read('ca.pem') });
    for (let call = 0; call < 2; call += 1) {
      assert.equal((await answerOf(trusting)).body.toString(), 'hello');
    }
    await assert.rejects(answerOf(upstreamTo(t, url)), /certificate/);
  });

  for (const env of ['http_proxy', 'HTTP_PROXY'])
    it(`goes through an HTTP proxy where ${env} names one`, async (t) => {
      const { port } = await startServer(t, async (request, response) => {
        response.writeHead(202, { 'X-Seen': request.url ?? '' }).end(await bodyOf(request));
      });
      const upstream = upstreamTo(t, 'http://gitlab.example', {
        proxyEnv: { http_proxy: '', HTTP_PROXY: '', [env]: `http://127.0.0.1:${port}` },
      });
      const { statusCode, headers, body, isWhole } = await answerOf(upstream);
      assert.deepEqual([statusCode, body.toString(), isWhole], [202, 'hello', true]);
      assert.equal(headers['x-seen'], 'http://gitlab.example/api/v4/jobs/1/trace');
    });
});

async function socketOf(sockets: readonly Socket[]): Promise<Socket> {
  const until = Date.now() + LIMIT_MS;
  while (sockets[0] === undefined && Date.now() < until) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  const [socket] = sockets;
  assert.ok(socket, 'a connection');
  return socket;
}
