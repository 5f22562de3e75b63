import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import dns from 'node:dns';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it, type TestContext } from 'node:test';
import { gzipSync } from 'node:zlib';
import { within } from '../../test/support/deadline.ts';
import { bodyOf, startServer } from '../../test/support/http-server.ts';
import { isForrestGitlabError } from '../errors.ts';
import { systemClock } from '../lib/clock.ts';
import {
  createFetch,
  createSend,
  createUpstream,
  type Upstream,
  type UpstreamOptions,
} from './index.ts';

const tlsDir = path.join(import.meta.dirname, '../../test/support/tls');
const ca = readFileSync(path.join(tlsDir, 'ca.pem'), 'utf8');
const tls = {
  cert: readFileSync(path.join(tlsDir, 'server.pem'), 'utf8'),
  key: readFileSync(path.join(tlsDir, 'server.key'), 'utf8'),
};

function upstreamTo(t: TestContext, url: string, options: Partial<UpstreamOptions> = {}): Upstream {
  const upstream = createUpstream({
    url,
    proxyEnv: {},
    connectTimeoutMs: 5000,
    clock: systemClock,
    ...options,
  });
  t.after(() => upstream.close());
  return upstream;
}

const fetchOver = (upstream: Upstream, answerTimeoutMs = 5000) =>
  createFetch(upstream.url, createSend(upstream, answerTimeoutMs));

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => assert.fail('must be rejected'),
    (thrown: unknown) => thrown,
  );
  assert.ok(isForrestGitlabError(error), String(error));
  return error.code;
}

/** What every name is found to mean, in that order. */
function resolveTo(t: TestContext, addresses: string[]): void {
  const all = addresses.map((address) => ({ address, family: 4 }));
  t.mock.method(
    dns,
    'lookup',
    (_name: string, _options: object, found: (error: null, all: object[]) => void) =>
      found(null, all),
  );
}

/** A proxy that knows CONNECT and absolute-form requests, and notes what it was asked for. */
async function startProxy(t: TestContext, target: number) {
  const seen: string[] = [];
  const { server, port } = await startServer(t, (request, response) => {
    seen.push(`${request.method} ${request.url} ${request.headers['proxy-authorization'] ?? ''}`);
    response.end('through the proxy');
  });
  server.on('connect', (request: http.IncomingMessage, socket: net.Socket) => {
    seen.push(`CONNECT ${request.url} ${request.headers['proxy-authorization'] ?? ''}`);
    const inner = net.connect(target, '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
      socket.pipe(inner).pipe(socket);
    });
    inner.on('error', () => socket.destroy());
    socket.on('error', () => inner.destroy());
  });
  return { seen, port };
}

describe('the way to GitLab', () => {
  it('keeps the path that GitLab lies below', async (t) => {
    const { url } = await startServer(t, (request, response) => void response.end(request.url));
    const upstream = upstreamTo(t, `${url}/gitlab/`);
    assert.equal(upstream.url, `${url}/gitlab`);
    const answer = await fetchOver(upstream)(`${url}/gitlab/api/v4/jobs/request?x=1`);
    assert.equal(await answer.text(), '/gitlab/api/v4/jobs/request?x=1');
  });

  it('never leaves GitLab: another address is refused', async (t) => {
    const { url } = await startServer(t, (_request, response) => void response.end());
    const fetch = fetchOver(upstreamTo(t, `${url}/gitlab`));
    await assert.rejects(fetch(`${url}/other`), /is not below/);
    await assert.rejects(fetch('http://evil.example/gitlab/'), /is not below/);
  });

  it('uses one connection for calls that follow each other', async (t) => {
    let connections = 0;
    const { url, server } = await startServer(t, (_request, response) => void response.end('ok'));
    server.on('connection', () => connections++);
    const fetch = fetchOver(upstreamTo(t, url));
    for (let call = 0; call < 5; call++) await (await fetch(`${url}/`)).text();
    assert.equal(connections, 1);
  });

  it('uses a new connection where it is told to', async (t) => {
    let connections = 0;
    const { url, server } = await startServer(t, (_request, response) => void response.end('ok'));
    server.on('connection', () => connections++);
    const upstream = upstreamTo(t, url);
    for (let call = 0; call < 3; call++) {
      const request = upstream.request({
        method: 'GET',
        path: '/',
        headers: {},
        answerTimeoutMs: 5000,
        fresh: call > 0,
      });
      request.end();
      const [answer] = (await once(request, 'response')) as [http.IncomingMessage];
      await bodyOf(answer);
    }
    assert.equal(connections, 3);
  });

  it('sends a body with its length, and returns status, headers and body as they are', async (t) => {
    const { url } = await startServer(t, async (request, response) => {
      const body = await bodyOf(request);
      response.writeHead(418, {
        'x-length': request.headers['content-length'] ?? '',
        'x-a': ['1', '2'],
      });
      response.end(body);
    });
    const answer = await fetchOver(upstreamTo(t, url))(`${url}/`, { method: 'PUT', body: 'hello' });
    assert.equal(answer.status, 418);
    assert.equal(answer.headers.get('x-length'), '5');
    assert.equal(answer.headers.get('x-a'), '1, 2');
    assert.equal(await answer.text(), 'hello');
  });

  it('hands redirects through', async (t) => {
    const { url } = await startServer(t, (_request, response) => {
      response.writeHead(302, { location: 'http://elsewhere.example/' }).end();
    });
    const answer = await fetchOver(upstreamTo(t, url))(`${url}/`);
    assert.equal(answer.status, 302);
  });

  it('reads a head that is as large as boxes in between make it, by request and by call', async (t) => {
    const cookies = Array.from(
      { length: 12 },
      (_, index) => `session-${index}=${'x'.repeat(4000)}`,
    );
    const { url } = await startServer(t, (_request, response) => {
      response.writeHead(201, { 'set-cookie': cookies }).end('{}');
    });
    const upstream = upstreamTo(t, url);
    const common = { method: 'POST', path: '/', headers: {}, answerTimeoutMs: 5000 };
    const call = upstream.call({ ...common, body: Buffer.from('{}'), stallMs: 5000 });
    assert.equal((await call.answer).statusCode, 201);
    const request = upstream.request(common).end('{}');
    const [answer] = (await once(request, 'response')) as [http.IncomingMessage];
    assert.equal(answer.resume().statusCode, 201);
  });

  it('reads what comes compressed, though that was not asked for', async (t) => {
    const { url } = await startServer(t, (request, response) => {
      assert.equal(request.headers['accept-encoding'], 'identity');
      response.writeHead(201, { 'content-encoding': 'gzip' }).end(gzipSync('{"id":1}'));
    });
    const answer = await fetchOver(upstreamTo(t, url))(`${url}/`);
    assert.equal(await answer.text(), '{"id":1}');
  });

  it('waits for an address that is slow to answer, where the next one is dead', async (t) => {
    const server = `require('http').createServer((_, response) => response.end('far away'))
      .listen({ port: 0, host: '127.0.0.1', backlog: 1 }, function () { console.log(this.address().port) })`;
    const child = spawn(process.execPath, ['-e', server]);
    t.after(() => child.kill('SIGKILL'));
    const [line] = await within('its port', once(child.stdout, 'data'));
    const port = Number(line);
    // Stopped, with a full queue: the first packet of a further connection is lost, the second comes 1 s later.
    child.kill('SIGSTOP');
    const full = Array.from({ length: 4 }, () => net.connect(port, '127.0.0.1'));
    t.after(() => full.forEach((socket) => void socket.destroy()));
    for (const socket of full) socket.on('error', () => undefined);
    await within('a full queue', once(full[1] as net.Socket, 'connect'));
    resolveTo(t, ['127.0.0.1', '127.0.0.2']);
    setTimeout(() => child.kill('SIGCONT'), 300);
    const url = `http://gitlab.example.test:${port}`;
    const answer = await within('the answer', fetchOver(upstreamTo(t, url))(`${url}/`));
    assert.equal(await answer.text(), 'far away');
  });

  it('tries an address that did not answer last for ten minutes', async (t) => {
    const { port } = await startServer(t, (_request, response) => response.end('second'));
    resolveTo(t, ['127.0.0.2', '127.0.0.1']);
    let skippedMs = 0;
    const clock = { ...systemClock, monotonic: () => systemClock.monotonic() + skippedMs };
    const upstream = upstreamTo(t, `http://gitlab.example.test:${port}`, { clock });
    const common = { method: 'POST', path: '/', headers: {}, answerTimeoutMs: 5000, fresh: true };
    const ask = async (): Promise<string[]> => {
      const call = upstream.call({ ...common, body: Buffer.from('{}'), stallMs: 5000 });
      const small = (await within('the answer', call.answer)).body.toString();
      const request = upstream.request(common).end('{}');
      const [answer] = (await within('the response', once(request, 'response'))) as [
        http.IncomingMessage,
      ];
      return [small, await text(answer)];
    };
    assert.deepEqual(await ask(), ['second', 'second']);
    const first = http.createServer((_request, response) => response.end('first'));
    await once(first.listen(port, '127.0.0.2'), 'listening');
    t.after(() => first.close());
    assert.deepEqual(await ask(), ['second', 'second']);
    skippedMs = 10 * 60_000;
    assert.deepEqual(await ask(), ['first', 'first']);
  });

  it('trusts a private CA where it is configured, and only there', async (t) => {
    const { url } = await startServer(t, (_request, response) => void response.end('safe'), tls);
    const trusting = fetchOver(upstreamTo(t, url, { ca }));
    assert.equal(await (await trusting(`${url}/`)).text(), 'safe');
    assert.equal(await codeOf(fetchOver(upstreamTo(t, url))(`${url}/`)), 'upstream_unreachable');
  });

  it('tunnels https through an HTTP proxy, with the proxy’s credentials', async (t) => {
    const { port } = await startServer(t, (_request, response) => void response.end('inner'), tls);
    const proxy = await startProxy(t, port);
    const proxyEnv = { HTTPS_PROXY: `http://user:pass@127.0.0.1:${proxy.port}` };
    const url = 'https://gitlab.example.test';
    const fetch = fetchOver(upstreamTo(t, url, { ca, proxyEnv }));
    assert.equal(await (await fetch(`${url}/api`)).text(), 'inner');
    assert.deepEqual(proxy.seen, ['CONNECT gitlab.example.test:443 Basic dXNlcjpwYXNz']);
  });

  it('asks an HTTP proxy for http addresses, but not for those in NO_PROXY nor for loopback', async (t) => {
    const { url, port } = await startServer(t, (_request, response) => void response.end('direct'));
    const proxy = await startProxy(t, port);
    const http_proxy = `http://127.0.0.1:${proxy.port}`;
    const named = 'http://gitlab.example.test';
    const proxied = fetchOver(upstreamTo(t, named, { proxyEnv: { http_proxy } }));
    assert.equal(await (await proxied(`${named}/x`)).text(), 'through the proxy');
    const loopback = fetchOver(upstreamTo(t, url, { proxyEnv: { http_proxy } }));
    assert.equal(await (await loopback(`${url}/x`)).text(), 'direct');
    const exempt = { http_proxy, NO_PROXY: 'example.test,.example.test' };
    const unproxied = fetchOver(upstreamTo(t, named, { proxyEnv: exempt, connectTimeoutMs: 2000 }));
    await codeOf(unproxied(`${named}/x`));
    assert.equal(proxy.seen.length, 1);
  });

  it('names a proxy that refuses the tunnel', async (t) => {
    const { server, port } = await startServer(t, (_request, response) => void response.end());
    server.on('connect', (_request: http.IncomingMessage, socket: net.Socket) => {
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
    });
    const url = 'https://gitlab.example.test';
    const fetch = fetchOver(
      upstreamTo(t, url, { proxyEnv: { https_proxy: `http://127.0.0.1:${port}` } }),
    );
    assert.equal(await codeOf(within('the refusal', fetch(`${url}/`))), 'upstream_unreachable');
  });

  it('gives up a GitLab that does not answer, or does not end its answer', async (t) => {
    const { url } = await startServer(t, (request, response) => {
      if (request.url === '/half') response.write('half');
    });
    const fetch = fetchOver(upstreamTo(t, url), 50);
    assert.equal(await codeOf(fetch(`${url}/never`)), 'upstream_timeout');
    assert.equal(await codeOf(fetch(`${url}/half`)), 'upstream_unreachable');
  });

  it('gives up a connection that does not stand in time', async (t) => {
    // A listener with a full backlog answers nothing: a port that accepts TCP but no TLS will do.
    const silent = net.createServer(() => undefined).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    t.after(() => silent.close());
    const url = `https://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    const upstream = upstreamTo(t, url, { connectTimeoutMs: 50 });
    assert.equal(await codeOf(fetchOver(upstream)(`${url}/`)), 'upstream_timeout');
  });

  it('reports a refused connection and a cut answer as unreachable', async (t) => {
    const { url, server } = await startServer(t, (request) => request.socket.destroy());
    assert.equal(await codeOf(fetchOver(upstreamTo(t, url))(`${url}/`)), 'upstream_unreachable');
    server.close();
    await once(server, 'close');
    assert.equal(await codeOf(fetchOver(upstreamTo(t, url))(`${url}/`)), 'upstream_unreachable');
  });

  it('cuts the call off when its signal aborts', async (t) => {
    const gone = Promise.withResolvers<void>();
    const { url } = await startServer(
      t,
      (request) => void request.once('close', () => gone.resolve()),
    );
    const abort = new AbortController();
    const call = fetchOver(upstreamTo(t, url))(`${url}/`, { signal: abort.signal });
    setImmediate(() => abort.abort(new Error('enough')));
    await assert.rejects(call, /enough/);
  });
});
