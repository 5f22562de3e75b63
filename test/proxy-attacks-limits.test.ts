/** More than a machine may take: it is stopped, and the others do not notice. */

import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import type { Socket } from 'node:net';
import path from 'node:path';
import { suite, test } from 'node:test';
import { eventually, standing, within } from './support/deadline.ts';
import { heapMib } from './support/heap.ts';
import { connect, exchange, head, readToEnd } from './support/raw.ts';
import { startVictims } from './support/victims.ts';

const MIB = 1024 * 1024;
/** Short enough to be waited for, long enough for a busy machine to go on. */
const SHORT_MS = 1000;

/** Writes the same bytes again and again until the other side is gone; resolves with how many. */
async function pour(socket: Socket, bytes: Buffer, limit: number): Promise<number> {
  let sent = 0;
  while (sent < limit && !socket.destroyed && socket.writable) {
    sent += bytes.length;
    if (!socket.write(bytes)) {
      await Promise.race([once(socket, 'drain'), once(socket, 'close')]).catch(() => undefined);
    }
  }
  return sent;
}

suite('what does not move', { concurrency: 4 }, () => {
  test('a connection that says nothing, and headers that come a byte at a time', async (t) => {
    const limits = { headersMs: SHORT_MS, checkEveryMs: 100 };
    const { port, api, assertUntouched } = await startVictims(t, { seams: { limits } });
    const silent = await connect(t, port);
    const slow = await connect(t, port);
    const bytes = Buffer.from(
      head(`GET ${api}/jobs/1/artifacts HTTP/1.1`, 'X: '.padEnd(9000, 'x')),
    );
    let at = 0;
    const dripping = setInterval(() => slow.write(bytes.subarray(at, ++at)), 20);
    t.after(() => clearInterval(dripping));
    const ends = await Promise.all([readToEnd(silent), readToEnd(slow)]);
    assert.deepEqual(
      ends.map((end) => end.status),
      [408, 408],
    );
    assertUntouched('slow headers');
  });

  test('a JSON body that does not come', async (t) => {
    const limits = { jsonMs: SHORT_MS };
    const { port, api, job, assertUntouched } = await startVictims(t, { seams: { limits } });
    const request = head(
      `PUT ${api}/jobs/${job.id} HTTP/1.1`,
      'Content-Type: application/json',
      'Content-Length: 100',
    );
    assert.equal((await exchange(t, port, `${request}{"token"`)).status, null);
    assertUntouched('half a JSON body');
  });

  test('a log that stops half way', async (t) => {
    const limits = { idleMs: SHORT_MS, checkEveryMs: 100 };
    const { port, api, job, guest } = await startVictims(t, { seams: { limits } });
    const request = head(
      `PATCH ${api}/jobs/${job.id}/trace HTTP/1.1`,
      `JOB-TOKEN: ${job.token}`,
      'Content-Type: text/plain',
      'Content-Range: 0-99',
      'Content-Length: 100',
    );
    assert.equal((await exchange(t, port, `${request}half`)).status, null);
    assert.equal((await guest.log('whole')).status, 202, 'GitLab has none of it');
  });

  test('a download that nobody reads; not an upload that GitLab is slow to take', async (t) => {
    const limits = { idleMs: SHORT_MS, checkEveryMs: 100 };
    const { rig, port, api, job, guest } = await startVictims(t, { seams: { limits } });
    rig.gitlab.inject({
      match: { route: 'artifacts-upload', times: 1 },
      do: { delayMs: 3 * SHORT_MS },
    });
    const form = new FormData();
    form.append('file', new Blob([new Uint8Array(64 * MIB)]), 'artifacts.zip');
    const uploaded = await guest.call('POST', `jobs/${job.id}/artifacts`, {
      headers: { 'job-token': job.token },
      body: form,
    });
    assert.equal(uploaded.status, 201);
    const reader = await connect(t, port);
    reader.pause();
    reader.write(head(`GET ${api}/jobs/${job.id}/artifacts HTTP/1.1`, `JOB-TOKEN: ${job.token}`));
    const given = () =>
      rig.log.some((line) => line.includes(`artifacts-download of job ${job.id}: `));
    await eventually('the download to be given up', given, 30_000);
  });
});

suite('too much', { concurrency: 2 }, () => {
  test('a JSON body of 10 GiB is cut off at once', async (t) => {
    const { port, api, job, guest, assertUntouched } = await startVictims(t);
    const before = process.memoryUsage.rss();
    const block = Buffer.alloc(MIB, 'x');
    const chunk = Buffer.concat([Buffer.from('100000\r\n'), block, Buffer.from('\r\n')]);
    for (const path_ of [`PUT ${api}/jobs/${job.id}`, `POST ${api}/jobs/request`]) {
      for (const framing of [`Content-Length: ${10 * 1024 * MIB}`, 'Transfer-Encoding: chunked']) {
        const socket = await connect(t, port);
        const answer = readToEnd(socket);
        socket.write(head(`${path_} HTTP/1.1`, 'Content-Type: application/json', framing));
        const sent = await pour(
          socket,
          framing.includes('chunked') ? chunk : block,
          10 * 1024 * MIB,
        );
        assert.equal((await answer).status, 413, `${path_}, ${framing}`);
        assert.ok(sent < 1024 * MIB, `cut off after ${sent} bytes`);
        assertUntouched('a huge body');
      }
    }
    const grown = process.memoryUsage.rss() - before;
    assert.ok(grown < 300 * MIB, `memory has grown by ${Math.round(grown / MIB)} MiB`);
    assert.equal((await guest.log('alive')).status, 202);
  });

  test('a JSON body of thousands of names, or of thousands of levels: none is looked into', async (t) => {
    const { job, guest, assertUntouched } = await startVictims(t);
    const update = async (body: string): Promise<number> => {
      const headers = { 'content-type': 'application/json', 'job-token': job.token };
      return (await guest.call('PUT', `jobs/${job.id}`, { headers, body })).status;
    };
    const names = Array.from({ length: 10_000 }, (_, i) => [`n${i}`, 0]);
    const token = { token: job.token, state: 'running' };
    assert.equal(await update(JSON.stringify({ ...Object.fromEntries(names), ...token })), 413);
    const levels = `${'['.repeat(5000)}${']'.repeat(5000)}`;
    assert.equal(await update(`{"a":${levels},${JSON.stringify(token).slice(1)}`), 400);
    assertUntouched('JSON that takes long');
    assert.equal(await update(JSON.stringify(token)), 200);
  });

  test('bodies in small chunks take no more than their bytes while they wait', async (t) => {
    const { rig, port, api, job, guest } = await startVictims(t);
    rig.gitlab.inject({ match: { route: 'artifacts-upload' }, do: { hangAfterBytes: 1 } });
    const before = await heapMib();
    const body = `64\r\n${'x'.repeat(100)}\r\n`.repeat(2000);
    const request = head(
      `POST ${api}/jobs/${job.id}/artifacts HTTP/1.1`,
      `JOB-TOKEN: ${job.token}`,
      'Content-Type: multipart/form-data; boundary=x',
      'Transfer-Encoding: chunked',
    );
    const sockets = await Promise.all(
      Array.from({ length: 20 }, async () => {
        const socket = await connect(t, port);
        socket.write(`${request}${body}`);
        return socket;
      }),
    );
    const sent = (): number =>
      sockets.reduce((sum, socket) => sum + socket.bytesWritten - socket.writableLength, 0);
    await standing('the uploads to stand still', sent, 300);
    const grown = (await heapMib()) - before;
    assert.ok(grown < 20, `memory has grown by ${Math.round(grown)} MiB`);
    assert.equal((await guest.log('alive')).status, 202);
  });

  test('a body in chunks of one byte is slowed down', async (t) => {
    const { rig, port, api, job, guest } = await startVictims(t);
    const socket = await connect(t, port);
    const request = head(
      `POST ${api}/jobs/${job.id}/artifacts HTTP/1.1`,
      `JOB-TOKEN: ${job.token}`,
      'Content-Type: multipart/form-data; boundary=x',
      'Transfer-Encoding: chunked',
    );
    const bytes = 100_000;
    socket.write(request + '1\r\nx\r\n'.repeat(bytes));
    const arrived = (): number =>
      rig.gitlab.requests.findLast(({ route }) => route === 'artifacts-upload')?.bodyBytes ?? 0;
    const last = await standing('it to rest', arrived, 500);
    assert.ok(last < bytes / 2, `${last} bytes came at once`);
    assert.equal((await guest.log('alive')).status, 202);
  });

  test('a body behind a refusal: the connection ends, its rest is no request', async (t) => {
    const { port, api, job, guest, other, assertUntouched } = await startVictims(t);
    const smuggled = head(
      `GET ${api}/jobs/${job.id}/runtime_environment_key HTTP/1.1`,
      `JOB-TOKEN: ${job.token}`,
    );
    const request = head(
      `PATCH ${api}/jobs/${job.id}/trace HTTP/1.1`,
      `JOB-TOKEN: ${other.job.token}`,
      'Content-Type: text/plain',
      'Content-Range: 0-99999',
      'Content-Length: 100000',
    );
    const answer = await exchange(t, port, request + smuggled.repeat(1000));
    assert.deepEqual(answer.statuses, [403]);
    assert.match(answer.text, /connection: close/i);
    assertUntouched('what came behind');
    assert.equal((await guest.log('alive')).status, 202);
  });

  test('calls sent ahead: the first is answered, the rest never looked at', async (t) => {
    const { rig, port, api, job } = await startVictims(t);
    const call = head(
      `GET ${api}/jobs/${job.id}/runtime_environment_key HTTP/1.1`,
      `JOB-TOKEN: ${job.token}`,
    );
    const answer = await exchange(t, port, call.repeat(2000));
    assert.deepEqual(answer.statuses, [404], 'GitLab’s answer to the first');
    const reached = rig.gitlab.requests.filter((one) => one.target.includes('environment_key'));
    assert.equal(reached.length, 1);
  });

  test('calls sent ahead of an answer that does not come take no more than their bytes', async (t) => {
    const { rig, port, api, job, guest } = await startVictims(t);
    rig.gitlab.inject({ match: { route: 'artifacts-download' }, do: { hang: true } });
    const call = head(`GET ${api}/jobs/${job.id}/artifacts HTTP/1.1`, `JOB-TOKEN: ${job.token}`);
    const before = await heapMib();
    for (let count = 0; count < 20; count += 1) {
      (await connect(t, port)).write(call + 'GET / HTTP/1.1\r\nHost:\r\n\r\n'.repeat(2000));
    }
    const hanging = () =>
      rig.gitlab.requests.filter((one) => one.route === 'artifacts-download').length;
    await rig.gitlab.waitFor('the calls to hang', () => hanging() === 20);
    const grown = (await heapMib()) - before;
    assert.ok(grown < 20, `memory has grown by ${Math.round(grown)} MiB`);
    assert.equal((await guest.log('alive')).status, 202);
  });

  test('calls in a flood: 429 for the machine that floods, for as long as it does', async (t) => {
    const limits = { callsPerSecond: 5, callBurst: 20 };
    const { job, guest, other } = await startVictims(t, { seams: { limits } });
    const key = (): Promise<{ status: number; headers: Headers }> =>
      guest.call('GET', `jobs/${job.id}/runtime_environment_key`, {
        headers: { 'job-token': job.token },
      });
    const flood = await Promise.all(Array.from({ length: 60 }, key));
    const refused = flood.filter((answer) => answer.status === 429);
    assert.ok(refused.length >= 20, `${refused.length} refused`);
    assert.ok(refused.every((answer) => answer.headers.get('retry-after') === '1'));
    assert.ok(
      flood.some((answer) => answer.status === 404),
      'GitLab’s own answers before',
    );
    assert.equal((await other.guest.log('unimpressed')).status, 202);
    await eventually('the machine to be let in again', async () => (await key()).status === 404);
  });

  test('calls in a flood: a line of the log for each of the first 500, then one a second that says how many were left out', async (t) => {
    const limits = { callsPerSecond: 1e4, connectionsPerSecond: 1e4, connectionBurst: 1000 };
    const { rig, job, guest, other } = await startVictims(t, { seams: { limits } });
    const told = ({ id }: { id: number }): string[] =>
      rig.log.filter((line) => line.includes(`update of job ${id}: 200`));
    const one = async (): Promise<void> => {
      for (let count = 0; count < 75; count += 1) await guest.keepAlive();
    };
    const startedAt = performance.now();
    await Promise.all(Array.from({ length: 8 }, one));
    const seconds = (performance.now() - startedAt) / 1000;
    const lines = told(job).length;
    assert.ok(lines > 450 && lines <= 501 + seconds, `${lines} lines in ${seconds} s`);
    await other.guest.keepAlive();
    assert.equal(told(other.job).length, 2, 'the other’s calls have theirs');
    await eventually('a line that counts the others', async () => {
      await guest.keepAlive();
      return /"leftOut":\d+/.test(told(job).at(-1) ?? '');
    });
  });

  test('calls that GitLab fails: the others do not wait for what becomes of them', async (t) => {
    const timings = { probeMs: 50, repeatMs: 200 };
    const { rig, job, guest, other } = await startVictims(t, { timings });
    const probes = () => rig.gitlab.requests.filter((one) => one.route === 'current-job');
    rig.gitlab.inject({ match: { route: 'trace', jobId: job.id }, do: { status: 500 } });
    guest.log('repeated again and again').catch(() => undefined);
    await rig.gitlab.waitFor('the question whether GitLab is there', () => probes().length === 1);
    // Any answer to the host itself would show that GitLab is there.
    rig.gitlab.inject({ match: { route: 'jobs-request' }, do: { status: 500 } });
    rig.gitlab.inject({ match: { route: 'current-job' }, do: { hang: true } });
    await rig.gitlab.waitFor('the same question again', () => probes().length === 2);
    const answer = await within('the other’s log', other.guest.log('unimpressed'), 5000);
    assert.deepEqual([answer.status, probes()[1]?.status], [202, null]);
  });

  test('new connections in a flood: 429, and the machine keeps those that it has', async (t) => {
    const limits = { connectionsPerSecond: 1, connectionBurst: 20 };
    const { port, api, job, guest, other } = await startVictims(t, { seams: { limits } });
    assert.equal((await guest.log('first')).status, 202);
    const call = head(
      `GET ${api}/jobs/${job.id}/runtime_environment_key HTTP/1.1`,
      `JOB-TOKEN: ${job.token}`,
      'Connection: close',
    );
    const flood = await Promise.all(Array.from({ length: 40 }, () => exchange(t, port, call)));
    const refused = flood.filter((answer) => answer.status === 429);
    assert.ok(refused.length >= 10, `${refused.length} refused`);
    assert.ok(
      flood.some((answer) => answer.status === 404),
      'GitLab’s own answers before',
    );
    assert.equal((await guest.log('second')).status, 202);
    assert.equal((await other.guest.log('unimpressed')).status, 202);
  });

  test('connections of one machine: 64, the next is refused', async (t) => {
    const limits = { callBurst: 100 };
    const { rig, port, api, job, other } = await startVictims(t, { seams: { limits } });
    rig.gitlab.inject({ match: { route: 'artifacts-download' }, do: { hang: true } });
    const call = head(`GET ${api}/jobs/${job.id}/artifacts HTTP/1.1`, `JOB-TOKEN: ${job.token}`);
    for (let count = 0; count < 64; count += 1) (await connect(t, port)).write(call);
    const hanging = () =>
      rig.gitlab.requests.filter((one) => one.route === 'artifacts-download').length;
    await rig.gitlab.waitFor('64 calls to hang', () => hanging() >= 60);
    assert.equal((await exchange(t, port, call)).status, 429);
    assert.equal((await other.guest.log('unimpressed')).status, 202);
  });
});

// By itself: its own memory is much, too.
test('a large job that is asked for over many connections takes its bytes once', async (t) => {
  const { rig, other } = await startVictims(t);
  const pad = 'x'.repeat(8 * MIB);
  const job = rig.queue({ extra: { pad } });
  const guest = await rig.guest(job);
  await guest.request();
  const before = await heapMib();
  const body = JSON.stringify({ token: guest.token });
  const ask = head(
    `POST /${guest.token}/api/v4/jobs/request HTTP/1.1`,
    `Content-Length: ${body.length}`,
  );
  for (let count = 0; count < 40; count += 1) {
    const socket = await connect(t, Number(new URL(guest.url).port));
    socket.write(ask + body);
    await within('an answer', once(socket, 'readable'));
  }
  const grown = (await heapMib()) - before;
  assert.ok(grown < 100, `memory has grown by ${Math.round(grown)} MiB`);
  assert.equal((await other.guest.log('unimpressed')).status, 202);
});

test('10,000 connections that name no machine: the others get in, and the descriptors stay bounded', async (t) => {
  const { port, other, rig } = await startVictims(t);
  const open = (): number => readdirSync('/proc/self/fd').length;
  const before = open();
  const child = fork(path.join(import.meta.dirname, 'support/silent-connections.ts'), [
    String(port),
    '10000',
  ]);
  t.after(() => child.kill('SIGKILL'));
  let most = 0;
  let isSettled = false;
  const settled = within('10,000 connections', once(child, 'message'), 50_000).then(([message]) => {
    isSettled = true;
    return message as { settled: number; closed: number };
  });
  const waits: number[] = [];
  while (!isSettled) {
    const startedAt = performance.now();
    assert.equal((await other.guest.log('x')).status, 202);
    // A connection of its own each time: those already open are nobody's to lose.
    assert.equal((await exchange(t, port, keyOf(other))).status, 404);
    waits.push(performance.now() - startedAt);
    most = Math.max(most, open());
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal((await settled).settled, 10_000);
  assert.ok(most - before < 2048 + 200, `${most - before} descriptors more than before`);
  assert.ok(Math.max(...waits) < 10_000, `longest wait ${Math.max(...waits)} ms`);
  child.kill('SIGKILL');
  await eventually('the descriptors to be free again', () => open() < before + 50, 20_000);
  assert.equal((await other.guest.log('x')).status, 202);
  assert.equal(rig.row(other.job)?.state, 'running');
});

function keyOf({
  guest,
  job,
}: {
  guest: { token: string };
  job: { id: number; token: string };
}): string {
  const line = `GET /${guest.token}/api/v4/jobs/${job.id}/runtime_environment_key HTTP/1.1`;
  return head(line, `JOB-TOKEN: ${job.token}`, 'Connection: close');
}
