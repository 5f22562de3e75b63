/** Everything that may take for ever, and does not: each limit with its own reason, in the log and in the metric. */

import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { eventually } from './support/deadline.ts';
import { startTestHost, type TestHost } from './support/test-host/index.ts';

const LONG_MS = 30_000;
const HOURS = 60 * 60 * 1000;

const causes = (host: TestHost): (string | undefined)[] =>
  host.endedLabels.map((labels) => labels['cause']);

suite('a time limit', { concurrency: 4 }, () => {
  test('of a runner that never asks: one more machine, then a system failure', async (t) => {
    const host = await startTestHost(t, { timings: { askLimitMs: 300 } });
    const job = host.queue();
    await host.ended(job);
    assert.equal(host.machines.length, 2);
    assert.deepEqual([job.status, job.failureReason], ['failed', 'runner_system_failure']);
    assert.match(job.log.toString(), /its runner did not ask for its job within/);
    assert.deepEqual(causes(host), ['never-asked']);
  });

  test('of a runner that never speaks after the offer', async (t) => {
    const host = await startTestHost(t, { timings: { firstCallLimitMs: 300 } });
    const job = host.queue();
    await (await host.guest(job)).request();
    await (await host.guest(job, 2)).request();
    await host.ended(job);
    assert.equal(job.failureReason, 'runner_system_failure');
    assert.match(job.log.toString(), /was given the job and did not speak for it/);
    assert.deepEqual(causes(host), ['never-spoke']);
  });

  test('of the job itself: its timeout, and the time to wind up', async (t) => {
    const host = await startTestHost(t, { timings: { jobGraceMs: 1 } });
    const { job, machine } = await host.running({ timeoutSeconds: 1 });
    await host.ended(job);
    assert.equal(job.failureReason, 'job_execution_timeout');
    assert.match(job.log.toString(), /outlived its timeout of 1 s/);
    assert.deepEqual(causes(host), ['job-timeout']);
    assert.ok(!machine.isUp);
  });

  test('of the job overrules no final state that its runner has sent', async (t) => {
    const host = await startTestHost(t, { timings: { jobGraceMs: 1 } });
    const { job, guest } = await host.running({ timeoutSeconds: 1 });
    const out = host.gitlab.inject({ match: { route: 'job-update' }, do: { status: 503 } });
    await guest.finish('success');
    await eventually('our own tries', () => out.hits > 4, LONG_MS);
    out.remove();
    assert.equal((await host.ended(job)).outcome, 'success');
    assert.equal(job.status, 'success');
    assert.deepEqual(causes(host), ['none']);
  });

  test('of a machine that does not power off after its job', async (t) => {
    const host = await startTestHost(t, { timings: { finishGraceMs: 200 } });
    const { job, guest, machine } = await host.running();
    await guest.finish('success');
    assert.equal((await host.ended(job)).outcome, 'success');
    assert.match(machine.stopReason ?? '', /did not power off/);
    assert.deepEqual(causes(host), ['none']);
  });

  test('of more than 24 days is none of less', async (t) => {
    const host = await startTestHost(t);
    const { job } = await host.running({ timeoutSeconds: 30 * 24 * 3600 });
    const asked = host.gitlab.requests.length;
    await eventually('some asks', () => host.gitlab.requests.length > asked + 1, LONG_MS);
    assert.equal(job.status, 'running');
  });
});

suite('a clock that jumps by hours', { concurrency: 4 }, () => {
  for (const [way, byMs] of [
    ['forth', 30 * HOURS],
    ['back', -30 * HOURS],
  ] as const) {
    test(`${way} ends no job, in one run and over a restart`, async (t) => {
      const host = await startTestHost(t);
      const { job, guest } = await host.running({ timeoutSeconds: 600 });
      const offered = host.queue();
      await (await host.guest(offered)).request();
      host.jumpClock(byMs);
      assert.equal((await guest.log('a')).status, 202);
      host.kill();
      host.jumpClock(byMs);
      await host.start();
      const asked = host.gitlab.requests.length;
      await eventually('some asks', () => host.gitlab.requests.length > asked + 1, LONG_MS);
      assert.deepEqual([job.status, offered.status], ['running', 'running']);
      assert.equal((await guest.log('b')).status, 202);
    });
  }

  test('does not begin a time limit anew either: it is counted on over a restart', async (t) => {
    const host = await startTestHost(t, { timings: { jobGraceMs: 60_000 } });
    const { job } = await host.running({ timeoutSeconds: 1 });
    host.kill();
    host.passTime(60_000);
    await host.start();
    // Anew it would be a minute.
    await eventually('the job to be ended', () => job.isFinal, 20_000);
  });

  test('nor does a restart end a job before its time', async (t) => {
    const host = await startTestHost(t, { timings: { jobGraceMs: 1500 } });
    const { job } = await host.running({ timeoutSeconds: 1 });
    const began = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 1200));
    host.kill();
    await host.start();
    await eventually('the job to be ended', () => job.isFinal, LONG_MS);
    const afterMs = performance.now() - began;
    assert.ok(afterMs > 2300, `not before its time: ${afterMs}`);
    const row = await host.ended(job);
    const at = (name: string): number => row.stages.find((stage) => stage.name === name)?.at ?? 0;
    assert.ok(at('running') > 0);
  });
});

suite('a cancel', { concurrency: 4 }, () => {
  for (const how of ['graceful', 'forced'] as const) {
    for (const state of ['claimed', 'booting', 'offered'] as const) {
      test(`${how}, while ${state}: the room is free within a heartbeat`, async (t) => {
        const host = await startTestHost(t, { rooms: 1 });
        const job = host.queue();
        const machine = await host.machine(job);
        if (state === 'offered') await (await host.guest(job)).request();
        if (state === 'claimed') {
          // Its second machine finds no room: another request got it.
          host.holdRoom(true);
          machine.end();
          await eventually('the wait for room', () => host.row(job)?.state === 'claimed');
        }
        host.gitlab.cancel(job.id, { force: how === 'forced' });
        assert.equal((await host.ended(job)).outcome, 'canceled');
        assert.equal(job.status, 'canceled');
        assert.ok(!machine.isUp);
        host.holdRoom(false);
        const next = host.queue();
        await host.machine(next);
        assert.equal(host.machines.length, 2);
        assert.deepEqual(causes(host), ['none']);
      });
    }
  }

  for (const how of ['graceful', 'forced'] as const) {
    test(`${how}, heard by its runner with the first call and dropped: ended by us when it asks again`, async (t) => {
      // Our own keep-alive would hear of it first.
      const host = await startTestHost(t, {
        timings: { heartbeatMs: 60_000, finishGraceMs: 60_000 },
      });
      const job = host.queue();
      const guest = await host.guest(job);
      const machine = await host.machine(job);
      assert.equal((await guest.request()).status, 201);
      host.gitlab.cancel(job.id, { force: how === 'forced' });
      await guest.keepAlive();
      assert.equal((await guest.request()).status, 204);
      assert.equal((await host.ended(job)).outcome, 'canceled');
      assert.equal(job.status, 'canceled');
      assert.ok(!machine.isUp);
      assert.deepEqual(causes(host), ['none']);
    });
  }

  test('of a running job whose runner goes on for ever: bounded', async (t) => {
    const host = await startTestHost(t, { timings: { cancelLimitMs: 700 } });
    const { job, guest } = await host.running();
    host.gitlab.cancel(job.id);
    await eventually(
      'the job to be canceled',
      async () => {
        await guest.keepAlive().catch(() => undefined);
        return job.status === 'canceled';
      },
      LONG_MS,
    );
    const row = await host.ended(job);
    assert.equal(row.outcome, 'canceled');
    assert.match(row.reason ?? '', /did not wind up/);
    assert.deepEqual(causes(host), ['cancel-timeout']);
  });

  test('of a running job in a frozen machine: our keep-alive sees it, and the machine is stopped', async (t) => {
    const host = await startTestHost(t, { timings: { silenceMs: 200, cancelSilenceMs: 500 } });
    const { job, machine } = await host.running();
    host.gitlab.cancel(job.id);
    assert.equal(job.status, 'canceling');
    const row = await host.ended(job);
    assert.equal(row.outcome, 'canceled');
    assert.match(row.reason ?? '', /has been silent for/);
    assert.ok(!machine.isUp);
    assert.equal(job.status, 'canceled');
  });

  test('of a running job that winds up in time is its runner’s to end', async (t) => {
    const host = await startTestHost(t, { timings: { silenceMs: 100, cancelSilenceMs: 60_000 } });
    const { job, guest } = await host.running();
    host.gitlab.cancel(job.id);
    assert.equal((await guest.keepAlive()).headers.get('job-status'), 'canceling');
    await guest.log('after_script\n');
    await guest.finish('failed');
    await guest.finish('failed');
    await guest.powerOff();
    assert.equal((await host.ended(job)).outcome, 'canceled');
    assert.deepEqual(causes(host), ['none']);
  });
});
