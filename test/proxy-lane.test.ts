/**
 * The lane of the small calls: a log or an update in a runner's usual form goes by Node's HTTP server, and
 * nobody can tell. Each request here goes both ways: `Connection: keep-alive`, which no runner sends, is
 * what leads it to Node's server.
 */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { suite, type TestContext, test } from 'node:test';
import type { SimJob } from '../fixtures/gitlab/index.ts';
import { eventually, within } from './support/deadline.ts';
import { connect, exchange, head, readToEnd } from './support/raw.ts';
import { startTestHost } from './support/test-host/index.ts';
import { startVictims, type Victims } from './support/victims.ts';

const BY_NODE = 'Connection: keep-alive';

function patch({ api, job }: Victims, offset: number, text: string, ...more: string[]): string {
  const call = head(
    `PATCH ${api}/jobs/${job.id}/trace HTTP/1.1`,
    `JOB-TOKEN: ${job.token}`,
    'Content-Type: text/plain',
    `Content-Range: ${offset}-${offset + text.length - 1}`,
    `Content-Length: ${text.length}`,
    ...more,
  );
  return call + text;
}

function update({ api, job }: Victims, ...more: string[]): string {
  const body = JSON.stringify({ token: job.token, state: 'running' });
  return (
    head(
      `PUT ${api}/jobs/${job.id} HTTP/1.1`,
      'Content-Type: application/json',
      `Content-Length: ${body.length}`,
      ...more,
    ) + body
  );
}

/** Reads answers one by one. */
function answersOf(socket: Socket): () => Promise<string> {
  let text = '';
  socket.on('data', (data: Buffer) => {
    text += data.toString('latin1');
  });
  const whole = (): string | false => {
    const end = text.indexOf('\r\n\r\n');
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(text)?.[1] ?? 0);
    if (end < 0 || text.length < end + 4 + length) return false;
    const answer = text.slice(0, end + 4 + length);
    text = text.slice(answer.length);
    return answer;
  };
  return () => eventually('an answer', whole);
}

function statusOf(answer: string): number {
  return Number(answer.slice(9, 12));
}

/** Both ways' answers, without how the connection goes on and what time makes of them. */
async function bothWays(
  t: TestContext,
  { port }: Victims,
  request: (...more: string[]) => string,
): Promise<[string, string]> {
  const ask = async (...more: string[]): Promise<string> => {
    const socket = await connect(t, port);
    const next = answersOf(socket);
    socket.write(request(...more), 'latin1');
    const answer = await next();
    socket.destroy();
    return answer
      .replace(/^(?:Connection|Keep-Alive): .*\r\n/gim, '')
      .replace(/^Date: .*$/im, 'Date')
      .replace(/^X-Request-Id: .*$/im, 'X-Request-Id')
      .replace(/^X-Runtime: .*$/im, 'X-Runtime');
  };
  return [await ask(), await ask(BY_NODE)];
}

suite('the same answers either way', { concurrency: 4 }, () => {
  test('an update, a log, and a log that GitLab refuses', async (t) => {
    const victims = await startVictims(t);
    const [lane, node] = await bothWays(t, victims, (...more) => update(victims, ...more));
    assert.match(lane, /^HTTP\/1\.1 200 OK\r\n/);
    assert.equal(lane, node);
    const refused = await bothWays(t, victims, (...more) => patch(victims, 7, 'gap', ...more));
    assert.match(refused[0], /^HTTP\/1\.1 416 [\s\S]*\r\nrange: 0-0\r\n/i);
    assert.equal(refused[0], refused[1]);
    const socket = await connect(t, victims.port);
    const next = answersOf(socket);
    socket.write(patch(victims, 0, 'one\n'));
    assert.equal(statusOf(await next()), 202);
    socket.write(patch(victims, 4, 'two\n', BY_NODE));
    assert.equal(statusOf(await next()), 202);
    assert.equal(victims.job.log.toString(), 'one\ntwo\n');
  });

  const foreign: readonly (readonly [string, (victims: Victims) => [SimJob, ...string[]]])[] = [
    ['another machine’s job token', ({ job, other }) => [job, `JOB-TOKEN: ${other.job.token}`]],
    ['another machine’s job', ({ job, other }) => [other.job, `JOB-TOKEN: ${job.token}`]],
    ['no token at all', ({ job }) => [job]],
    [
      'a token too many',
      ({ job, other }) => [job, `JOB-TOKEN: ${job.token}`, `PRIVATE-TOKEN: ${other.job.token}`],
    ],
  ];
  for (const [what, of] of foreign) {
    test(`${what}: refused, and nothing reaches GitLab`, async (t) => {
      const victims = await startVictims(t);
      const { api } = victims;
      const [job, ...tokens] = of(victims);
      const answers = await bothWays(
        t,
        victims,
        (...more) =>
          `${head(
            `PATCH ${api}/jobs/${job.id}/trace HTTP/1.1`,
            ...tokens,
            'Content-Type: text/plain',
            'Content-Range: 0-2',
            'Content-Length: 3',
            ...more,
          )}abc`,
      );
      assert.match(answers[0], /^HTTP\/1\.1 403 Forbidden\r\n/);
      assert.equal(answers[0], answers[1]);
      victims.assertUntouched(what);
    });
  }

  test('what is no lane’s is refused as ever: strangers, two lengths, lines that are none', async (t) => {
    const victims = await startVictims(t);
    const { port, api, job } = victims;
    const token = `JOB-TOKEN: ${job.token}`;
    const type = 'Content-Type: text/plain';
    const trace = `jobs/${job.id}/trace`;
    const rows: readonly (readonly [string, string, readonly number[]])[] = [
      [
        'a stranger',
        head(`PATCH /nobody/api/v4/${trace} HTTP/1.1`, type, 'Content-Length: 3'),
        [403],
      ],
      [
        'two lengths',
        head(
          `PATCH ${api}/${trace} HTTP/1.1`,
          token,
          type,
          'Content-Length: 3',
          'Content-Length: 30',
        ),
        [400],
      ],
      [
        'a length and chunks',
        head(
          `PATCH ${api}/${trace} HTTP/1.1`,
          token,
          type,
          'Content-Length: 3',
          'Transfer-Encoding: chunked',
        ),
        [400],
      ],
      [
        'a length with a sign',
        head(`PATCH ${api}/${trace} HTTP/1.1`, token, type, 'Content-Length: +3'),
        [400],
      ],
      [
        'two tokens',
        head(`PATCH ${api}/${trace} HTTP/1.1`, token, token, type, 'Content-Length: 3'),
        [400],
      ],
      [
        'compressed',
        head(
          `PATCH ${api}/${trace} HTTP/1.1`,
          token,
          'Content-Encoding: gzip',
          'Content-Length: 3',
        ),
        [415],
      ],
      [
        'lines without returns',
        `PATCH ${api}/${trace} HTTP/1.1\nHost: x\nContent-Length: 0\n\n`,
        [400],
      ],
      [
        'a line folded',
        `PATCH ${api}/${trace} HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n`,
        [400],
      ],
      [
        'an old version',
        `PATCH ${api}/${trace} HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n`,
        [505],
      ],
      ['no host', `PATCH ${api}/${trace} HTTP/1.1\r\nContent-Length: 0\r\n\r\n`, [400]],
    ];
    for (const [what, request, statuses] of rows) {
      assert.deepEqual((await exchange(t, port, request)).statuses, statuses, what);
      victims.assertUntouched(what);
    }
  });
});

suite('how the bytes come', { concurrency: 4 }, () => {
  test('in two parts, wherever they are cut', async (t) => {
    const victims = await startVictims(t);
    const socket = await connect(t, victims.port);
    const next = answersOf(socket);
    const size = patch(victims, 0, 'abc').length;
    let offset = 0;
    for (let cut = 1; cut < size; cut += 11) {
      const call = patch(victims, offset, 'abc');
      socket.write(call.slice(0, cut));
      // Long enough to be read alone, most of the time; either way the answer is the same.
      await new Promise((resolve) => setImmediate(resolve));
      socket.write(call.slice(cut));
      assert.equal(statusOf(await next()), 202, `cut at ${cut}`);
      offset += 3;
    }
    assert.equal(victims.job.log.length, offset);
  });

  test('a body that takes its time is waited for', async (t) => {
    const limits = { checkEveryMs: 50 };
    const victims = await startVictims(t, { seams: { limits } });
    const socket = await connect(t, victims.port);
    const next = answersOf(socket);
    const call = patch(victims, 0, 'slowly');
    socket.write(call.slice(0, -3));
    // Several looks at what does not move pass meanwhile.
    await new Promise((resolve) => setTimeout(resolve, 300));
    socket.write(call.slice(-3));
    assert.equal(statusOf(await next()), 202);
    assert.equal(victims.job.log.toString(), 'slowly');
  });

  test('other calls between them, over the same connection', async (t) => {
    const victims = await startVictims(t);
    const { api, job } = victims;
    const socket = await connect(t, victims.port);
    const next = answersOf(socket);
    socket.write(patch(victims, 0, 'one\n'));
    assert.equal(statusOf(await next()), 202);
    socket.write(
      head(`GET ${api}/jobs/${job.id}/runtime_environment_key HTTP/1.1`, `JOB-TOKEN: ${job.token}`),
    );
    assert.equal(statusOf(await next()), 404);
    socket.write(patch(victims, 4, 'two\n'));
    assert.equal(statusOf(await next()), 202);
    assert.equal(victims.job.log.toString(), 'one\ntwo\n');
  });

  test('sent ahead: the first is answered, the rest never looked at', async (t) => {
    const victims = await startVictims(t);
    const answer = await exchange(t, victims.port, update(victims).repeat(50));
    assert.deepEqual(answer.statuses, [200]);
    const socket = await connect(t, victims.port);
    victims.rig.gitlab.inject({ match: { method: 'PUT', times: 1 }, do: { delayMs: 500 } });
    const ended = readToEnd(socket);
    socket.write(update(victims));
    socket.write(update(victims));
    assert.deepEqual((await ended).statuses, [200]);
  });

  test('a connection that idles between calls is closed after its time, not before', async (t) => {
    const limits = { keepAliveMs: 1000, headersMs: 200, checkEveryMs: 50 };
    const victims = await startVictims(t, { seams: { limits } });
    const socket = await connect(t, victims.port);
    const next = answersOf(socket);
    socket.write(update(victims));
    assert.equal(statusOf(await next()), 200);
    const at = performance.now();
    await within('the connection to be closed', once(socket, 'close'));
    assert.ok(performance.now() - at > 500);
  });
});

suite('bodies that come in parts', { concurrency: 2 }, () => {
  // No look at what does not move helps here.
  const limits = { checkEveryMs: 60_000, connectionsPerVm: 8 };

  test('count among their machine’s connections before they have come', async (t) => {
    const victims = await startVictims(t, { seams: { limits } });
    const half = patch(victims, 0, 'whole').slice(0, -1);
    for (let count = 0; count < 8; count += 1) (await connect(t, victims.port)).write(half);
    assert.equal((await exchange(t, victims.port, half)).status, 429);
    assert.equal((await victims.other.guest.log('unimpressed')).status, 202);
  });

  test('end with their machine, without an answer', async (t) => {
    const victims = await startVictims(t, { seams: { limits } });
    const ended = exchange(t, victims.port, patch(victims, 0, 'whole').slice(0, -1));
    // Another call, of which the answer shows that the first one has been read.
    await exchange(t, victims.port, head('GET / HTTP/1.1'));
    victims.guest.kill();
    assert.equal((await ended).text, '');
  });
});

test('a guest that ends its side of a connection has ended it, also where the host keeps such half open', async (t) => {
  const host = await startTestHost(t);
  const { job, guest } = await host.running();
  const { port, pathname } = new URL(guest.url);
  const body = JSON.stringify({ token: job.token, state: 'running' });
  const line = `PUT ${pathname}/api/v4/jobs/${job.id} HTTP/1.1`;
  const call = (...more: string[]): string =>
    head(line, `Content-Length: ${body.length}`, ...more) + body;
  const socket = await connect(t, Number(port));
  const next = answersOf(socket);
  socket.write(call());
  assert.equal(statusOf(await next()), 200);
  socket.end();
  await within('the connection to be closed', once(socket, 'close'));

  // Nor does anybody wait for an answer to what it had asked.
  host.gitlab.inject({ match: { route: 'job-update', jobId: job.id }, do: { hang: true } });
  const hanging = (): number =>
    host.gitlab.requests.filter(({ method, status }) => method === 'PUT' && status === null).length;
  const left = (): number => host.log.filter((one) => one.includes(`of job ${job.id}: 0`)).length;
  const ways = [[], [BY_NODE]];
  for (const [at, more] of ways.entries()) {
    const waiting = await connect(t, Number(port));
    waiting.write(call(...more));
    await host.gitlab.waitFor('the call to hang', () => hanging() === at + 1);
    waiting.end();
    await within('its connection to be closed', once(waiting, 'close'));
    await eventually('the call to be over', () => left() === at + 1);
  }
});

test('a host that stood still for longer than any limit answers what has come meanwhile', async (t) => {
  const ms = 2000;
  const limits = { keepAliveMs: ms, headersMs: ms, jsonMs: ms, idleMs: ms, checkEveryMs: 100 };
  const victims = await startVictims(t, { seams: { limits } });
  const call = update(victims);
  const long = update(victims, BY_NODE);
  const log = patch(victims, 0, 'x'.repeat(100_000));
  const rows = [
    { what: 'between calls', whole: call, begun: '', rest: call },
    { what: 'between calls, in Node’s server', whole: long, begun: '', rest: long },
    { what: 'a new connection', begun: '', rest: call },
    { what: 'half a head', begun: call.slice(0, 30), rest: call.slice(30) },
    { what: 'half an update', begun: call.slice(0, -5), rest: call.slice(-5) },
    { what: 'half an update, in Node’s server', begun: long.slice(0, -5), rest: long.slice(-5) },
    { what: 'half a log', begun: log.slice(0, -1000), rest: log.slice(-1000) },
  ];
  const guests = [];
  for (const row of rows) {
    const socket = await connect(t, victims.port);
    const next = answersOf(socket);
    if (row.whole !== undefined) {
      socket.write(row.whole);
      assert.equal(statusOf(await next()), 200);
    }
    socket.write(row.begun);
    guests.push({ ...row, socket, next });
  }
  // Its answer shows that all of that has been read.
  await exchange(t, victims.port, head('GET / HTTP/1.1'));
  for (const { socket, rest } of guests) socket.write(rest);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms * 1.5);
  for (const { what, next } of guests) {
    assert.equal(statusOf(await next()), what === 'half a log' ? 202 : 200, what);
  }
});

test('a machine that ends takes its connections with it', async (t) => {
  const victims = await startVictims(t);
  const socket = await connect(t, victims.port);
  const next = answersOf(socket);
  socket.write(update(victims));
  assert.equal(statusOf(await next()), 200);
  victims.guest.kill();
  await within('the connection to be closed', once(socket, 'close'));
});
