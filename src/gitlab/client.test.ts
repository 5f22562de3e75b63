import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { RequestListener } from 'node:http';
import { describe, it, type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { eventually } from '../../test/support/deadline.ts';
import { bodyOf, startServer } from '../../test/support/http-server.ts';
import { systemClock } from '../lib/clock.ts';
import { createFetch, createSend, createUpstream } from '../upstream/index.ts';
import { createGitlabClient, type GitlabClient, type RunnerInfo } from './index.ts';

const info: RunnerInfo = {
  name: 'forrest-gitlab',
  version: '1.0.0',
  platform: 'linux',
  architecture: 'amd64',
  executor: 'shell',
  features: { variables: true },
};

const TOKEN = 'glrt-abcdefghijklmnopqrst';

/** How `jobs/request` goes: straight over the upstream, or by ky, as where a `fetch` is given. */
type Way = 'straight' | 'by ky';

interface ClientOptions {
  readonly way?: Way;
  readonly timeoutMs?: number;
  readonly proxyEnv?: Record<string, string>;
}

async function clientFor(
  t: TestContext,
  listener: RequestListener,
  options: ClientOptions = {},
): Promise<{ client: GitlabClient; calls: () => number }> {
  let calls = 0;
  const { url } = await startServer(t, (request, response) => {
    calls += 1;
    listener(request, response);
  });
  return { client: createClient(t, url, options), calls: () => calls };
}

function createClient(
  t: TestContext,
  url: string,
  { way = 'straight', timeoutMs = 5000, proxyEnv = {} }: ClientOptions,
): GitlabClient {
  const upstream = createUpstream({
    url,
    proxyEnv,
    connectTimeoutMs: 5000,
    clock: systemClock,
  });
  t.after(() => upstream.close());
  const send = createSend(upstream, timeoutMs);
  return createGitlabClient({
    url: upstream.url,
    fetch: createFetch(upstream.url, send),
    ...(way === 'straight' && { send }),
    userAgent: 'forrest-gitlab 1.0.0',
    callTimeoutMs: timeoutMs,
    clock: systemClock,
  });
}

/** Answers 300 ms after it was asked: by then the other thread stands still. */
const SERVER_OF_ONE_JOB = `
  const { parentPort, workerData: flags } = require('node:worker_threads');
  const server = require('node:http').createServer((request, response) => {
    request.resume();
    Atomics.store(flags, 0, 1);
    setTimeout(() => {
      response.writeHead(201, { 'content-type': 'application/json' });
      response.end('{"id":7,"token":"glcbt-x"}', () => {
        Atomics.store(flags, 1, 1);
        Atomics.notify(flags, 1);
      });
    }, 300);
  });
  server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port));
`;

const answer =
  (status: number, headers: Record<string, string> = {}, body = ''): RequestListener =>
  (request, response) => {
    request.resume();
    response.writeHead(status, headers).end(body);
  };

const json = { 'content-type': 'application/json' };
const forbidden = '{"message":"403 Forbidden - Job is not processing on runner"}';

for (const way of ['straight', 'by ky'] as const)
  describe(`jobs/request ${way}`, () => {
    it('sends token, system id and info as JSON, and no last_update', async (t) => {
      const seen = Promise.withResolvers<{
        path: string;
        body: unknown;
        type: string;
        agent: string;
      }>();
      const { client } = await clientFor(
        t,
        async (request, response) => {
          seen.resolve({
            path: `${request.method} ${request.url}`,
            body: JSON.parse(String(await bodyOf(request))),
            type: String(request.headers['content-type']),
            agent: String(request.headers['user-agent']),
          });
          response.writeHead(204).end();
        },
        { way },
      );
      assert.deepEqual(await client.requestJob(TOKEN, 'r_1', info), { kind: 'none' });
      assert.deepEqual(await seen.promise, {
        path: 'POST /api/v4/jobs/request',
        body: { token: TOKEN, system_id: 'r_1', info },
        type: 'application/json',
        agent: 'forrest-gitlab 1.0.0',
      });
    });

    it('hands out the bytes of a 201 exactly, unknown fields and odd spacing included', async (t) => {
      const body =
        '{ "id":7,\n"token" : "glcbt-x", "new":{"deep":[1e400,12345678901234567890]},"ü":"\\u00fc" }';
      const { client } = await clientFor(t, answer(201, { ...json, 'x-request-id': 'abc' }, body), {
        way,
      });
      const outcome = await client.requestJob(TOKEN, 'r_1', info);
      assert.equal(outcome.kind, 'job');
      assert.ok(outcome.kind === 'job');
      assert.equal(outcome.payload.toString(), body);
      assert.equal(outcome.facts.id, 7);
      assert.equal(outcome.requestId, 'abc');
    });

    for (const [what, status, headers, body, kind] of [
      ['204', 204, {}, '', 'none'],
      ['409', 409, json, '{"message":"409 Conflict"}', 'conflict'],
      ['403', 403, json, '{"message":"403 Forbidden"}', 'forbidden'],
      ['401', 401, json, '{"message":"401 Unauthorized"}', 'forbidden'],
      ['403 with a page', 403, { 'content-type': 'text/html' }, '<html>', 'retry'],
      ['401 with a page', 401, { 'content-type': 'text/html' }, '<html>', 'retry'],
      ['429', 429, json, '{}', 'retry'],
      ['500', 500, {}, '', 'retry'],
      ['a redirect', 302, { location: '/users/sign_in' }, '', 'retry'],
      ['200 with a page of HTML', 200, { 'content-type': 'text/html' }, '<html>', 'retry'],
      ['201 with a page of HTML', 201, { 'content-type': 'text/html' }, '<html>', 'broken'],
      ['201 with half a body', 201, json, '{"id":1,"tok', 'broken'],
      ['201 without id', 201, json, '{"token":"x"}', 'broken'],
      ['201 without token', 201, json, '{"id":1}', 'broken'],
      ['201 that is no object', 201, json, '[]', 'broken'],
    ] as const) {
      it(`sorts ${what} as ${kind}, and asks once`, async (t) => {
        const { client, calls } = await clientFor(t, answer(status, headers, body), { way });
        assert.equal((await client.requestJob(TOKEN, 'r_1', info)).kind, kind);
        assert.equal(calls(), 1);
      });
    }

    it('reads Retry-After in seconds and as a date', async (t) => {
      const later = new Date(Date.now() + 20_000).toUTCString();
      for (const [value, least, most] of [
        ['7', 7000, 7000],
        [later, 15_000, 20_000],
        ['soon', undefined, undefined],
      ] as const) {
        const { client } = await clientFor(t, answer(429, { 'retry-after': value }), { way });
        const outcome = await client.requestJob(TOKEN, 'r_1', info);
        assert.ok(outcome.kind === 'retry');
        if (least === undefined) assert.equal(outcome.retryAfterMs, undefined);
        else assert.ok((outcome.retryAfterMs ?? 0) >= least && (outcome.retryAfterMs ?? 0) <= most);
      }
    });

    it('never repeats a call whose connection broke, and names no token', async (t) => {
      const { client, calls } = await clientFor(t, (request) => request.socket.destroy(), { way });
      const outcome = await client.requestJob(TOKEN, 'r_1', info);
      assert.ok(outcome.kind === 'retry');
      assert.match(outcome.reason, /connection failed/);
      assert.doesNotMatch(JSON.stringify(outcome), /abcdefghijkl/);
      assert.equal(calls(), 1);
    });

    for (const route of ['directly', 'through an HTTP proxy'])
      it(`takes an answer that came ${route} while this process was stopped for longer than its time`, async (t) => {
        // [0]: the request is there, [1]: the answer is sent. Another thread goes on while this one stands still.
        const flags = new Int32Array(new SharedArrayBuffer(8));
        const gitlab = new Worker(SERVER_OF_ONE_JOB, { eval: true, workerData: flags });
        t.after(() => gitlab.terminate());
        const [port] = (await once(gitlab, 'message')) as [number];
        const timeoutMs = 3000;
        const address = `http://127.0.0.1:${port}`;
        const client =
          route === 'directly'
            ? createClient(t, address, { way, timeoutMs })
            : createClient(t, 'http://gitlab.example', {
                way,
                timeoutMs,
                proxyEnv: { http_proxy: address },
              });
        const asked = client.requestJob(TOKEN, 'r_1', info);
        await eventually('the request to arrive', () => Atomics.load(flags, 0) === 1);
        // From here, what is due comes before what has arrived, as after a SIGSTOP.
        await setImmediate();
        Atomics.wait(flags, 1, 0, 20_000);
        Atomics.wait(flags, 1, 1, timeoutMs);
        assert.equal((await asked).kind, 'job');
      });

    it('takes all of a job whose payload comes slowly: its time is for the begin of the answer', async (t) => {
      const timeoutMs = 1000;
      const { client } = await clientFor(
        t,
        async (request, response) => {
          request.resume();
          response.writeHead(201, json);
          const steps = 15;
          for (let step = 0; step < steps; step += 1) {
            response.write(' ');
            await new Promise((resolve) => setTimeout(resolve, timeoutMs / 10));
          }
          response.end('{"id":7,"token":"glcbt-x"}');
        },
        { way, timeoutMs },
      );
      assert.equal((await client.requestJob(TOKEN, 'r_1', info)).kind, 'job');
    });

    it('says that there was no answer in time', async (t) => {
      const { client } = await clientFor(t, (request) => request.resume(), { way, timeoutMs: 50 });
      const outcome = await client.requestJob(TOKEN, 'r_1', info);
      assert.ok(outcome.kind === 'retry');
      assert.match(outcome.reason, /in time|did not answer/);
    });

    for (const [body, expected] of [
      ['{"message":{"error":"This endpoint …"}}', '429 This endpoint …'],
      ['{"error":"token is missing"}', '429 token is missing'],
      ['{"message":"429 Too Many Requests"}', '429 Too Many Requests'],
    ] as const) {
      it(`says of ${body} what GitLab says`, async (t) => {
        const { client } = await clientFor(t, answer(429, json, body), { way });
        const outcome = await client.requestJob(TOKEN, 'r_1', info);
        assert.equal(outcome.kind === 'retry' && outcome.reason, expected);
      });
    }

    it('says of a page of HTML that the address may be wrong', async (t) => {
      const { client } = await clientFor(
        t,
        answer(404, { 'content-type': 'text/html' }, '<h1>no</h1>'),
        { way },
      );
      const outcome = await client.requestJob(TOKEN, 'r_1', info);
      assert.ok(outcome.kind === 'retry');
      assert.match(outcome.reason, /404 with text\/html.*gitlab\.url/);
    });
  });

describe('PUT jobs/:id', () => {
  for (const [what, listener, expected] of [
    [
      '200',
      answer(200, { 'job-status': 'running' }, '200'),
      { kind: 'done', jobStatus: 'running' },
    ],
    [
      '200 while canceling',
      answer(200, { 'job-status': 'canceling' }),
      { kind: 'done', jobStatus: 'canceling' },
    ],
    [
      '202',
      answer(202, { 'x-gitlab-trace-update-interval': '8' }),
      { kind: 'pending', intervalMs: 8000 },
    ],
    ['202 without interval', answer(202), { kind: 'pending', intervalMs: 3000 }],
    [
      '403 with Job-Status',
      answer(403, { ...json, 'job-status': 'canceled' }, forbidden),
      {
        kind: 'over',
        jobStatus: 'canceled',
        reason: '403 Forbidden - Job is not processing on runner',
      },
    ],
    [
      '403 in GitLab’s JSON',
      answer(403, json, '{"message":"403 Forbidden"}'),
      { kind: 'over', jobStatus: undefined, reason: '403 Forbidden' },
    ],
  ] as const) {
    it(`sorts ${what}`, async (t) => {
      const { client } = await clientFor(t, listener);
      assert.deepEqual(await client.updateJob(7, 'glcbt-x', { state: 'running' }), expected);
    });
  }

  for (const status of [200, 302, 401, 403, 404, 408, 409, 412, 429, 500, 502, 503, 522]) {
    it(`takes a bare ${status} for an outage, not for the job's end`, async (t) => {
      const { client } = await clientFor(t, answer(status, { 'content-type': 'text/html' }, '<p>'));
      assert.equal((await client.updateJob(7, 'glcbt-x', { state: 'running' })).kind, 'retry');
    });
  }

  it('repeats a runner’s own update byte for byte', async (t) => {
    const body = Buffer.from('{"token":"glcbt-x",  "state":"success"}');
    const seen = Promise.withResolvers<Buffer>();
    const { client } = await clientFor(t, async (request, response) => {
      seen.resolve(await bodyOf(request));
      response.writeHead(200).end();
    });
    await client.repeatUpdate(7, body);
    assert.deepEqual(await seen.promise, body);
  });
});

describe('PATCH jobs/:id/trace', () => {
  it('sends the bytes with their range and the job token in its header', async (t) => {
    const seen = Promise.withResolvers<Record<string, unknown>>();
    const { client } = await clientFor(t, async (request, response) => {
      const { headers } = request;
      seen.resolve({
        url: request.url,
        range: headers['content-range'],
        token: headers['job-token'],
        type: headers['content-type'],
        body: String(await bodyOf(request)),
      });
      response.writeHead(202, { range: '0-15', 'job-status': 'running' }).end();
    });
    assert.deepEqual(await client.appendTrace(7, 'glcbt-x', 10, Buffer.from('hello')), {
      kind: 'accepted',
      size: 15,
      jobStatus: 'running',
    });
    assert.deepEqual(await seen.promise, {
      url: '/api/v4/jobs/7/trace',
      range: '10-14',
      token: 'glcbt-x',
      type: 'text/plain',
      body: 'hello',
    });
  });

  it('learns the offset from a 416', async (t) => {
    const { client } = await clientFor(t, answer(416, { range: '0-1234' }));
    assert.deepEqual(await client.appendTrace(7, 'glcbt-x', 10, Buffer.from('x')), {
      kind: 'wrong-offset',
      size: 1234,
    });
  });

  it('takes a 416 without Range for an outage', async (t) => {
    const { client } = await clientFor(t, answer(416));
    assert.equal((await client.appendTrace(7, 'glcbt-x', 10, Buffer.from('x'))).kind, 'retry');
  });
});

describe('runners/verify', () => {
  it('reads the token’s expiry', async (t) => {
    const expires = '2027-01-01T00:00:00.000Z';
    const { client } = await clientFor(
      t,
      answer(200, json, JSON.stringify({ id: 1, token_expires_at: expires })),
    );
    assert.deepEqual(await client.verifyRunner(TOKEN, 'r_1', info), {
      kind: 'valid',
      tokenExpiresAt: new Date(expires),
    });
  });

  it('does not take a page for a good token', async (t) => {
    const page = answer(200, { 'content-type': 'text/html' }, '<html>Sign in</html>');
    const { client } = await clientFor(t, page);
    assert.partialDeepStrictEqual(await client.verifyRunner(TOKEN, 'r_1', info), {
      kind: 'retry',
      reason: "200 with text/html instead of GitLab's JSON: is gitlab.url right?",
    });
  });

  it('accepts the bare 200 of old servers, and null', async (t) => {
    for (const body of ['200', '{"token_expires_at":null}']) {
      const { client } = await clientFor(t, answer(200, {}, body));
      assert.deepEqual(await client.verifyRunner(TOKEN, 'r_1', info), {
        kind: 'valid',
        tokenExpiresAt: null,
      });
    }
  });
});
