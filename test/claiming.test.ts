/** Asking GitLab for jobs (design §5): every kind of answer, and what users see of it. */

import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import { suite, test } from 'node:test';
import { startHost } from '../fixtures/host/src/index.ts';
import { type Answer, ask } from '../fixtures/testing/ask.ts';
import { eventually } from './support/deadline.ts';
import { writePrivate } from './support/files.ts';
import { createRig, journalOf, type Rig, startRig } from './support/rig.ts';

const runnerRow = (rig: Rig, name = 'build') => {
  const row = rig.status().providers[0]?.status.runners.find((one) => one.name === name);
  if (row === undefined) throw new Error(`no runner ${name}`);
  return row;
};
const asks = (rig: Rig): number =>
  rig.gitlab.requests.filter((request) => request.route === 'jobs-request').length;

suite('answers that are no job', { concurrency: 4 }, () => {
  test('204: asked again after the check interval; no room is held meanwhile, no last_update sent', async (t) => {
    const rig = await startRig(t);
    await rig.gitlab.waitFor('two asks', () => asks(rig) >= 2);
    assert.equal(runnerRow(rig).lastAnswer, '204: no job');
    assert.equal(runnerRow(rig).health, 'ok');
    await eventually('no room to be held', () => rig.status().pool.usedBytes === 0);
    const body = JSON.parse(rig.gitlab.requests[0]!.body.toString());
    assert.deepEqual(Object.keys(body).sort(), ['info', 'system_id', 'token']);
    assert.ok(body.info.features.cancel_gracefully);
    assert.ok(!body.info.features.two_phase_job_commit && !body.info.features.session);
  });

  test('409: asked again soon', async (t) => {
    const rig = await createRig(t);
    rig.gitlab.inject({ match: { route: 'jobs-request', times: 2 }, do: { status: 409 } });
    const job = rig.queue();
    await rig.start();
    await rig.guest(job);
    assert.equal(runnerRow(rig).health, 'ok');
  });

  for (const [what, action] of [
    ['500', { status: 500 }],
    [
      'an HTML error page instead of JSON',
      { status: 502, body: '<html>Bad', contentType: 'text/html' },
    ],
    ['429', { status: 429, headers: { 'retry-after': '0' } }],
    ['a cut connection', { cutBeforeAnswer: true }],
    ['a 200 with HTML', { status: 200, body: '<html>Log in', contentType: 'text/html' }],
  ] as const) {
    test(`${what}: backs off, says so, and recovers by itself`, async (t) => {
      const rig = await createRig(t);
      const fault = rig.gitlab.inject({ match: { route: 'jobs-request' }, do: action });
      const job = rig.queue();
      await rig.start();
      await eventually('two failed asks', () => fault.hits >= 2);
      assert.equal(runnerRow(rig).health, 'unhealthy');
      await eventually('the reason', () =>
        /GitLab is out|broken/.test(runnerRow(rig).notClaiming ?? ''),
      );
      assert.ok(rig.log.some((line) => /did not answer|cannot be read/.test(line)));
      assert.equal(rig.status().machines.length, 0);
      fault.remove();
      await rig.guest(job);
      assert.equal(runnerRow(rig).health, 'ok');
    });
  }

  test('an answer that is lost after GitLab assigned the job: GitLab’s sweep ends it, we go on', async (t) => {
    const rig = await createRig(t, { simulator: { timings: { stuckRunningMs: 0 } } });
    rig.gitlab.inject({ match: { route: 'jobs-request', times: 1 }, do: { loseAnswer: true } });
    const lost = rig.queue();
    await rig.start();
    await rig.gitlab.waitFor('the job to be assigned', () => lost.status === 'running');
    const next = rig.queue();
    await rig.guest(next);
    rig.gitlab.sweep();
    assert.equal(lost.failureReason, 'no_updates_running');
  });
});

suite('a 201 that is no job', { concurrency: 4 }, () => {
  for (const [what, body] of [
    ['a broken body', '{"id": 5, "token": "glcbt-'],
    ['no id', '{"token":"glcbt-64_secretsecret"}'],
    ['no token', '{"id":77}'],
    ['an id that is no number', '{"id":"77","token":"glcbt-64_secretsecret"}'],
    ['an array', '[]'],
    ['nothing', ''],
  ] as const) {
    test(`${what}: logged without its content, no machine, no room, and it goes on`, async (t) => {
      const rig = await createRig(t);
      rig.gitlab.inject({ match: { route: 'jobs-request', times: 1 }, do: { status: 201, body } });
      await rig.start();
      await eventually('the log to tell', () =>
        rig.log.some((line) => line.includes('cannot be read')),
      );
      const job = rig.queue();
      await rig.guest(job);
      assert.ok(!rig.log.join('').includes('secretsecret'));
      assert.equal(rig.status().machines.length, 1);
      assert.equal((await journalOf(rig)).length, 1);
    });
  }

  test('a job of which the beginning came, with its token: failed by us, with the reason in its log', async (t) => {
    const rig = await createRig(t);
    rig.gitlab.inject({
      match: { route: 'jobs-request', times: 1 },
      do: { cutAnswerAfterBytes: 500 },
    });
    const job = rig.queue();
    await rig.start();
    const row = await rig.ended(job);
    assert.deepEqual([row.outcome, job.status], ['system_failure', 'failed']);
    assert.equal(row.machine, '', 'it never had one');
    assert.equal(job.failureReason, 'runner_system_failure');
    assert.match(job.log.toString(), /ERROR: what GitLab sent of this job .* was cut off/);
    assert.ok(rig.log.some((line) => line.includes(`job ${job.id} that cannot be read`)));
    assert.ok(!rig.log.join('').includes(job.token));
    assert.deepEqual(await journalOf(rig), []);
    await rig.guest(rig.queue());
  });

  test('a body that breaks off within the token: nobody can end that job, and it goes on', async (t) => {
    const rig = await createRig(t);
    rig.gitlab.inject({
      match: { route: 'jobs-request', times: 1 },
      do: { cutAnswerAfterBytes: 40 },
    });
    rig.queue();
    await rig.start();
    const next = rig.queue();
    await rig.guest(next);
    assert.equal(rig.status().machines.length, 1);
  });
});

suite('a token that GitLab refuses', { concurrency: 4 }, () => {
  test('makes this runner unhealthy, asked rarely; all else goes on; a changed file is read again', async (t) => {
    const rig = await createRig(t, { moreRunners: [{ name: 'other' }] });
    rig.gitlab.revokeRunner(rig.runner.token);
    await rig.start();
    await eventually('the runner to be unhealthy', () => runnerRow(rig).health === 'unhealthy');
    assert.match(runnerRow(rig).notClaiming ?? '', /^token refused since \d\d:\d\d UTC/);
    const refused = (): number =>
      rig.gitlab.requests.filter((request) => request.status === 403).length;
    assert.ok(refused() <= 2);
    const job = rig.queue();
    const guest = await rig.guest(job);
    await guest.takeJob();
    assert.equal(rig.row(job)?.runner, 'other');
    assert.equal(rig.status().providers[0]?.status.health.status, 'degraded');
    assert.ok(refused() <= 2);
    const renewed = rig.gitlab.createRunner({ tokenStyle: 'glrt-t1' });
    await writePrivate(path.join(rig.directory, 'runner-0.token'), `${renewed.token}\n`);
    await eventually('the runner to be healthy', () => runnerRow(rig).health === 'ok');
  });

  test('a file without a token: the runner says so, and goes on as soon as there is one', async (t) => {
    const rig = await startRig(t);
    await rig.gitlab.waitFor('an ask', () => asks(rig) >= 1);
    const file = path.join(rig.directory, 'runner-0.token');
    const token = await readFile(file, 'utf8');
    await writePrivate(file, '');
    await eventually('the reason', () => /is empty/.test(runnerRow(rig).notClaiming ?? ''));
    const job = rig.queue();
    await writePrivate(file, token);
    await rig.guest(job);
    assert.equal(runnerRow(rig).health, 'ok');
  });

  test('one that is replaced while its runner waits for room: the new one asks', async (t) => {
    const rig = await createRig(t, { ram: '1G', timings: { verifyAfterMs: 150 } });
    const [first, second] = [rig.queue(), rig.queue()];
    await rig.start();
    const guest = await rig.guest(first);
    await guest.takeJob();
    const renewed = rig.gitlab.createRunner();
    const isVerified = (request: { readonly route: string; readonly body: Buffer }): boolean =>
      request.route === 'runners-verify' && request.body.includes(renewed.token);
    rig.gitlab.revokeRunner(rig.runner.token);
    await writePrivate(path.join(rig.directory, 'runner-0.token'), renewed.token);
    await rig.gitlab.waitFor('a sign of life', () => rig.gitlab.requests.some(isVerified));
    await guest.finish('success');
    await guest.powerOff();
    await rig.guest(second);
    assert.ok(!rig.log.some((line) => line.includes('refuses the runner token')));
  });

  test('a token of the older form, without a prefix, works just as well', async (t) => {
    const rig = await createRig(t);
    const legacy = rig.gitlab.createRunner({ tokenStyle: 'legacy' });
    await writePrivate(path.join(rig.directory, 'runner-0.token'), legacy.token);
    const job = rig.queue();
    await rig.start();
    const guest = await rig.guest(job);
    assert.match(guest.token, /^glrt-/);
    assert.equal((await guest.request()).status, 201);
  });
});

suite('what holds a runner back', { concurrency: 4 }, () => {
  test('its limit', async (t) => {
    const rig = await createRig(t, { runner: { limit: 1 } });
    const [first, second] = [rig.queue(), rig.queue()];
    await rig.start();
    const guest = await rig.guest(first);
    await eventually('the reason', () => runnerRow(rig).notClaiming === 'limit 1 reached');
    assert.equal(second.status, 'pending');
    await guest.takeJob();
    await guest.finish('success');
    await guest.powerOff();
    await rig.guest(second);
  });

  test('a full host, with the reason in words', async (t) => {
    const rig = await createRig(t, { ram: '1G' });
    const [first, second] = [rig.queue(), rig.queue()];
    await rig.start();
    await rig.guest(first);
    await eventually('the reason', () => /GiB|MiB/.test(runnerRow(rig).notClaiming ?? ''));
    assert.equal(second.status, 'pending');
    assert.equal(rig.status().machines.length, 1);
  });

  test('a pause, until it is lifted, and over a restart', async (t) => {
    const rig = await startRig(t);
    const control = (paused: boolean): Promise<Answer> =>
      ask(
        { socketPath: rig.host.controlSocket, path: '/pause', method: 'POST' },
        JSON.stringify({ provider: 'gitlab', runner: 'build', paused }),
      );
    assert.ok((await control(true)).status < 300);
    await eventually('the pause', () => runnerRow(rig).notClaiming === 'paused');
    const job = rig.queue();
    const before = asks(rig);
    await rig.host.stop('leave');
    await rig.start();
    assert.equal(runnerRow(rig).paused, true);
    assert.equal(asks(rig), before);
    await control(false);
    await rig.guest(job);
  });

  test('the expiry of its token is known, also where it is never idle', async (t) => {
    const rig = await createRig(t, { runner: { limit: 1 } });
    Object.assign(rig.runner, { tokenExpiresAt: '2031-02-03T04:05:06.000Z' });
    const job = rig.queue();
    await rig.start();
    await rig.guest(job);
    assert.notEqual(runnerRow(rig).lastAnswer, '204: no job');
    await eventually(
      'the expiry',
      () => runnerRow(rig).tokenExpiresAt === Date.parse('2031-02-03T04:05:06.000Z'),
    );
  });

  test('the expiry of a new token is known at once, too', async (t) => {
    const rig = await createRig(t);
    Object.assign(rig.runner, { tokenExpiresAt: '2031-02-03T04:05:06.000Z' });
    await rig.start();
    await eventually('the expiry', () => runnerRow(rig).tokenExpiresAt != null);
    const renewed = rig.gitlab.createRunner();
    await writePrivate(path.join(rig.directory, 'runner-0.token'), renewed.token);
    await eventually('that there is none', () => runnerRow(rig).tokenExpiresAt === null);
  });

  test('a runner at its limit whose token file was empty for a while is healthy again by itself', async (t) => {
    const rig = await createRig(t, { runner: { limit: 1 }, timings: { verifyAfterMs: 150 } });
    const job = rig.queue();
    await rig.start();
    await rig.guest(job);
    const file = path.join(rig.directory, 'runner-0.token');
    await writePrivate(file, '');
    await eventually('the runner to be unhealthy', () => runnerRow(rig).health === 'unhealthy');
    await writePrivate(file, rig.runner.token);
    await eventually('the runner to be healthy', () => runnerRow(rig).health === 'ok');
    assert.equal(runnerRow(rig).notClaiming, 'limit 1 reached');
  });

  test('a token that expires within seven days is warned of, one that does later is not', async (t) => {
    const rig = await createRig(t, { moreRunners: [{ name: 'later' }] });
    const days = (count: number) => new Date(Date.now() + count * 86_400_000).toISOString();
    const later = rig.gitlab.createRunner();
    await writePrivate(path.join(rig.directory, 'runner-1.token'), later.token);
    Object.assign(rig.runner, { tokenExpiresAt: days(6.9) });
    Object.assign(later, { tokenExpiresAt: days(7.1) });
    await rig.start();
    for (const name of ['build', 'later']) {
      await eventually(`the expiry of ${name}`, () => runnerRow(rig, name).tokenExpiresAt != null);
    }
    const warned = rig.log.filter((line) => /the token of runner \w+ expires at/.test(line));
    assert.equal(warned.length, 1);
    assert.match(warned[0] ?? '', /the token of runner build .*"level":"WARN"/);
  });

  test('a runner at its limit, or paused, still tells GitLab that it is there', async (t) => {
    const rig = await createRig(t, { runner: { limit: 1 }, timings: { verifyAfterMs: 150 } });
    const job = rig.queue();
    await rig.start();
    await rig.guest(job);
    await eventually('the limit', () => runnerRow(rig).notClaiming === 'limit 1 reached');
    const verified = (): number =>
      rig.gitlab.requests.filter((request) => request.route === 'runners-verify').length;
    await rig.gitlab.waitFor('runners/verify', () => verified() >= 2);
    const { body } = rig.gitlab.requests.findLast(({ route }) => route === 'runners-verify')!;
    assert.ok(JSON.parse(body.toString()).info.features.cancel_gracefully, 'with its full info');
    const control = { socketPath: rig.host.controlSocket, path: '/pause', method: 'POST' };
    await ask(control, JSON.stringify({ provider: 'gitlab', runner: 'build', paused: true }));
    await eventually('the pause', () => runnerRow(rig).notClaiming === 'paused');
    const before = verified();
    await rig.gitlab.waitFor('runners/verify', () => verified() >= before + 2);
  });

  test('a runner without room still tells GitLab that it is there', async (t) => {
    const rig = await createRig(t, { ram: '1G', timings: { verifyAfterMs: 150 } });
    const job = rig.queue();
    await rig.start();
    await rig.guest(job);
    const verified = (): number =>
      rig.gitlab.requests.filter((request) => request.route === 'runners-verify').length;
    const waiting = () => rig.status().pool.waiting.map((row) => row.since);
    await eventually('the wait for room', () => waiting().length === 1);
    const since = waiting();
    await rig.gitlab.waitFor('runners/verify', () => verified() >= 2);
    assert.deepEqual(waiting(), since, 'its request keeps its place');
  });
});

suite('starting', { concurrency: 4 }, () => {
  test('while GitLab cannot be reached: starts, says so, keeps trying', async (t) => {
    const dead = 'http://127.0.0.1:9';
    const rig = await startRig(t, { section: { url: dead } });
    await eventually('the runner to say so', () => runnerRow(rig).health === 'unhealthy');
    await eventually('the reason', () =>
      /GitLab is out: .*refused/i.test(runnerRow(rig).notClaiming ?? ''),
    );
    assert.equal(rig.status().providers[0]?.status.health.status, 'down');
    assert.ok(rig.log.some((line) => line.includes('did not answer runner build')));
  });

  test('asks at once when an outage is over, however long its wait would have been', async (t) => {
    const timings = { backoffMs: 60_000, backoffCapMs: 60_000, probeMs: 50, probeCapMs: 50 };
    const rig = await createRig(t, { timings, seams: { random: () => 0.99 } });
    await rig.gitlab.takeDown();
    await rig.start();
    await eventually('the outage', () =>
      /^GitLab is out since/.test(rig.status().providers[0]?.status.health.message ?? ''),
    );
    assert.ok((runnerRow(rig).nextAskAt ?? 0) > Date.now() + 30_000);
    const job = rig.queue();
    await rig.gitlab.bringBack();
    await rig.guest(job);
  });

  test('where the port is taken: refuses, naming it and the setting, and leaves nothing', async (t) => {
    const taken = http.createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    t.after(() => taken.close());
    const { port } = taken.address() as { port: number };
    const rig = await createRig(t, { section: { listen: `127.0.0.1:${port}` } });
    await assert.rejects(rig.start(), {
      code: 'address_in_use',
      message: `gitlab.guests: 127.0.0.1:${port} is in use by another process: stop that one, or choose another port (gitlab.listen in the configuration)`,
    });
    // Nothing of the failed start keeps a second one from this directory.
    const file = path.join(rig.directory, 'config.yaml');
    const text = await readFile(file, 'utf8');
    await writeFile(file, text.replace(`127.0.0.1:${port}`, '127.0.0.1:0'));
    await rig.start();
  });

  test('a 201 that comes twice: the job runs once, and its room is free again', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    job.answerAgain = true;
    await eventually('the answer to come again', () => !job.answerAgain);
    // Only once the second answer is done with does the runner ask again.
    const before = asks(rig);
    await eventually('the runner to ask again', () => asks(rig) > before);
    assert.equal(rig.status().machines.length, 1);
    assert.equal(rig.row(job)?.machine, guest.runnerName);
    assert.equal((await guest.finish('success')).status, 200);
    await guest.powerOff();
    assert.equal((await rig.ended(job)).outcome, 'success');
    assert.equal((await journalOf(rig)).length, 0);
  });

  test('a second host on the same directory is refused', async (t) => {
    const rig = await startRig(t);
    await assert.rejects(startHost({ configFile: path.join(rig.directory, 'config.yaml') }), {
      name: 'HostError',
    });
  });
});
