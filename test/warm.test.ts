/** Warm machines (design §5): each waits for a job in our `jobs/request`, and yields to whoever needs its room. */

import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { Seams } from 'forrest-gitlab';
import type { SimJob } from '../fixtures/gitlab/index.ts';
import { askHost } from '../fixtures/host/src/cli/ask-host.ts';
import { eventually, within } from './support/deadline.ts';
import { writePrivate } from './support/files.ts';
import { freePort } from './support/free-port.ts';
import { createGuest } from './support/guest.ts';
import { exchange, head } from './support/raw.ts';
import { createRig, journalOf, type Rig } from './support/rig.ts';
import {
  isGone,
  readyMachine,
  runnerRow,
  startWarm,
  type Warm,
  warmMachine,
} from './support/warm.ts';

const HOUR_MS = 3_600_000;

/** The job ran in that very machine, to its end. */
async function finish(rig: Rig, job: SimJob, { row }: Warm): Promise<void> {
  assert.equal(rig.row(job)?.machine, row.runnerName);
  const guest = await createGuest(row, job);
  assert.equal((await guest.keepAlive()).status, 200);
  assert.equal((await guest.finish('success')).status, 200);
  await guest.powerOff();
  assert.equal((await rig.ended(job)).outcome, 'success');
  assert.equal(job.verdict().handedOut, 1);
}

const said = (rig: Rig, what: RegExp): Promise<unknown> =>
  eventually(`the log to say ${what}`, () => rig.log.some((line) => what.test(line)));

const order = (rig: Rig, target: string, body: unknown): Promise<unknown> =>
  askHost(path.join(rig.directory, 'config.yaml'), target, 'POST', body);

async function changeConfig(rig: Rig, change: (text: string) => string): Promise<void> {
  const file = path.join(rig.directory, 'config.yaml');
  const before = await readFile(file, 'utf8');
  const after = change(before);
  assert.notEqual(after, before);
  await writeFile(file, after);
  await rig.host.reload();
}

suite('a warm machine', { concurrency: 4 }, () => {
  test('waits for a job, gets it at once, and another one takes its place', async (t) => {
    const rig = await startWarm(t);
    const machine = await readyMachine(rig);
    assert.deepEqual(runnerRow(rig).warm, { ready: 1, wanted: 1 });
    const job = rig.queue();
    const answer = await within('the job', machine.asked);
    assert.equal(answer.status, 201);
    assert.equal(JSON.parse(answer.body.toString()).id, job.id);
    await warmMachine(rig, [machine]);
    await finish(rig, job, machine);
    assert.deepEqual(await journalOf(rig), []);
  });

  test('is told that there is no job before its runner gives up, and is kept waiting again', async (t) => {
    const rig = await startWarm(t, { timings: { warmHoldMs: 100 } });
    const machine = await readyMachine(rig);
    assert.equal((await machine.asked).status, 204);
    assert.equal((await machine.guest.request()).status, 204);
    assert.equal(runnerRow(rig).warm?.ready, 1);
    const job = rig.queue();
    await eventually('the job', async () => (await machine.guest.request()).status === 201);
    await finish(rig, job, machine);
  });

  test('whose runner is between two requests has its job with the next one', async (t) => {
    const rig = await startWarm(t, { timings: { warmHoldMs: 50 } });
    const machine = await readyMachine(rig);
    assert.equal((await machine.asked).status, 204);
    const job = rig.queue();
    await eventually('the claim', () => rig.row(job)?.state === 'booting');
    assert.equal((await machine.guest.request()).status, 201);
    await finish(rig, job, machine);
  });

  test('whose runner asks twice at once is answered once with the job, the broken request before', async (t) => {
    const rig = await startWarm(t);
    const machine = await readyMachine(rig);
    const again = machine.guest.request();
    assert.equal((await machine.asked).status, 204);
    rig.queue();
    assert.equal((await again).status, 201);
  });

  test('has its job as soon as GitLab tells of it', async (t) => {
    const rig = await createRig(t, {
      runner: { warm: 1 },
      section: { check_interval: '1h', webhook_secret_file: 'webhook.secret' },
    });
    await writePrivate(path.join(rig.directory, 'webhook.secret'), 'of-the-webhook\n');
    await rig.start();
    const machine = await readyMachine(rig);
    await eventually(
      'the runner to rest for an hour',
      () => runnerRow(rig).notClaiming === 'no job a moment ago',
    );
    rig.gitlab.addHook({
      url: `unix:${rig.host.apiSocket}:/gitlab/webhook`,
      secret: 'of-the-webhook',
    });
    const job = rig.queue();
    assert.equal((await within('the job', machine.asked)).status, 201);
    await finish(rig, job, machine);
  });

  test('that still boots gets a job, too', async (t) => {
    const rig = await startWarm(t);
    const machine = await warmMachine(rig);
    const job = rig.queue();
    await eventually('the claim', () => rig.row(job)?.machine === machine.row.runnerName);
    assert.equal((await machine.guest.request()).status, 201);
    await finish(rig, job, machine);
  });

  test('tells what its runner can do before there is any job, to the next host again', async (t) => {
    const rig = await startWarm(t, { section: { listen: `127.0.0.1:${await freePort()}` } });
    const { guest } = await warmMachine(rig);
    for (const run of ['first', 'next']) {
      const before = rig.gitlab.requests.length;
      void guest
        .call('POST', 'jobs/request', {
          json: { token: guest.token, info: { features: { proxy: true, session: true } } },
        })
        .catch(() => undefined);
      await eventually(`the ${run} host to advertise the features`, () => {
        const asks = rig.gitlab.requests.slice(before);
        const ask = asks.findLast(({ route }) => route === 'jobs-request');
        const { features = {} } = JSON.parse(ask?.body.toString() ?? '{"info":{}}').info;
        return features.proxy === true && features.session === false && features.cache === false;
      });
      await rig.host.stop('leave');
      await rig.start();
    }
  });

  test('survives a restart of the host during an ask, and its token with it', async (t) => {
    const rig = await startWarm(t, { section: { listen: `127.0.0.1:${await freePort()}` } });
    const machine = await readyMachine(rig);
    rig.gitlab.inject({ match: { route: 'jobs-request', times: 1 }, do: { delayMs: 300 } });
    await eventually('an ask under way', () => rig.gitlab.requests.at(-1)?.status === null);
    await rig.host.stop('leave');
    await assert.rejects(machine.asked, 'its connection is cut, and nothing is answered');
    await rig.start();
    const again = machine.guest.request();
    const job = rig.queue();
    assert.equal((await again).status, 201);
    await finish(rig, job, machine);
  });
});

suite('one more or one less', { concurrency: 4 }, () => {
  test('jobs and warm machines together are no more than the limit', async (t) => {
    const rig = await startWarm(t, { runner: { limit: 2, warm: 2 } });
    const first = await readyMachine(rig);
    const second = await readyMachine(rig, [first]);
    const jobs = [rig.queue(), rig.queue()];
    const answers = await Promise.all([first.asked, second.asked]);
    assert.deepEqual(
      answers.map(({ status }) => status),
      [201, 201],
    );
    await eventually('the reason', () => runnerRow(rig).notClaiming === 'limit 2 reached');
    assert.equal(rig.status().machines.length, 2);
    const [job] = jobs.filter((one) => rig.row(one)?.machine === first.row.runnerName);
    assert.ok(job);
    await finish(rig, job, first);
    await warmMachine(rig, [first, second]);
  });

  test('one grows old, and another one takes its place', async (t) => {
    const rig = await startWarm(t, { timings: { warmAgeMs: 500 } });
    const seen = new Set<string>();
    await eventually('a third one', () => {
      for (const { runnerName } of rig.status().machines) seen.add(runnerName);
      return seen.size >= 3;
    });
    const [first] = seen;
    await eventually('the first one to be gone', () =>
      rig.status().machines.every(({ runnerName }) => runnerName !== first),
    );
  });

  test('one whose runner does not ask is of no use, and the next one comes after a rest', async (t) => {
    const rig = await startWarm(t, { timings: { askLimitMs: 200, warmRestMs: HOUR_MS } });
    await said(rig, /its runner did not ask; the next one is booted after 900 s/);
    await eventually('the machine to be gone', () => rig.status().machines.length === 0);
  });

  test('one whose runner asks no more is of no use', async (t) => {
    const rig = await startWarm(t, { timings: { warmSilenceMs: 2000, warmHoldMs: 50 } });
    const machine = await readyMachine(rig);
    await isGone(rig, machine);
    await said(rig, /its runner has stopped asking/);
  });

  test('one that powers off by itself is of no use, and the log has an idea why', async (t) => {
    const rig = await startWarm(t);
    const machine = await readyMachine(rig);
    await machine.guest.powerOff();
    await said(rig, /was of no use: it powered off, its runner has given up waiting/);
  });

  test('one that dies while GitLab is asked: the job that was found gets a machine of its own', async (t) => {
    const rig = await startWarm(t, { timings: { warmRestMs: HOUR_MS } });
    const machine = await readyMachine(rig);
    const slow = rig.gitlab.inject({
      match: { route: 'jobs-request', times: 1 },
      do: { delayMs: 1500 },
    });
    const job = rig.queue();
    await eventually('GitLab to be asked', () => slow.hits === 1);
    machine.guest.kill();
    await isGone(rig, machine);
    const guest = await rig.guest(job);
    assert.notEqual(guest.runnerName, machine.row.runnerName);
    await guest.takeJob();
    assert.equal((await guest.finish('success')).status, 200);
    await guest.powerOff();
    assert.equal((await rig.ended(job)).outcome, 'success');
    assert.equal(job.verdict().handedOut, 1);
  });

  /** Up to where the claim of a job is on disk, and its machine has not been told. */
  const claimed = async (t: TestContext) => {
    const reached = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    t.after(() => gate.resolve());
    const checkpoint: NonNullable<Seams['checkpoint']> = async (name) => {
      if (name !== 'lease-claimed') return;
      reached.resolve();
      await gate.promise;
    };
    const rig = await startWarm(t, { seams: { checkpoint }, timings: { warmRestMs: HOUR_MS } });
    const machine = await readyMachine(rig);
    const job = rig.queue();
    await within('the claim', reached.promise);
    return { rig, machine, job, goOn: () => gate.resolve() };
  };

  test('one that dies just when a job gets it: the job has a machine of its own', async (t) => {
    const { rig, machine, job, goOn } = await claimed(t);
    machine.guest.kill();
    await isGone(rig, machine);
    goOn();
    await eventually('another machine', () => {
      const row = rig.row(job);
      return row !== undefined && row.machine !== machine.row.runnerName;
    });
    const guest = await rig.guest(job);
    await guest.takeJob();
    assert.equal((await guest.finish('success')).status, 200);
    await guest.powerOff();
    assert.equal((await rig.ended(job)).outcome, 'success');
    assert.equal(job.verdict().handedOut, 1);
  });

  test('one that is to go just when a job gets it: the job has it', async (t) => {
    const { rig, machine, job, goOn } = await claimed(t);
    await changeConfig(rig, (text) => text.replace('"cpus": 1', '"cpus": 2'));
    await order(rig, '/pause', { provider: 'gitlab', runner: 'build', paused: true });
    await order(rig, '/pause', { paused: true });
    goOn();
    assert.equal((await within('the job', machine.asked)).status, 201);
    await finish(rig, job, machine);
  });

  test('a pause ends it, and a drain; lifted, there is another one', async (t) => {
    const rig = await startWarm(t);
    const machine = await readyMachine(rig);
    await order(rig, '/pause', { provider: 'gitlab', runner: 'build', paused: true });
    await isGone(rig, machine);
    await order(rig, '/pause', { provider: 'gitlab', runner: 'build', paused: false });
    const next = await readyMachine(rig, [machine]);
    await within('the drain', rig.host.drain());
    assert.deepEqual(rig.status().machines, []);
    assert.equal((await next.asked.catch(() => ({ status: 0 }))).status === 201, false);
  });

  test('a runner that GitLab refuses for long has none, until that is over', async (t) => {
    const rig = await startWarm(t, { timings: { warmUnhealthyMs: 1, warmLookMs: 50 } });
    const machine = await readyMachine(rig);
    rig.gitlab.revokeRunner(rig.runner.token);
    await isGone(rig, machine);
    const renewed = rig.gitlab.createRunner();
    await writePrivate(path.join(rig.directory, 'runner-0.token'), renewed.token);
    await warmMachine(rig, [machine]);
  });
});

suite('what would be booted now is another machine', { concurrency: 4 }, () => {
  test('another configuration of its runner', async (t) => {
    const rig = await startWarm(t);
    const machine = await readyMachine(rig);
    await changeConfig(rig, (text) => text.replace('"warm": 1', '"warm": 1, "output_limit": 77'));
    await isGone(rig, machine);
    await warmMachine(rig, [machine]);
  });

  test('no warm machine any more', async (t) => {
    const rig = await startWarm(t);
    const machine = await readyMachine(rig);
    await changeConfig(rig, (text) => text.replace('"warm": 1', '"warm": 0'));
    await isGone(rig, machine);
    assert.equal(runnerRow(rig).warm, undefined);
  });

  test('another machine type of the same name', async (t) => {
    const rig = await startWarm(t);
    const machine = await readyMachine(rig);
    await changeConfig(rig, (text) => text.replace('"cpus": 1', '"cpus": 2'));
    await isGone(rig, machine);
    await warmMachine(rig, [machine]);
  });

  test('another template', async (t) => {
    const rig = await startWarm(t);
    const machine = await readyMachine(rig);
    await writeFile(path.join(rig.directory, 'template/job-config/new.txt'), 'new\n');
    await rig.host.reload();
    await isGone(rig, machine);
    await warmMachine(rig, [machine]);
  });

  test('another token of its runner', async (t) => {
    const rig = await startWarm(t);
    const machine = await readyMachine(rig);
    const { token } = rig.gitlab.createRunner();
    await writeFile(path.join(rig.directory, 'runner-0.token'), `${token}\n`);
    await isGone(rig, machine);
    const next = await warmMachine(rig, [machine]);
    assert.ok(next.guest.token.startsWith(token.slice(0, 14)));
  });

  test('a job that clones from elsewhere gets a machine of its own, and the next ones know', async (t) => {
    const rig = await createRig(t, { runner: { warm: 1 } });
    const file = path.join(rig.directory, 'config.yaml');
    const text = await readFile(file, 'utf8');
    // GitLab has another address for us than for those who clone.
    await writeFile(file, text.replace('http://127.0.0.1:', 'http://localhost:'));
    await rig.start();
    const machine = await readyMachine(rig);
    const job = rig.queue();
    const guest = await rig.guest(job);
    assert.notEqual(guest.runnerName, machine.row.runnerName);
    await guest.takeJob();
    const next = await readyMachine(rig, [machine, { row: rig.status().machines[0]!, guest }]);
    const second = rig.queue();
    assert.equal((await next.asked).status, 201);
    assert.equal(rig.row(second)?.machine, next.row.runnerName);
  });
});

suite('its room', { concurrency: 4 }, () => {
  test('goes to a runner that looks for a job, and comes back after a rest', async (t) => {
    const rig = await startWarm(t, { ram: '1G', timings: { warmRestMs: 1000 } });
    const machine = await readyMachine(rig);
    const { token } = rig.gitlab.createRunner();
    await writePrivate(path.join(rig.directory, 'other.token'), `${token}\n`);
    await changeConfig(rig, (text) => {
      const config = JSON.parse(text);
      const [build] = config.gitlab.runners;
      config.gitlab.runners.push({ ...build, name: 'other', warm: 0, token_file: 'other.token' });
      return JSON.stringify(config, null, 2);
    });
    await isGone(rig, machine);
    await eventually('the other runner to ask', () => runnerRow(rig, 'other').health === 'ok');
  });

  test('is asked back while the host is paused: nothing begins there', async (t) => {
    const rig = await startWarm(t);
    const machine = await readyMachine(rig);
    await order(rig, '/pause', { paused: true });
    await isGone(rig, machine);
    const job = rig.queue();
    await eventually('the reason', () => runnerRow(rig).notClaiming === 'the host is paused');
    assert.equal(job.status, 'pending');
    await order(rig, '/pause', { paused: false });
    await rig.guest(job);
  });
});

suite('the token of a warm machine', { concurrency: 2 }, () => {
  /** To a call that names this token, as bytes; the job's own token goes with each. */
  const answersTo = async (t: TestContext, port: number, vmToken: string, job: SimJob) => {
    const json = JSON.stringify({ token: job.token, state: 'success' });
    const api = `/${vmToken}/api/v4`;
    const body = ['Content-Type: application/json', `Content-Length: ${json.length}`];
    const answers: string[] = [];
    for (const call of [
      head(`PUT ${api}/jobs/${job.id} HTTP/1.1`, ...body) + json,
      head(`PATCH ${api}/jobs/${job.id}/trace HTTP/1.1`, ...body) + json,
      head(`POST ${api}/jobs/${job.id}/artifacts HTTP/1.1`, ...body) + json,
      head(`GET ${api}/jobs/${job.id}/artifacts HTTP/1.1`, `JOB-TOKEN: ${job.token}`),
      head(`GET ${api}/jobs/${job.id}/runtime_environment_key HTTP/1.1`),
      head(`GET ${api}/jobs/request HTTP/1.1`),
      head(`DELETE ${api}/runners HTTP/1.1`),
      head(`GET ${api}/nothing HTTP/1.1`),
      head(`GET /${vmToken} HTTP/1.1`),
    ]) {
      answers.push((await exchange(t, port, call)).text);
    }
    return answers;
  };
  const UNKNOWN = 'glrt-xxxxxxxxx0123456789abcdef';

  test('opens nothing but the question for a job, and nothing at all once it has ended', async (t) => {
    const rig = await startWarm(t, { runner: { limit: 2 } });
    const { job } = await rig.running();
    const machine = await readyMachine(rig);
    const port = Number(new URL(machine.guest.url).port);
    const others = (): string[] =>
      rig.gitlab.requests
        .filter(({ route, target }) => route !== 'jobs-request' && !/jobs\/\d+$/.test(target))
        .map(({ target }) => target);
    const before = others();
    const unknown = await answersTo(t, port, UNKNOWN, job);
    assert.deepEqual(await answersTo(t, port, machine.guest.token, job), unknown);
    const verified = await machine.guest.call('POST', 'runners/verify', {
      json: { token: machine.guest.token },
    });
    assert.equal(verified.status, 200);
    const foreign = await machine.guest.call('POST', 'jobs/request', { json: { token: UNKNOWN } });
    assert.equal(foreign.status, 204);
    await order(rig, '/pause', { provider: 'gitlab', runner: 'build', paused: true });
    await isGone(rig, machine);
    assert.deepEqual(await answersTo(t, port, machine.guest.token, job), unknown);
    for (const call of ['jobs/request', 'runners/verify']) {
      const ask = async (token: string): Promise<string> => {
        const json = JSON.stringify({ token });
        const line = `POST /${token}/api/v4/${call} HTTP/1.1`;
        const type = ['Content-Type: application/json', `Content-Length: ${json.length}`];
        return (await exchange(t, port, head(line, ...type) + json)).text;
      };
      assert.equal(await ask(machine.guest.token), await ask(UNKNOWN));
    }
    assert.deepEqual(others(), before, 'nothing of it may reach GitLab');
    assert.equal(job.status, 'running');
  });
});
