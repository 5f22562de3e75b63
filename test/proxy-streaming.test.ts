/** Bodies on their way through the proxy: as they came, as fast as the slower side, and no further than wanted. */

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http, { type IncomingMessage } from 'node:http';
import net from 'node:net';
import { suite, type TestContext, test } from 'node:test';
import type { SimJob } from '../fixtures/gitlab/index.ts';
import { eventually, standing, within } from './support/deadline.ts';
import { exchangeRaw, type FrontHandler, startFrontRig } from './support/front.ts';
import type { Guest } from './support/guest.ts';
import { bodyOf } from './support/http-server.ts';

/** Sockets of both sides hold some MiB by themselves; what is tested is far more. */
const LARGE = 128 * 1024 * 1024;
const KEPT_ON_THE_WAY = 40 * 1024 * 1024;
const CHUNK = Buffer.alloc(64 * 1024, 'x');

interface Stage {
  readonly job: SimJob;
  readonly guest: Guest;
  /** Begins a call that the handler answers as GitLab. */
  open(method: string, path: string, handler: FrontHandler, headers?: object): http.ClientRequest;
}

async function startStage(t: TestContext, timings: Record<string, number> = {}): Promise<Stage> {
  const { rig, answer } = await startFrontRig(t, { timings });
  const { job, guest } = await rig.running();
  return {
    job,
    guest,
    open(method, path, handler, headers = {}) {
      answer('test', handler);
      const request = http.request(`${guest.url}/api/v4/jobs/${job.id}${path}`, {
        agent: false,
        method,
        headers: {
          'job-token': job.token,
          'user-agent': 'front test',
          ...(method === 'POST' ? { 'content-type': 'multipart/form-data; boundary=x' } : {}),
          ...headers,
        },
      });
      request.on('error', () => undefined);
      t.after(() => request.destroy());
      return request;
    },
  };
}

/** Writes as much as is taken, up to `bytes`; the number that is told grows. */
function pour(request: http.ClientRequest, bytes: number): { written: number } {
  const poured = { written: 0 };
  const more = (): void => {
    while (poured.written < bytes && !request.destroyed) {
      poured.written += CHUNK.length;
      if (!request.write(CHUNK)) return void request.once('drain', more);
    }
    request.end();
  };
  more();
  return poured;
}

const answered = async (request: http.ClientRequest): Promise<IncomingMessage> =>
  ((await within('an answer', once(request, 'response'), 40_000)) as [IncomingMessage])[0];

suite('streaming', { concurrency: 4 }, () => {
  test('an upload goes no faster than GitLab takes it', async (t) => {
    const { open } = await startStage(t);
    let received = 0;
    const reader = Promise.withResolvers<IncomingMessage>();
    const upload = open('POST', '/artifacts', (request, response) => {
      request.on('data', (chunk: Buffer) => {
        received += chunk.length;
      });
      request.pause();
      request.once('end', () => response.writeHead(201).end());
      reader.resolve(request);
    });
    const poured = pour(upload, LARGE);
    const incoming = await within('the upload to arrive', reader.promise);
    const stood = await standing('it to stand still', () => poured.written);
    assert.ok(stood < KEPT_ON_THE_WAY, `${stood} bytes were taken that GitLab did not read`);
    incoming.resume();
    const answer = await answered(upload);
    assert.equal(answer.statusCode, 201);
    assert.equal(received, LARGE);
  });

  test('a download comes no faster than the guest takes it', async (t) => {
    const { open } = await startStage(t);
    let sent = 0;
    const download = open('GET', '/artifacts', (_request, response) => {
      response.writeHead(200, { 'content-length': LARGE });
      const more = (): void => {
        while (sent < LARGE) {
          sent += CHUNK.length;
          if (!response.write(CHUNK)) return void response.once('drain', more);
        }
        response.end();
      };
      more();
    });
    download.end();
    const answer = await answered(download);
    const stood = await standing('it to stand still', () => sent);
    assert.ok(stood < KEPT_ON_THE_WAY, `${stood} bytes were fetched that the guest did not read`);
    let received = 0;
    for await (const chunk of answer) received += (chunk as Buffer).length;
    assert.equal(received, LARGE);
  });

  test('a held upload is not read', async (t) => {
    const { rig } = await startFrontRig(t, { timings: { probeMs: 20, probeCapMs: 50 } });
    const { job, guest } = await rig.running();
    await rig.gitlab.takeDown();
    // The front answers nothing either: it cuts what it cannot pass on.
    const trigger = guest.log('x');
    await eventually('the outage', () =>
      /out since/.test(rig.status().providers[0]?.status.health.message ?? ''),
    );
    const upload = http.request(`${guest.url}/api/v4/jobs/${job.id}/artifacts`, {
      agent: false,
      method: 'POST',
      headers: { 'job-token': job.token, 'content-type': 'application/octet-stream' },
    });
    upload.on('error', () => undefined);
    const poured = pour(upload, LARGE);
    const stood = await standing('it to stand still', () => poured.written);
    assert.ok(stood < KEPT_ON_THE_WAY, `${stood} bytes were taken while GitLab was out`);
    upload.destroy();
    await rig.gitlab.bringBack();
    assert.equal((await within('the held log', trigger)).status, 202);
  });

  for (const status of [413, 403]) {
    test(`an early ${status} is delivered while the upload runs, and its rest is not read`, async (t) => {
      const { open, guest } = await startStage(t);
      const upload = open('POST', '/artifacts', (request, response) => {
        request.once('data', () => {
          request.pause();
          response.writeHead(status, { 'content-type': 'application/json' });
          response.end(`{"message":"${status} Enough"}`);
        });
      });
      const poured = pour(upload, LARGE);
      const answer = await answered(upload);
      assert.equal(answer.statusCode, status);
      assert.equal((await bodyOf(answer)).toString(), `{"message":"${status} Enough"}`);
      await eventually('the connection to end', () => upload.closed);
      assert.ok(poured.written < LARGE, 'not read to its end');
      assert.equal((await guest.log('still fine')).status, 202);
    });
  }

  test('GitLab’s end in the middle of a download is the guest’s too, at once', async (t) => {
    const { open } = await startStage(t);
    const download = open('GET', '/artifacts', (_request, response) => {
      response.writeHead(200, { 'content-length': 1_000_000 });
      response.write(CHUNK, () => response.destroy());
    });
    download.end();
    const answer = await answered(download);
    await assert.rejects(within('the end', bodyOf(answer)), /aborted/);
  });

  test('a GitLab that stops sending is given up, a guest that stops reading is not', async (t) => {
    const { open } = await startStage(t, { stallMs: 500 });
    const stalled = open('GET', '/artifacts', (_request, response) => {
      response.writeHead(200, { 'content-length': 1_000_000 });
      response.write(CHUNK);
    });
    stalled.end();
    await assert.rejects(within('the end', bodyOf(await answered(stalled))), /aborted/);

    const content = randomBytes(32 * 1024 * 1024);
    const slow = open('GET', '/artifacts', (_request, response) => {
      response.writeHead(200, { 'content-length': content.length });
      response.end(content);
    });
    slow.end();
    const answer = await answered(slow);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const hash = createHash('sha256');
    for await (const chunk of answer) hash.update(chunk as Buffer);
    assert.equal(hash.digest('hex'), createHash('sha256').update(content).digest('hex'));
  });

  test('a guest’s end in the middle of a download is GitLab’s too', async (t) => {
    const { open } = await startStage(t);
    const gone = Promise.withResolvers<void>();
    const download = open('GET', '/artifacts', (_request, response) => {
      response.once('close', () => gone.resolve());
      response.writeHead(200, { 'content-length': LARGE });
      response.write(CHUNK);
    });
    download.end();
    await answered(download);
    download.destroy();
    await within('GitLab’s side to end', gone.promise);
  });

  test('Content-Length and chunks as they came, both ways; trailers and 1xx are dropped', async (t) => {
    const { job, guest, open } = await startStage(t);
    const seen: http.IncomingHttpHeaders[] = [];
    const handler: FrontHandler = (request, response) => {
      seen.push(request.headers);
      response.writeContinue();
      response.writeEarlyHints({ link: '</x>; rel=preload' });
      request.resume();
      request.once('end', () => {
        assert.deepEqual(request.trailers, {});
        response.writeHead(201, { trailer: 'x-late' });
        response.addTrailers({ 'x-late': '1' });
        response.end('made');
      });
    };
    open('POST', '/artifacts', handler).end('sized');
    await eventually('the first', () => seen.length === 1);
    const head = `POST ${new URL(guest.url).pathname}/api/v4/jobs/${job.id}/artifacts HTTP/1.1`;
    const raw = await within(
      'an answer',
      exchangeRaw(
        guest.url,
        [
          head,
          'Host: x',
          'User-Agent: front test',
          'Content-Type: multipart/form-data; boundary=x',
          `Job-Token: ${job.token}`,
          'Connection: close',
          'Transfer-Encoding: chunked',
          'Trailer: X-Evil',
          '',
          '3\r\nabc\r\n0\r\nX-Evil: 1\r\n\r\n',
        ].join('\r\n'),
      ),
    );
    assert.equal(seen[0]?.['content-length'], '5');
    assert.equal(seen[0]['transfer-encoding'], undefined);
    assert.equal(seen[1]?.['content-length'], undefined);
    assert.equal(seen[1]?.['transfer-encoding'], 'chunked');
    assert.match(raw.toString(), /^HTTP\/1\.1 201 Created\r\n/);
    assert.doesNotMatch(raw.toString(), /x-late|x-evil|100 Continue|103 Early/i);
    assert.match(raw.toString(), /\r\n\r\n4\r\nmade\r\n0\r\n\r\n$/);
  });

  test('a log larger than any runner sends is streamed, and answered so that it goes on', async (t) => {
    const { guest, job } = await startStage(t);
    const text = 'x'.repeat(3 * 1024 * 1024);
    const answer = await guest.log(text);
    assert.deepEqual([answer.status, answer.headers.get('range')], [202, `0-${text.length}`]);
    assert.equal(job.traceSize, text.length);
  });
});

test('sockets are closed at stop, and nothing is answered', async (t) => {
  const { rig } = await startFrontRig(t, { timings: { probeMs: 20 } });
  const { job, guest } = await rig.running();
  await rig.gitlab.takeDown();
  const { hostname, port, pathname } = new URL(guest.url);
  const socket = net.connect(Number(port), hostname);
  const chunks: Buffer[] = [];
  socket.on('data', (chunk) => chunks.push(chunk));
  socket.on('error', () => undefined);
  const closed = once(socket, 'close');
  socket.write(
    `GET ${pathname}/api/v4/jobs/${job.id}/artifacts HTTP/1.1\r\nHost: x\r\nJob-Token: ${job.token}\r\n\r\n`,
  );
  await eventually('the call to be held', () =>
    /out since/.test(rig.status().providers[0]?.status.health.message ?? ''),
  );
  await rig.host.stop('leave');
  await within('the connection to end', closed);
  assert.equal(Buffer.concat(chunks).toString(), '');
  guest.kill();
});
