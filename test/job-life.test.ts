/** The states of a job (design §4), from the outside: GitLab, the host, and a machine that a test speaks for. */

import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { suite, test } from 'node:test';
import { eventually } from './support/deadline.ts';
import { createRig, journalOf, type Rig, startRig } from './support/rig.ts';

const updates = (rig: Rig, id: number): string[] =>
  rig.gitlab.requests
    .filter((request) => request.route === 'job-update' && request.jobId === id)
    .map((request) => request.body.toString());

suite('a job that goes well', { concurrency: 4 }, () => {
  test('passes through every state and leaves nothing behind', async (t) => {
    const rig = await startRig(t);
    const job = rig.queue();
    const guest = await rig.guest(job);
    assert.equal(rig.row(job)?.state, 'booting');
    await guest.request();
    assert.equal(rig.row(job)?.state, 'offered');
    await guest.keepAlive();
    assert.equal(rig.row(job)?.state, 'running');
    await guest.log('hello');
    assert.equal((await guest.finish('success')).status, 202);
    assert.equal(rig.row(job)?.state, 'running', 'a 202 is not the end');
    assert.equal((await guest.finish('success')).status, 200);
    assert.equal(rig.row(job)?.state, 'finishing');
    await guest.powerOff();
    const row = await rig.ended(job);
    assert.equal(row.outcome, 'success');
    assert.deepEqual(
      row.stages.map((stage) => stage.name),
      ['claimed', 'booted', 'offered', 'running', 'finished', 'machine-gone'],
    );
    assert.equal(row.logBytes, 5);
    assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
    // Its runner may be looking for the next job.
    await eventually('its memory to be free', () => rig.status().pool.usedBytes === 0);
    assert.deepEqual(await journalOf(rig), []);
  });

  test('has the largest id that a number holds', async (t) => {
    const rig = await startRig(t, { simulator: { firstJobId: Number.MAX_SAFE_INTEGER } });
    const { job, guest } = await rig.running();
    assert.equal((await guest.log('hello')).status, 202);
    await guest.finish('success');
    assert.equal((await guest.finish('success')).status, 200);
    await guest.powerOff();
    assert.equal((await rig.ended(job)).outcome, 'success');
  });

  test('is journaled before each step that depends on it', async (t) => {
    const facts: string[] = [];
    const rig = await createRig(t, {
      seams: {
        checkpoint(name) {
          const file = path.join(rig.directory, `base/state/gitlab/leases/job-${job.id}.json`);
          const onDisk = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).state.name : '-';
          facts.push(`${name}: ${onDisk}, machines ${rig.started ? rig.machineCount() : 0}`);
        },
      },
    }).then((made) =>
      Object.assign(made, {
        started: false,
        machineCount: () => made.status().machines.filter((machine) => machine.pid !== null).length,
      }),
    );
    const job = rig.queue();
    await rig.start();
    rig.started = true;
    const guest = await rig.guest(job);
    await guest.takeJob();
    await guest.log('x');
    await guest.finish('success');
    await guest.finish('success');
    await guest.powerOff();
    await rig.ended(job);
    assert.deepEqual(
      facts.map((fact) => fact.split(',')[0]).filter((fact) => !fact?.startsWith('entry-drafted')),
      [
        'claim-received: -',
        'lease-claimed: claimed',
        'machine-requested: claimed',
        'lease-booting: booting',
        'lease-offered: offered',
        'lease-running: running',
        'final-journaled: running',
        'final-answered: running',
        'lease-finishing: finishing',
        'machine-gone: finishing',
        'lease-ended: -',
      ],
    );
    assert.ok(facts.includes('lease-claimed: claimed, machines 0'));
  });

  test('keeps its payload in the journal only until its runner speaks, and never the runner token', async (t) => {
    const rig = await startRig(t);
    const job = rig.queue({
      variables: [{ key: 'SECRET', value: 'very-secret-value', masked: true }],
    });
    const guest = await rig.guest(job);
    const before = (await journalOf(rig)).join('');
    const entry = path.join(rig.directory, `base/state/gitlab/leases/job-${job.id}.json`);
    assert.equal(statSync(entry).mode & 0o777, 0o600);
    const decoded =
      before + Buffer.from(JSON.parse(before).state.payload ?? '', 'base64').toString();
    assert.match(decoded, /very-secret-value/);
    await guest.takeJob();
    const after = (await journalOf(rig)).join('');
    assert.doesNotMatch(after, /payload":"/);
    assert.ok(!after.includes(rig.runner.token) && !before.includes(rig.runner.token));
  });

  test('is offered again and again until its runner speaks for it, byte for byte, unknown fields included', async (t) => {
    const rig = await startRig(t);
    const job = rig.queue({ extra: { from_the_future: { deep: ['ä', 1e21, null] } } });
    const guest = await rig.guest(job);
    for (let n = 0; n < 3; n += 1) {
      const answer = await guest.request();
      assert.equal(answer.status, 201);
      assert.equal(answer.headers.get('content-type'), 'application/json');
      assert.deepEqual(answer.body, job.payload);
    }
    await guest.keepAlive();
    assert.equal((await guest.request()).status, 204);
    assert.equal(job.verdict().handedOut, 1);
  });
});

suite('the heartbeat', { concurrency: 4 }, () => {
  test('keeps a job alive while its machine boots and while it is offered, then leaves that to the runner', async (t) => {
    const rig = await startRig(t);
    const job = rig.queue();
    const guest = await rig.guest(job);
    await rig.gitlab.waitFor('two heartbeats', () => updates(rig, job.id).length >= 2);
    assert.deepEqual(JSON.parse(updates(rig, job.id)[0]!), { token: job.token, state: 'running' });
    await guest.request();
    const offered = updates(rig, job.id).length;
    await rig.gitlab.waitFor('two more', () => updates(rig, job.id).length >= offered + 2);
    await guest.keepAlive();
    const asked = rig.gitlab.requests.length;
    const own = updates(rig, job.id).length;
    await rig.gitlab.waitFor('asks to go on', () => rig.gitlab.requests.length > asked + 1);
    assert.ok(updates(rig, job.id).length <= own + 1, 'at most one was under way');
  });

  test('begins again where the runner is silent for too long', async (t) => {
    const rig = await startRig(t, { timings: { silenceMs: 150 } });
    const { job } = await rig.running();
    const own = updates(rig, job.id).length;
    await rig.gitlab.waitFor('our keep-alives', () => updates(rig, job.id).length >= own + 2);
    assert.equal(rig.row(job)?.state, 'running');
  });

  for (const state of ['booting', 'offered'] as const) {
    for (const [how, force] of [
      ['graceful', false],
      ['forced', true],
    ] as const) {
      test(`sees a ${how} cancel while ${state}: the machine is stopped, its memory free`, async (t) => {
        const rig = await startRig(t);
        const job = rig.queue();
        const guest = await rig.guest(job);
        if (state === 'offered') await guest.request();
        rig.gitlab.cancel(job.id, { force });
        const row = await rig.ended(job);
        assert.equal(row.outcome, 'canceled');
        assert.equal(job.status, 'canceled');
        assert.equal(job.verdict().ended, 1);
        assert.equal(rig.status().machines.length, 0);
        // Its runner may be looking for the next job.
        await eventually('its memory to be free', () => rig.status().pool.usedBytes === 0);
      });
    }
  }

  test('sees the end of a job whose guest is frozen', async (t) => {
    const rig = await startRig(t, { timings: { silenceMs: 100 } });
    const { job } = await rig.running();
    rig.gitlab.cancel(job.id, { force: true });
    assert.equal((await rig.ended(job)).outcome, 'canceled');
  });
});

suite('a machine that ends too early', { concurrency: 4 }, () => {
  test('before its runner spoke: one more, with another token; the old one opens nothing', async (t) => {
    const rig = await startRig(t);
    const job = rig.queue();
    const first = await rig.guest(job);
    await first.request();
    first.kill();
    const second = await rig.guest(job, 2);
    assert.notEqual(second.token, first.token);
    assert.equal((await first.request()).status, 204);
    assert.equal((await first.keepAlive()).status, 403);
    assert.equal(job.status, 'running');
    await second.takeJob();
    await second.finish('success');
    await second.powerOff();
    assert.equal((await rig.ended(job)).outcome, 'success');
    assert.deepEqual([job.verdict().handedOut, job.verdict().ended], [1, 1]);
  });

  test('the second boot goes before others where there is room for one only', async (t) => {
    const rig = await startRig(t, { ram: '1G' });
    const job = rig.queue();
    const first = await rig.guest(job);
    const waiting = rig.queue();
    await first.powerOff(1);
    await rig.guest(job, 2);
    assert.equal(waiting.status, 'pending');
  });

  test('twice before its runner spoke: failed by us, with the reason in the log', async (t) => {
    const rig = await startRig(t);
    const job = rig.queue();
    await (await rig.guest(job)).powerOff(7);
    await (await rig.guest(job, 2)).powerOff(7);
    const row = await rig.ended(job);
    assert.equal(row.outcome, 'system_failure');
    assert.deepEqual([job.status, job.failureReason], ['failed', 'runner_system_failure']);
    assert.match(job.log.toString(), /ERROR: the machine ended before the job did/);
    assert.equal(job.verdict().ended, 1);
  });

  test('in the middle: the note stands at the end of the log, the console without secrets', async (t) => {
    const rig = await startRig(t, {
      script: 'echo "kernel panic, password very-secret-value"; cat job-config/runner.json',
    });
    const { job, guest } = await rig.running({
      variables: [{ key: 'PASSWORD', value: 'very-secret-value', masked: true }],
    });
    await guest.log('the job says this\n');
    guest.kill();
    const row = await rig.ended(job);
    assert.match(row.reason ?? '', /the machine ended before the job did/);
    const log = job.log.toString();
    assert.match(log, /^the job says this\n\n.*ERROR: the machine ended/s);
    assert.match(log, /kernel panic, password \[MASKED\]/);
    assert.ok(!log.includes('very-secret-value') && !log.includes(guest.token));
    assert.deepEqual([job.status, job.failureReason], ['failed', 'runner_system_failure']);
  });

  test('the console stays out of the log where that is configured', async (t) => {
    const rig = await startRig(t, {
      script: 'echo kernel panic',
      section: { console_tail: false },
    });
    const { job, guest } = await rig.running();
    guest.kill();
    await rig.ended(job);
    assert.match(job.log.toString(), /ERROR/);
    assert.doesNotMatch(job.log.toString(), /kernel panic/);
  });

  test('after a final update that was answered 202: that very update is repeated', async (t) => {
    const rig = await startRig(t, { simulator: { limits: { traceMigration: 2 } } });
    const { job, guest } = await rig.running();
    await guest.log('all of it');
    assert.equal(
      (await guest.finish('failed', { failure_reason: 'script_failure', exit_code: 5 })).status,
      202,
    );
    guest.kill();
    const row = await rig.ended(job);
    assert.equal(row.outcome, 'failed');
    assert.deepEqual([job.failureReason, job.exitCode], ['script_failure', 5]);
    const finals = updates(rig, job.id).filter((body) => body.includes('"failed"'));
    assert.equal(new Set(finals).size, 1);
    assert.equal(finals.length, 3);
    assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
  });
});

suite('our own end of a job reaches GitLab once', { concurrency: 4 }, () => {
  test('where GitLab wants it again after longer than any timer holds', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    rig.gitlab.inject({
      match: { route: 'job-update', times: 3 },
      do: { status: 202, headers: { 'x-gitlab-trace-update-interval': '99999999' } },
    });
    guest.kill();
    assert.equal((await rig.ended(job)).outcome, 'system_failure');
    const at = rig.gitlab.requests
      .filter((request) => request.route === 'job-update')
      .slice(-4)
      .map((request) => request.at);
    const gaps = at.slice(1).map((time, index) => time - (at[index] ?? 0));
    assert.ok(gaps.length === 3 && gaps.every((gap) => gap >= 150), `${gaps}`);
  });

  test('through an outage', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    const out = rig.gitlab.inject({
      match: { route: ['trace', 'job-update'], times: 4 },
      do: { status: 503, body: '<html>', contentType: 'text/html' },
    });
    guest.kill();
    await rig.ended(job);
    assert.equal(out.hits, 4);
    assert.equal(job.log.toString().match(/ERROR/g)?.length, 1);
    assert.equal(job.verdict().ended, 1);
  });

  test('with one note where the answer to it was lost', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    rig.gitlab.inject({ match: { route: 'trace', times: 1 }, do: { loseAnswer: true } });
    guest.kill();
    await rig.ended(job);
    assert.equal(job.log.toString().match(/ERROR/g)?.length, 1);
  });

  test('with the note at the right place where we do not know the offset', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    await guest.log('abc');
    // Bytes that our proxy never saw.
    await fetch(`${rig.gitlab.url}/api/v4/jobs/${job.id}/trace`, {
      method: 'PATCH',
      headers: { 'job-token': job.token, 'content-range': '3-5', 'content-type': 'text/plain' },
      body: 'def',
    });
    guest.kill();
    await rig.ended(job);
    assert.match(job.log.toString(), /^abcdef\n.*ERROR/s);
  });
});

suite('limits', { concurrency: 4 }, () => {
  test('a machine that does not power off after its job is stopped', async (t) => {
    const rig = await startRig(t, { timings: { finishGraceMs: 200 } });
    const { job, guest } = await rig.running();
    await guest.finish('success');
    const row = await rig.ended(job);
    assert.equal(row.outcome, 'success');
    assert.equal(rig.status().machines.length, 0);
  });

  test('a runner that does not ask for its job costs one more boot, then the job fails', async (t) => {
    const rig = await startRig(t, { timings: { askLimitMs: 300 } });
    const job = rig.queue();
    const row = await rig.ended(job);
    assert.match(row.reason ?? '', /did not ask for its job/);
    assert.equal(job.failureReason, 'runner_system_failure');
  });

  test('so does one that was given the job and says nothing', async (t) => {
    const rig = await startRig(t, { timings: { firstCallLimitMs: 300 } });
    const job = rig.queue();
    await (await rig.guest(job)).request();
    await (await rig.guest(job, 2)).request();
    const row = await rig.ended(job);
    assert.match(row.reason ?? '', /did not speak for it/);
    assert.equal(job.failureReason, 'runner_system_failure');
  });

  test('a job that outlives its timeout is failed as such', async (t) => {
    const rig = await startRig(t, { timings: { jobGraceMs: 1 } });
    const { job } = await rig.running({ timeoutSeconds: 1 });
    const row = await rig.ended(job);
    assert.equal(row.outcome, 'system_failure');
    assert.equal(job.failureReason, 'job_execution_timeout');
    assert.match(job.log.toString(), /outlived its timeout of 1 s/);
  });
});

suite('an end that GitLab decides', { concurrency: 4 }, () => {
  test('canceling while it runs: the runner hears of it, winds up, and the job is canceled', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    rig.gitlab.cancel(job.id);
    assert.equal((await guest.keepAlive()).headers.get('job-status'), 'canceling');
    assert.equal((await guest.log('after_script runs')).status, 202);
    assert.equal((await guest.finish('failed')).status, 202);
    assert.equal((await guest.finish('failed')).status, 200);
    await guest.powerOff();
    assert.equal((await rig.ended(job)).outcome, 'canceled');
    assert.equal(job.status, 'canceled');
  });

  for (const [what, act, outcome] of [
    [
      'a forced cancel',
      (rig: Rig, id: number) => rig.gitlab.cancel(id, { force: true }),
      'canceled',
    ],
    [
      'a job that GitLab fails',
      (rig: Rig, id: number) => rig.gitlab.job(id).drop('stuck', Date.now()),
      'failed',
    ],
    [
      'an erased job',
      (rig: Rig, id: number) => Object.assign(rig.gitlab.job(id), { erased: true }),
      'canceled',
    ],
  ] as const) {
    test(`${what} while it runs: the runner gets GitLab's 403, and its time to power off`, async (t) => {
      const rig = await startRig(t, { timings: { finishGraceMs: 60_000 } });
      const { job, guest } = await rig.running();
      act(rig, job.id);
      const answer = await guest.keepAlive();
      assert.equal(answer.status, 403);
      await guest.powerOff();
      assert.equal((await rig.ended(job)).outcome, outcome);
    });
  }
});

suite('stopping', { concurrency: 4 }, () => {
  test('a drain lets running jobs end and takes no more', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    let drained = false;
    const draining = rig.host.drain().then(() => {
      drained = true;
    });
    const late = rig.queue();
    await guest.log('still alive');
    assert.equal(drained, false);
    await guest.finish('success');
    await guest.finish('success');
    await guest.powerOff();
    await draining;
    assert.equal(job.status, 'success');
    assert.equal(late.status, 'pending');
  });

  test('ending fails running jobs as interrupted, and says why in their logs', async (t) => {
    const rig = await startRig(t);
    const { job } = await rig.running();
    await rig.host.stop('end');
    assert.deepEqual([job.status, job.failureReason], ['failed', 'runner_interrupted']);
    assert.match(job.log.toString(), /the runner host was stopped/);
  });

  test('ending while GitLab is out does not hang: what is owed stays in the journal', async (t) => {
    const rig = await startRig(t, { timings: { stopLimitMs: 300 } });
    const { job } = await rig.running();
    rig.gitlab.inject({ match: {}, do: { status: 502 } });
    await rig.host.stop('end');
    assert.equal(job.status, 'running');
    assert.match((await journalOf(rig)).join(''), /"owed"/);
  });

  test('an answer that arrives while stopping is journaled', async (t) => {
    const rig = await createRig(t);
    const job = rig.queue();
    rig.gitlab.inject({ match: { route: 'jobs-request', times: 1 }, do: { delayMs: 400 } });
    await rig.start();
    await rig.gitlab.waitFor('the ask', () => rig.gitlab.requests.length > 0);
    await rig.host.stop('leave');
    assert.equal(job.status, 'running');
    assert.equal((await journalOf(rig)).length, 1);
    const [entry = ''] = await journalOf(rig);
    assert.match(entry, new RegExp(`"id":\\s*${job.id}`));
  });
});
