/** The GitHub provider while GitHub refuses, limits, fails or hangs. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ask } from '../fixtures/testing/ask.ts';
import { eventually, within } from './support/deadline.ts';
import { createGithubRig, type GithubRig, startGithubRig } from './support/github-rig.ts';
import { bodyOf, startServer } from './support/http-server.ts';

/** A machine runs, and its runner is the only one at GitHub. */
async function assertOneRunner(rig: GithubRig, machines = 1): Promise<void> {
  const machine = await rig.machine(machines);
  await eventually('its runner to be the only one', () => rig.github.runners().length === 1);
  assert.equal(rig.github.runners()[0]?.name, machine.runnerName);
  assert.equal(rig.machines.length, machines);
}

describe('while GitHub', () => {
  it('refuses the App with 401, the rows say so and since when, and it heals by itself', async (t) => {
    const rig = await createGithubRig(t);
    const refusal = rig.github.inject({
      match: { route: ['installations', 'access-tokens'] },
      do: { status: 401, message: 'A JSON web token could not be decoded' },
    });
    await rig.start();
    await eventually('the trouble', () => rig.provider.status().health.status === 'down');
    const { health } = rig.provider.status();
    assert.match(
      health.message ?? '',
      /^GitHub App, since \d\d:\d\d: GET app\/installations: API 401: A JSON web token could not be decoded; check github\.app_id/,
    );
    assert.equal(rig.row().health, 'unhealthy');
    assert.match(rig.row().notClaiming ?? '', /^since \d\d:\d\d: .*401/);
    rig.queue();
    refusal.remove();
    await eventually('it to be well', () => rig.provider.status().health.status === 'ok');
    await assertOneRunner(rig);
  });

  it('takes back a token early, it gets a new one', async (t) => {
    const rig = await startGithubRig(t);
    rig.github.expireTokens();
    rig.queue();
    await assertOneRunner(rig);
    const refused = rig.github.requests.filter(({ status }) => status === 401);
    assert.ok(refused.length > 0);
    assert.equal(rig.provider.status().health.status, 'ok');
  });

  it('limits the rate, it asks for nothing until GitHub wants it to', async (t) => {
    const rig = await startGithubRig(t);
    const limit = rig.github.inject({
      match: { route: 'jitconfig', times: 1 },
      do: { secondaryRateLimit: { retryAfterSeconds: 1 } },
    });
    rig.queue();
    await eventually('the limit to strike', () => limit.hits === 1);
    const struckAt = Date.now();
    await eventually('the reason', () =>
      (rig.row().notClaiming ?? '').includes('secondary rate limit'),
    );
    await assertOneRunner(rig);
    const [, second] = rig.github.requests.filter(({ route }) => route === 'jitconfig');
    assert.ok((second?.at ?? 0) - struckAt >= 900, 'asked again too early');
  });

  it('has the hourly limit used up, the time until its reset is kept', async (t) => {
    const rig = await createGithubRig(t);
    rig.github.inject({
      match: { route: 'runs', times: 1 },
      do: { rateLimit: { resetInSeconds: 1 } },
    });
    await rig.start();
    await eventually('the trouble', () =>
      (rig.provider.status().health.message ?? '').includes('API rate limit exceeded'),
    );
    rig.queue();
    await assertOneRunner(rig);
    await eventually('it to be well', () => rig.provider.status().health.status === 'ok');
    const [first, second] = rig.github.requests.filter(({ target }) =>
      target.startsWith('/repos/'),
    );
    assert.ok((second?.at ?? 0) - (first?.at ?? 0) >= 1000, 'asked again before the reset');
  });

  it('does not know the repository, only that one’s rows say so', async (t) => {
    const rig = await createGithubRig(t, {
      repositories: {
        lab: { demo: { machines: { small: {} } }, gone: { machines: { small: {} } } },
      },
    });
    await rig.start();
    await eventually('the trouble', () => rig.row('lab/gone/small').health === 'unhealthy');
    await eventually('the other one', () => rig.row().health === 'ok');
    const { health } = rig.provider.status();
    assert.equal(health.status, 'degraded');
    assert.match(health.message ?? '', /^lab\/gone, since .*API 404: Not Found; check the name/);
    rig.queue();
    await assertOneRunner(rig);
  });

  it('lacks the App on an account, its rows say what to do', async (t) => {
    const rig = await createGithubRig(t, {
      repositories: { stranger: { demo: { machines: { small: {} } } } },
    });
    await rig.start();
    await eventually('the reason', () =>
      (rig.row('stranger/demo/small').notClaiming ?? '').includes('not installed on stranger'),
    );
  });

  it('denies a permission, no machine is booted and the reason is shown', async (t) => {
    const rig = await startGithubRig(t);
    rig.github.installation('lab').permissions['administration'] = 'read';
    rig.queue();
    await eventually('the reason', () =>
      (rig.row().notClaiming ?? '').includes('API 403: Resource not accessible by integration'),
    );
    assert.equal(rig.machines.length, 0);
    rig.github.installation('lab').permissions['administration'] = 'write';
    await assertOneRunner(rig);
  });

  it('answers 500 to a configuration, one runner comes of it', async (t) => {
    const rig = await startGithubRig(t);
    rig.github.inject({ match: { route: 'jitconfig', times: 2 }, do: { status: 500 } });
    rig.queue();
    await assertOneRunner(rig);
  });

  it('loses its answer to a configuration, the runner it made is removed', async (t) => {
    const rig = await startGithubRig(t);
    const lost = rig.github.inject({
      match: { route: 'jitconfig', times: 1 },
      do: { loseAnswer: true },
    });
    rig.queue();
    await eventually('the answer to be lost', () => lost.hits === 1);
    await assertOneRunner(rig);
    const names = rig.github.requests
      .filter(({ route }) => route === 'jitconfig')
      .map(({ body }) => (JSON.parse(body) as { name: string }).name);
    assert.equal(new Set(names).size, 2);
    await eventually('the log to say so', () =>
      rig.log.some((line) => line.includes('a runner without a machine was left')),
    );
  });

  it('hangs on a configuration, it is given up after its time limit', async (t) => {
    const rig = await startGithubRig(t, { timings: { callTimeoutMs: 300 } });
    rig.github.inject({ match: { route: 'jitconfig', times: 1 }, do: { hang: true } });
    rig.queue();
    await eventually('the reason', () =>
      (rig.row().notClaiming ?? '').includes('nothing within 0.3 s'),
    );
    await assertOneRunner(rig);
  });

  it('cannot remove a runner, the machine stays until it can', async (t) => {
    const rig = await startGithubRig(t);
    const outage = rig.github.inject({ match: { route: 'runner-delete' }, do: { status: 503 } });
    const job = rig.queue();
    const machine = await rig.machine();
    rig.github.cancel(job);
    await eventually('tries', () => outage.hits >= 2);
    assert.equal(machine.stopReason, null);
    outage.remove();
    await within('the machine to end', machine.ended);
    assert.deepEqual(rig.github.runners(), []);
  });

  it('is out when a machine dies, its runner is removed afterwards', async (t) => {
    const rig = await startGithubRig(t, { timings: { backoffMs: 60_000, backoffCapMs: 60_000 } });
    rig.queue();
    const machine = await rig.machine();
    const outage = rig.github.inject({ match: {}, do: { status: 503 } });
    machine.end({ cause: 'crashed', detail: 'it crashed' });
    await eventually('a try', () => outage.hits > 0);
    assert.equal(rig.github.runners().length, 1);
    outage.remove();
    await eventually('the runner to be gone', () => rig.github.runners().length === 0);
  });

  it('knows a repository by another name by now, its jobs run on, and log and check say so', async (t) => {
    let simulator = '';
    const { url } = await startServer(t, async (request, response) => {
      const target = request.url ?? '/';
      if (target.startsWith('/repos/lab/demo/')) {
        const location = target.replace('demo', 'renamed');
        return void response.writeHead(request.method === 'GET' ? 301 : 307, { location }).end();
      }
      const { method = 'GET', headers } = request;
      const body = method === 'GET' ? '' : (await bodyOf(request)).toString();
      const { port } = new URL(simulator);
      const answer = await ask({ port, path: target, method, headers }, body);
      response.writeHead(answer.status, answer.headers).end(answer.text);
    });
    const rig = await createGithubRig(t, { section: { base_url: url }, webhooks: false });
    simulator = rig.github.url;
    rig.github.createRepository('lab/renamed');
    rig.queue({ repository: 'lab/renamed' });
    await rig.start();
    await rig.machine();
    const said = rig.log.filter((line) => line.includes('lab/demo has another name at GitHub'));
    assert.equal(said.length, 1);
    const findings = await rig.check({ base_url: url });
    assert.deepEqual(
      findings.filter(({ severity }) => severity !== 'ok').map(({ remedy }) => remedy),
      ['correct its name under repositories'],
    );
  });

  it('misses a runner in its list, the job on it goes on', async (t) => {
    let misses = 0;
    const rig = await startGithubRig(t, {
      webhooks: false,
      section: { polling_interval: '1s' },
      timings: { listsLagMs: 0 },
      async fetch(input, init) {
        const response = await fetch(input, init);
        if (!new URL(String(input)).pathname.endsWith('/actions/runners')) return response;
        const list = (await response.json()) as { runners: unknown[] };
        if (rig.github.runners().some(({ job }) => job !== null)) misses++;
        return Response.json({ ...list, runners: [] });
      },
    });
    rig.queue();
    const machine = await rig.machine();
    await machine.guest('connect');
    const [, id] = (await machine.guest('next')).split(' ');
    await eventually('it to be missed', () => misses >= 2);
    assert.ok(!machine.reports.includes('done'), machine.reports.join());
    await machine.guest(`jobs/${id}/complete`, 'success\n');
    await eventually('its end', () => machine.reports.includes('done'));
  });

  it('refuses a machine and our clock is then put back by hours, the rest ends in time', async (t) => {
    const rig = await startGithubRig(t);
    const refusal = rig.github.inject({ match: { route: 'jitconfig' }, do: { status: 500 } });
    rig.queue();
    await eventually('a rest', () => (rig.row().notClaiming ?? '').startsWith('rests until'));
    const now = Date.now;
    t.mock.method(Date, 'now', () => now() - 5 * 3_600_000);
    refusal.remove();
    await rig.machine();
  });

  it('asked again with nothing new, answers at no cost', async (t) => {
    const rig = await startGithubRig(t, { section: { polling_interval: '1s' } });
    await eventually('an answer 304', () =>
      rig.github.requests.some(({ route, status }) => route === 'runs' && status === 304),
    );
    assert.equal(rig.row().health, 'ok');
  });

  it('has only finished runs, reads none of their jobs', async (t) => {
    const rig = await createGithubRig(t, { webhooks: false });
    for (let count = 0; count < 40; count++) rig.github.cancel(rig.queue());
    rig.github.queueJob({
      repository: 'lab/demo',
      name: 'too old',
      labels: ['self-hosted', 'forrest', 'small'],
      createdAt: Date.now() - 25 * 3_600_000,
    });
    rig.queue({ name: 'open' });
    await rig.start();
    await assertOneRunner(rig);
    assert.equal(rig.github.requests.filter(({ route }) => route === 'jobs').length, 1);
  });
});
