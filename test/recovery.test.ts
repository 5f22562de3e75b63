/** A provider that comes back: what it finds in its journal, its machines, and GitLab. */

import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { SimJob } from '../fixtures/gitlab/index.ts';
import { eventually, within } from './support/deadline.ts';
import { SAID } from './support/persistent-runner.ts';
import { createTestHost, startTestHost, type TestHost } from './support/test-host/index.ts';

const LONG_MS = 30_000;

const entryOf = (host: TestHost, job: SimJob): string =>
  path.join(host.stateDir, 'leases', `job-${job.id}.json`);

const ofJob = (host: TestHost, job: SimJob, method: string): number =>
  host.gitlab.requests.filter((one) => one.jobId === job.id && one.method === method).length;

const isFinal = (job: SimJob): Promise<unknown> =>
  eventually(`job ${job.id} to be final`, () => job.isFinal, LONG_MS);

suite('machines that live on', { concurrency: 4 }, () => {
  test('serve their jobs on by the same token and address; the host is told again where they are', async (t) => {
    const host = await startTestHost(t);
    const running = await host.running();
    await running.guest.log('before\n');
    const offered = host.queue();
    const waiting = await host.guest(offered);
    await waiting.request();
    const booting = await host.machine(host.queue());
    host.kill();
    for (const machine of host.machines) (machine.reports as string[]).length = 0;
    await host.start();
    assert.equal((await running.guest.log('after\n')).status, 202);
    assert.equal((await waiting.request()).status, 201);
    assert.deepEqual(running.machine.reports, ['busy']);
    assert.deepEqual((await host.machine(offered)).reports, ['online']);
    assert.deepEqual(booting.reports, []);
    assert.equal(host.row(running.job)?.logBytes, 'before\nafter\n'.length);
    await running.guest.finish('success');
    await running.guest.finish('success');
    await running.guest.powerOff();
    await host.ended(running.job);
    assert.deepEqual(running.job.verdict(), {
      handedOut: 1,
      ended: 1,
      logIntact: true,
      anomalies: [],
    });
    assert.equal(host.machines.length, 3);
  });

  test('and die while nobody watches: the reason is told, the console is not, since nobody knows what to mask', async (t) => {
    const host = await startTestHost(t);
    const { job, guest, machine } = await host.running();
    await guest.log(SAID);
    host.kill();
    machine.end({
      cause: 'crashed',
      detail: 'its kernel panicked',
      consoleTail: Buffer.from('panic: secret'),
    });
    await host.start();
    await isFinal(job);
    const log = job.log.toString();
    assert.match(log, /^hello from the job\n\n.*ERROR: .*its kernel panicked/s);
    assert.match(log, /console of \S+ is not shown/);
    assert.doesNotMatch(log, /panic: secret/);
  });

  test('without an entry are ended', async (t) => {
    const host = await startTestHost(t);
    const { machine } = await host.running();
    const [entry] = await readdir(path.join(host.stateDir, 'leases'));
    host.kill();
    await writeFile(path.join(host.stateDir, 'leases', entry ?? ''), 'x');
    await host.start();
    await eventually('the machine to be ended', () => !machine.isUp);
    assert.equal(machine.stopReason, 'no job is known for it');
  });

  test('hear nothing wrong while the provider is put away, not even at their first call', async (t) => {
    const host = await startTestHost(t, { rooms: 8 });
    const heard: number[] = [];
    for (let round = 0; round < 3; round += 1) {
      const guest = await host.guest(host.queue());
      await guest.request();
      const calls: Promise<unknown>[] = [];
      const call = (): void => {
        const answer = guest.keepAlive().then(
          ({ status }) => heard.push(status),
          () => 0,
        );
        calls.push(answer);
      };
      const talking = setInterval(call, 4);
      await host.provider.stop('leave');
      clearInterval(talking);
      await host.start();
      await Promise.all(calls);
      heard.push((await guest.keepAlive()).status);
      await guest.finish('success');
      await guest.powerOff();
    }
    assert.deepEqual([...new Set(heard)], [200]);
    assert.equal(host.machines.length, 3);
  });
});

suite('a damaged entry', { concurrency: 4 }, () => {
  const damagedAt = async (t: TestContext, damage: (text: string) => string) => {
    const host = await startTestHost(t);
    const { job, guest, machine } = await host.running();
    await guest.log(SAID);
    host.kill();
    const file = entryOf(host, job);
    await writeFile(file, damage(await readFile(file, 'utf8')));
    await host.start();
    return { host, job, machine, file };
  };

  for (const [what, damage] of [
    ['cut off in the middle', (text: string) => text.slice(0, text.length / 2)],
    ['cut off just behind the token', (text: string) => text.slice(0, 90)],
    [
      'with a field of the wrong kind',
      (text: string) => text.replace('"stages":[', '"stages":5,"x":['),
    ],
  ] as const) {
    test(`${what} is set aside, its job failed with the reason, its machine ended`, async (t) => {
      const { host, job, machine, file } = await damagedAt(t, damage);
      await isFinal(job);
      assert.deepEqual([job.status, job.failureReason], ['failed', 'runner_system_failure']);
      assert.match(job.log.toString(), /^hello from the job\n\n.*record of this job is damaged/s);
      await eventually('the lease to end', () => host.provider.status().jobs.length === 0);
      assert.ok(!machine.isUp);
      assert.deepEqual(await host.journal(), [`${path.basename(file)}.damaged`]);
      assert.ok(host.log.some((line) => line.includes('set aside as job-')));
      assert.ok(!host.log.some((line) => line.includes(job.token)));
      assert.deepEqual(host.endedLabels[0], {
        runner: 'build',
        outcome: 'system_failure',
        cause: 'entry-damaged',
      });
    });
  }

  test('of which nothing is left is kept, and said', async (t) => {
    const { host, job, file } = await damagedAt(t, () => '\0\0\0\0');
    assert.deepEqual(await host.journal(), [`${path.basename(file)}.damaged`]);
    assert.ok(host.log.some((line) => line.includes('cannot be ended by us')));
    assert.equal(job.status, 'running');
  });

  test('loses no other one', async (t) => {
    const host = await startTestHost(t);
    const one = await host.running();
    const other = await host.running();
    host.kill();
    await writeFile(entryOf(host, one.job), '{');
    await host.start();
    assert.equal((await other.guest.log('still here')).status, 202);
  });

  test('that a later version wrote is left alone', async (t) => {
    const host = await startTestHost(t);
    const { job } = await host.running();
    host.kill();
    const file = entryOf(host, job);
    const text = (await readFile(file, 'utf8')).replace('"version":1', '"version":2');
    await writeFile(file, text);
    const before = ofJob(host, job, 'PUT');
    await host.start();
    await eventually('the next ask', () => host.provider.status().runners[0]?.health === 'ok');
    assert.equal(await readFile(file, 'utf8'), text);
    assert.equal(ofJob(host, job, 'PUT'), before);
    assert.ok(host.log.some((line) => line.includes('of version 2, and this forrest-gitlab')));
  });

  test('whose first writing was cut off: its job is failed, as long as its token can be read', async (t) => {
    const host = await createTestHost(t);
    const job = host.queue();
    const dead = host.killAt('entry-drafted');
    await host.start();
    await within('the kill', dead, LONG_MS);
    const draft = `${entryOf(host, job)}.tmp`;
    await writeFile(draft, (await readFile(draft, 'utf8')).slice(0, 120));
    await host.start();
    await isFinal(job);
    assert.deepEqual([job.status, job.failureReason], ['failed', 'runner_system_failure']);
  });
});

suite('what we owe GitLab', { concurrency: 4 }, () => {
  const owing = async (t: TestContext, deliveryLimitMs?: number) => {
    const host = await startTestHost(t, {
      timings: deliveryLimitMs === undefined ? {} : { deliveryLimitMs },
    });
    const { job, guest, machine } = await host.running();
    await guest.log(SAID);
    const out = host.gitlab.inject({
      match: { route: ['trace', 'job-update'] },
      do: { status: 503, body: '<html>', contentType: 'text/html' },
    });
    machine.end({ cause: 'crashed', detail: 'it crashed' });
    await eventually('three tries', () => out.hits > 3);
    return { host, job, out };
  };

  test('is told over any number of restarts, with one note', async (t) => {
    const { host, job, out } = await owing(t);
    for (let count = 0; count < 3; count += 1) {
      host.kill();
      await host.start();
      const hits = out.hits;
      await eventually('another try', () => out.hits > hits, LONG_MS);
    }
    out.remove();
    await isFinal(job);
    assert.equal(job.log.toString().match(/ERROR/g)?.length, 1);
    assert.equal(job.verdict().ended, 1);
  });

  test('counts as over only by GitLab’s own word: a 403 of a box in between is none', async (t) => {
    const { host, job, out } = await owing(t);
    const box = host.gitlab.inject({
      match: { route: ['trace', 'job-update'] },
      do: { status: 403, body: '<html>blocked</html>', contentType: 'text/html' },
    });
    out.remove();
    await eventually('three tries', () => box.hits > 3);
    assert.equal(host.provider.status().jobs.length, 1);
    box.remove();
    await isFinal(job);
    assert.equal(job.failureReason, 'runner_system_failure');
  });

  test('is set aside, with an error, when it was tried for long enough', async (t) => {
    const { host, job } = await owing(t, 5000);
    assert.equal((await host.ended(job)).outcome, 'system_failure');
    assert.deepEqual(await host.journal(), [`job-${job.id}.json.undelivered`]);
    assert.ok(host.log.some((line) => line.startsWith('error') && line.includes('.undelivered')));
    assert.equal(host.endedLabels[0]?.['cause'], 'undelivered');
    host.kill();
    await host.start();
    assert.equal(host.provider.status().jobs.length, 0);
  });

  test('is tried for the rest of that time only after a restart, and not less for a clock that jumped', async (t) => {
    const { host, job, out } = await owing(t, 24_000);
    host.kill();
    host.jumpClock(48 * 60 * 60 * 1000);
    const since = out.hits;
    await host.start();
    await host.ended(job);
    assert.ok(out.hits > since + 1, 'a start tries for a while in any case');
    assert.deepEqual(await host.journal(), [`job-${job.id}.json.undelivered`]);
  });
});

suite('retries by GitLab', () => {
  test('a job that may be retried after a system failure is, and runs on another machine', async (t) => {
    const host = await startTestHost(t);
    const { job, machine } = await host.running({
      retry: { max: 1, when: ['runner_system_failure'] },
    });
    machine.end({ cause: 'crashed', detail: 'it crashed' });
    await isFinal(job);
    const again = await eventually('the retry', () =>
      host.gitlab.jobs().find((one) => one.id !== job.id),
    );
    const guest = await host.guest(again);
    await guest.takeJob();
    await guest.finish('success');
    await guest.powerOff();
    await isFinal(again);
    assert.equal(again.status, 'success');
  });
});

suite('two hosts with one runner token', () => {
  test('have names of their own, and one goes on without the other', async (t) => {
    const one = await startTestHost(t);
    const other = await createTestHost(t, { with: one, hostName: 'other', rooms: 1 });
    const { job } = await one.running();
    one.kill();
    await other.start();
    const next = one.queue();
    const guest = await other.guest(next);
    await guest.takeJob();
    await guest.finish('success');
    await guest.powerOff();
    await isFinal(next);
    const ids = one.runner.managers.size;
    assert.equal(ids, 2);
    // The dead one's state directory, started on another machine: its job is closed.
    one.losePower();
    await one.start();
    await isFinal(job);
    assert.match(job.log.toString(), /its machine was gone when the host came back/);
  });
});
