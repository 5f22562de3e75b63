/**
 * GitLab is out, in every way and at every call (design §6): each job ends as its script did, with its
 * log byte for byte. A test speaks for the runner and repeats a call only where the official one does.
 */

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { rename } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import { suite, test } from 'node:test';
import type { FaultAction, RouteName, SimJob } from '../fixtures/gitlab/index.ts';
import { eventually, within } from './support/deadline.ts';
import { startFrontRig } from './support/front.ts';
import type { Guest, GuestAnswer } from './support/guest.ts';
import { type Rig, startRig } from './support/rig.ts';

/** The clocks of an outage, a hundred times as fast. */
const TIMINGS = {
  callTimeoutMs: 400,
  updateTimeoutMs: 400,
  downloadTimeoutMs: 400,
  forwardTimeoutMs: 600,
  stallMs: 1000,
  repeatMs: 20,
  repeatCapMs: 100,
  probeMs: 20,
  probeCapMs: 50,
  probeTimeoutMs: 500,
  retryAfterCapMs: 200,
};

const HTML = { contentType: 'text/html', body: '<html><h1>no backend</h1></html>' };

/** What GitLab, or whatever stands before it, does instead of its work. */
const FAULTS: ReadonlyArray<readonly [name: string, action: FaultAction, except?: RouteName]> = [
  ['500', { status: 500 }],
  ['502', { status: 502, ...HTML }],
  ['522', { status: 522, ...HTML }],
  ['429 with Retry-After', { status: 429, headers: { 'retry-after': '1' } }],
  ['408', { status: 408 }],
  ['the 404 of a box in between', { status: 404, ...HTML }, 'artifacts-download'],
  ['the 403 of a box in between', { status: 403, ...HTML }, 'artifacts-download'],
  ['the 401 of a box in between', { status: 401, ...HTML }, 'artifacts-download'],
  [
    'its way to a sign-in',
    { status: 302, headers: { location: '/sign_in' }, ...HTML },
    'artifacts-download',
  ],
  ['its page that says 200', { status: 200, ...HTML }],
  ['hanging', { hang: true }],
  ['cut at once', { cutBeforeAnswer: true }],
  ['cut within the body', { cutAfterBytes: 100_000 }],
  ['a body that is read no further', { hangAfterBytes: 1000 }],
  ['cut in the middle of the answer', { cutAnswerAfterBytes: 1 }],
];

const STEPS: readonly RouteName[] = [
  'job-update',
  'trace',
  'artifacts-upload',
  'artifacts-download',
];

const as = (job: SimJob): Record<string, string> => ({ 'job-token': job.token });

function archive(content: Buffer): FormData {
  const form = new FormData();
  form.append('file', new Blob([new Uint8Array(content)]), 'artifacts.zip');
  return form;
}

/** The helper's tries: another one on a network error or a 5xx, six at most. */
async function tried(call: () => Promise<GuestAnswer>): Promise<GuestAnswer> {
  for (let attempt = 1; ; attempt += 1) {
    const answer = await call().catch((error: Error) => error);
    const isFailed = answer instanceof Error || answer.status >= 500;
    if (!isFailed) return answer;
    if (attempt === 6) {
      throw new Error(answer instanceof Error ? answer.message : `answered ${answer.status}`);
    }
  }
}

/** Until GitLab has the final state: the runner repeats a 202 without limit. */
async function finished(guest: Guest, state: 'success' | 'failed' = 'success'): Promise<number> {
  for (;;) {
    const { status } = await guest.finish(state);
    if (status !== 202) return status;
  }
}

async function settled(rig: Rig, job: SimJob, guest: Guest): Promise<void> {
  await guest.powerOff();
  const row = await eventually(
    `job ${job.name} to have ended`,
    () => rig.status().history.find((one) => one.id === String(job.id)),
    30_000,
  );
  assert.equal(row.outcome, 'success');
  assert.equal(job.status, 'success');
  assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
}

suite('a job whose every call fails at first', { concurrency: 6 }, () => {
  for (const [name, action, except] of FAULTS) {
    test(name, async (t) => {
      const rig = await startRig(t, { timings: TIMINGS });
      const job = rig.queue({ name, artifacts: [{ paths: ['out'] }] });
      const guest = await rig.guest(job);
      await guest.request();
      const strike = (route: RouteName): void => {
        if (route !== except) rig.gitlab.inject({ match: { route, times: 2 }, do: action });
      };
      for (const route of STEPS) strike(route);

      assert.equal((await guest.keepAlive()).status, 200);
      assert.equal((await guest.log('first\n')).status, 202);
      const content = randomBytes(300_000);
      const uploaded = await tried(() =>
        guest.call('POST', `jobs/${job.id}/artifacts`, {
          headers: as(job),
          body: archive(content),
        }),
      );
      assert.equal(uploaded.status, 201);
      const got = await tried(() =>
        guest.call('GET', `jobs/${job.id}/artifacts`, { headers: as(job) }),
      );
      assert.equal(got.status, 200);
      assert.ok(got.body.equals(content));
      assert.equal(job.artifacts[0]?.sha256, createHash('sha256').update(content).digest('hex'));
      strike('trace');
      assert.equal((await guest.log('second\n')).status, 202);
      strike('job-update');
      assert.equal(await finished(guest), 200);
      await settled(rig, job, guest);
      assert.equal(job.log.toString(), 'first\nsecond\n');
    });
  }
});

test('a download that is cut off again and again: its next try waits for better days', async (t) => {
  const rig = await startRig(t, { timings: TIMINGS });
  const { job, guest } = await rig.running({ artifacts: [{ paths: ['out'] }] });
  const content = randomBytes(300_000);
  const upload = { headers: as(job), body: archive(content) };
  assert.equal((await guest.call('POST', `jobs/${job.id}/artifacts`, upload)).status, 201);
  rig.gitlab.inject({
    match: { route: 'artifacts-download', times: 2 },
    do: { cutAnswerAfterBytes: 100_000 },
  });
  const got = await tried(() =>
    guest.call('GET', `jobs/${job.id}/artifacts`, { headers: as(job) }),
  );
  assert.ok(got.body.equals(content));
  // The line of a call is written after its guest has the whole answer.
  const heldMs = await eventually('a line of the log for each try', () => {
    const found = rig.log
      .filter((line) => line.includes('artifacts-download of job') && line.includes('heldMs'))
      .map((line) => Number(/"heldMs":([\d.]+)/.exec(line)?.[1]));
    return found.length >= 3 && found;
  });
  assert.equal(heldMs.length, 3);
  assert.equal(heldMs[0], 0);
  // Node's timers count whole milliseconds: one may fire within the last of them.
  assert.ok((heldMs[1] ?? 0) >= 79 && (heldMs[2] ?? 0) >= 319, String(heldMs));
  assert.equal(await finished(guest), 200);
  await settled(rig, job, guest);
});

suite('a GitLab that refuses connections', { concurrency: 3 }, () => {
  test('holds every call, says so, and lets them go on when it is back', async (t) => {
    const rig = await startRig(t, {
      timings: { ...TIMINGS, stallMs: 30_000, forwardTimeoutMs: 30_000 },
    });
    const { job, guest } = await rig.running({ artifacts: [{ paths: ['out'] }] });
    const content = randomBytes(5_000_000);
    const upload = (): Promise<GuestAnswer> =>
      guest.call('POST', `jobs/${job.id}/artifacts`, { headers: as(job), body: archive(content) });
    assert.equal((await upload()).status, 201);

    await rig.gitlab.takeDown();
    const calls = [
      guest.keepAlive(),
      guest.log('held'),
      upload(),
      guest.call('GET', `jobs/${job.id}/artifacts`, { headers: as(job) }),
    ];
    const health = () => rig.status().providers.find((one) => one.id === 'gitlab')?.status.health;
    await eventually('the outage to be told', () =>
      /^GitLab is out since \d{4}-.*: /.test(health()?.message ?? ''),
    );
    assert.equal(health()?.status, 'down');
    const settledCalls = await Promise.race([
      Promise.any(calls),
      new Promise((resolve) => setTimeout(resolve, 300)),
    ]);
    assert.equal(settledCalls, undefined, 'all are held');
    await rig.gitlab.bringBack();
    const statuses = await within('the held calls', Promise.all(calls));
    assert.deepEqual(
      statuses.map((answer) => answer.status),
      [200, 202, 201, 200],
    );
    assert.ok(statuses[3]?.body.equals(content));
    await eventually('health to recover', () => health()?.status === 'ok');
    assert.equal(await finished(guest), 200);
    await settled(rig, job, guest);
    assert.match(rig.log.join('\n'), /GitLab answers again/);
  });

  test('frees a finished machine whose log it has, and gets the final update later', async (t) => {
    const rig = await startRig(t, { timings: TIMINGS });
    const { job, guest } = await rig.running();
    await guest.log('all of it');
    await rig.gitlab.takeDown();
    assert.equal((await guest.finish('success', { exit_code: 0 })).status, 200);
    await guest.powerOff();
    await eventually('its memory to be free', () => rig.status().pool.usedBytes === 0);
    assert.equal(rig.row(job)?.state, 'finishing');
    assert.equal(job.status, 'running');
    await eventually('its token to be dead', async () => {
      const answer = await guest.log('x').catch(() => undefined);
      return answer?.status === 403;
    });
    await rig.gitlab.bringBack();
    assert.equal((await rig.ended(job)).outcome, 'success');
    assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
  });

  test('keeps a finished machine whose log it has not, with the answers on which it waits', async (t) => {
    const rig = await startRig(t, { timings: { ...TIMINGS, holdLimitMs: 300 } });
    const { job, guest } = await rig.running();
    await guest.log('first');
    await rig.gitlab.takeDown();
    const refused = await guest.log(' second');
    assert.deepEqual([refused.status, refused.headers.get('range')], [416, '0-5']);
    const whole = { output: { checksum: 'crc32:00000000', bytesize: 12 } };
    const pending = await guest.finish('success', whole);
    assert.equal(pending.status, 202);
    assert.ok(Number(pending.headers.get('x-gitlab-trace-update-interval')) > 0);
    const alive = await guest.keepAlive();
    assert.deepEqual([alive.status, alive.headers.get('retry-after')], [503, '1']);
    const download = await guest.call('GET', `jobs/${job.id}/artifacts`, { headers: as(job) });
    assert.equal(download.status, 503);
    assert.equal(rig.row(job)?.state, 'running');
    await rig.gitlab.bringBack();
    // As runners do: until then they are told to wait.
    await eventually(
      'the rest of the log',
      async () => (await guest.log(' second')).status === 202,
    );
    assert.equal(await finished(guest), 200);
    await settled(rig, job, guest);
  });

  test('takes no final update over that it could not write down', async (t) => {
    const rig = await startRig(t, { timings: { ...TIMINGS, holdLimitMs: 300 } });
    const { job, guest } = await rig.running();
    await guest.log('x');
    await rig.gitlab.takeDown();
    const journal = path.join(rig.directory, 'base/state/gitlab/leases');
    await rename(journal, `${journal}.away`);
    assert.equal((await guest.finish('success')).status, 202);
    assert.equal(rig.row(job)?.state, 'running');
    await rename(`${journal}.away`, journal);
    await rig.gitlab.bringBack();
    assert.equal(await finished(guest), 200);
    await settled(rig, job, guest);
  });

  test('a final update that was remembered is delivered without its machine, too', async (t) => {
    const rig = await startRig(t, { timings: TIMINGS });
    const { job, guest } = await rig.running();
    await guest.log('x');
    assert.equal((await guest.finish('failed', { failure_reason: 'script_failure' })).status, 202);
    await rig.gitlab.takeDown();
    assert.equal((await guest.finish('failed', { failure_reason: 'script_failure' })).status, 200);
    await rig.gitlab.bringBack();
    await guest.powerOff();
    assert.equal((await rig.ended(job)).outcome, 'failed');
    assert.equal(job.failureReason, 'script_failure');
  });
});

suite('a GitLab whose every answer is', { concurrency: 2 }, () => {
  const rows: ReadonlyArray<readonly [name: string, action: FaultAction]> = [
    ['500', { status: 500 }],
    ['503', { status: 503, headers: { 'retry-after': '3600' } }],
    ['the page of a box in between', { status: 404, ...HTML }],
    ['a page that says 200', { status: 200, ...HTML }],
    ['a way to a sign-in', { status: 302, headers: { location: '/sign_in' }, ...HTML }],
    ['none', { hang: true }],
    ['cut', { cutBeforeAnswer: true }],
  ];
  for (const [name, action] of rows) {
    test(`${name}: it is out, for all, until it answers`, async (t) => {
      const rig = await startRig(t, { timings: TIMINGS });
      const { job, guest } = await rig.running();
      const other = await rig.running();
      // But for asking for jobs: an ask is waited for, for minutes where it hangs.
      const route = [...STEPS, 'current-job'] as const;
      const fault = rig.gitlab.inject({ match: { route }, do: action });
      const calls = [guest.log('x'), other.guest.keepAlive()];
      const health = () => rig.status().providers[0]?.status.health;
      await eventually('the outage', () => /out since/.test(health()?.message ?? ''));
      const late = other.guest.log('late');
      fault.remove();
      const answers = await within('the held calls', Promise.all([...calls, late]));
      assert.deepEqual(
        answers.map((answer) => answer.status),
        [202, 200, 202],
      );
      await eventually('health to recover', () => health()?.status === 'ok');
      assert.equal(job.log.toString(), 'x');
    });
  }
});

test('a refusal by what stands before GitLab does not end an outage', async (t) => {
  const { rig, answer } = await startFrontRig(t, { timings: TIMINGS });
  const { job, guest } = await rig.running();
  const other = await rig.running();
  const began = Promise.withResolvers<void>();
  const refuse = Promise.withResolvers<void>();
  answer('refuser', (incoming, outgoing) => {
    incoming.resume();
    began.resolve();
    void refuse.promise.then(() => {
      outgoing.writeHead(413, { 'content-type': 'text/html' }).end('<h1>too large</h1>');
    });
  });
  const upload = guest.call('POST', `jobs/${job.id}/artifacts`, {
    headers: { ...as(job), 'user-agent': 'front refuser' },
    body: archive(Buffer.alloc(10)),
  });
  await within('the upload', began.promise);
  const route = [...STEPS, 'current-job', 'jobs-request'] as const;
  const fault = rig.gitlab.inject({ match: { route }, do: { status: 502 } });
  const held = other.guest.log('held');
  const seen = (wanted: RouteName): number =>
    rig.gitlab.requests.filter((request) => request.route === wanted).length;
  await eventually('the outage', () => seen('current-job') > 1);
  refuse.resolve();
  assert.equal((await within('the refusal', upload)).status, 413);
  const probes = seen('current-job');
  await eventually('more probes', () => seen('current-job') > probes + 1);
  assert.equal(seen('trace'), 1, 'the held call was not let out');
  fault.remove();
  assert.equal((await within('the held call', held)).status, 202);
});

suite('an answer that is lost', { concurrency: 3 }, () => {
  test('of a log that was taken: the repeat is answered as the first would have been', async (t) => {
    const rig = await startRig(t, { timings: TIMINGS });
    const { job, guest } = await rig.running();
    rig.gitlab.inject({ match: { route: 'trace', times: 1 }, do: { loseAnswer: true } });
    const answer = await guest.log('taken once');
    assert.deepEqual([answer.status, answer.headers.get('range')], [202, '0-10']);
    assert.equal(answer.headers.get('job-status'), 'running');
    assert.equal(job.log.toString(), 'taken once');
  });

  test('a 416 that is none of our doing is handed through', async (t) => {
    const rig = await startRig(t, { timings: TIMINGS });
    const { job, guest } = await rig.running();
    rig.gitlab.inject({ match: { route: 'trace', times: 1 }, do: { status: 502 } });
    const answer = await guest.call('PATCH', `jobs/${job.id}/trace`, {
      headers: { ...as(job), 'content-type': 'text/plain', 'content-range': '7-9' },
      body: 'abc',
    });
    assert.deepEqual([answer.status, answer.headers.get('range')], [416, '0-0']);
  });

  test('of a final update that was taken, where the log is not known to be whole', async (t) => {
    const rig = await startRig(t, { timings: TIMINGS });
    const { job, guest } = await rig.running();
    rig.gitlab.inject({ match: { route: 'job-update', nth: 2 }, do: { loseAnswer: true } });
    const more = { output: {} };
    await guest.keepAlive();
    const answer = await guest.finish('success', more);
    assert.deepEqual([answer.status, answer.headers.get('job-status')], [200, 'success']);
    await guest.powerOff();
    const row = await rig.ended(job);
    assert.deepEqual([row.outcome, row.reason], ['success', null]);
  });
});

suite('what one call fails with holds nobody else', { concurrency: 3 }, () => {
  test('a job whose log is answered 500 for ever', async (t) => {
    const rig = await startRig(t, { timings: { ...TIMINGS, holdLimitMs: 1500 } });
    const one = await rig.running();
    const other = await rig.running();
    rig.gitlab.inject({
      match: { route: 'trace', jobId: one.job.id },
      do: { status: 500 },
    });
    const broken = one.guest.log('never taken');
    for (let n = 0; n < 20; n += 1) {
      assert.equal((await other.guest.log(`line ${n}\n`)).status, 202);
    }
    assert.equal(rig.status().providers[0]?.status.health.status, 'ok');
    assert.equal((await broken).status, 416);
  });

  test('a machine with too many held calls gets the answers on which it waits, at once', async (t) => {
    const rig = await startRig(t, { timings: TIMINGS });
    const { job, guest } = await rig.running();
    await rig.gitlab.takeDown();
    const get = (): Promise<GuestAnswer> =>
      guest.call('GET', `jobs/${job.id}/artifacts`, { headers: as(job) });
    const held = Array.from({ length: 16 }, get);
    for (const call of held) call.catch(() => undefined);
    await eventually('all to be held', async () => (await get()).status === 503);
    const refused = await guest.log('x');
    assert.deepEqual([refused.status, refused.headers.get('range')], [416, '0-0']);
    await rig.gitlab.bringBack();
    assert.deepEqual(
      new Set((await Promise.all(held)).map(({ status }) => status)),
      new Set([404]),
    );
  });

  test('an end of the lease ends its held calls, and closes its connections', async (t) => {
    const rig = await startRig(t, { timings: TIMINGS });
    const { job, guest } = await rig.running();
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    t.after(() => agent.destroy());
    const closed = Promise.withResolvers<void>();
    const idle = http.request(`${guest.url}/api/v4/jobs/${job.id}/artifacts`, {
      agent,
      headers: as(job),
    });
    idle.once('socket', (socket) => socket.once('close', () => closed.resolve()));
    idle.once('response', (answer) => answer.resume());
    idle.end();
    await eventually('the first answer', () => Object.keys(agent.freeSockets).length === 1);
    await rig.gitlab.takeDown();
    const held = guest.log('held');
    held.catch(() => undefined);
    await eventually('GitLab to be out', () =>
      /out since/.test(rig.status().providers[0]?.status.health.message ?? ''),
    );
    guest.kill();
    await within('the idle connection to close', closed.promise);
    await assert.rejects(within('the held call to end', held), /ECONNRESET|hang up/);
    await rig.gitlab.bringBack();
    assert.equal((await rig.ended(job)).outcome, 'system_failure');
  });
});
