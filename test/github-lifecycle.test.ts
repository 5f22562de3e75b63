/** The GitHub provider over restarts, pauses, drains, stops and reloads, and beside another host. */

import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, it } from 'node:test';
import { eventually, within } from './support/deadline.ts';
import { freePort } from './support/free-port.ts';
import { createGithubRig, startGithubRig } from './support/github-rig.ts';

const LABELS = ['self-hosted', 'forrest', 'small'];

describe('a restart of the host', () => {
  it('keeps machines: idle ones serve queued jobs, busy ones go on', async (t) => {
    const rig = await startGithubRig(t);
    rig.queue({ name: 'first' });
    const busy = await rig.machine(1);
    await busy.guest('connect');
    const [, id] = (await busy.guest('next')).split(' ');
    await eventually('it to be seen busy', () => busy.reports.includes('busy'));
    const second = rig.queue({ name: 'second' });
    const idle = await rig.machine(2);
    await rig.restart();
    await idle.guest('connect');
    assert.match(await idle.guest('next'), new RegExp(`^job ${second.id} `));
    await busy.guest(`jobs/${id}/complete`, 'success\n');
    await eventually('it to be seen done', () => busy.reports.includes('done'));
    const row = await eventually('its row', () => rig.history.find((one) => one.id === id));
    assert.equal(row.outcome, 'success');
    assert.equal(rig.machines.length, 2);
    assert.equal(idle.stopReason, null);
  });

  it('takes out of GitHub the runners whose machines ended meanwhile', async (t) => {
    const rig = await startGithubRig(t);
    const job = rig.queue();
    const machine = await rig.machine();
    await rig.provider.stop('leave');
    rig.github.cancel(job);
    machine.end({ cause: 'crashed', detail: 'it died while the host was down' });
    assert.equal(rig.github.runners().length, 1);
    await rig.start();
    await eventually('the runner to be gone', () => rig.github.runners().length === 0);
    assert.equal(rig.machines.length, 1);
  });

  it('leaves no runner behind that was just being made', async (t) => {
    const rig = await startGithubRig(t);
    const slow = rig.github.inject({ match: { route: 'jitconfig' }, do: { delayMs: 200 } });
    rig.queue();
    await eventually('the call', () => slow.hits === 1);
    await rig.provider.stop('leave');
    assert.deepEqual(rig.github.runners(), []);
    assert.equal(rig.machines.length, 0);
  });

  it('keeps nobody’s machine as too many before GitHub was asked', async (t) => {
    const rig = await startGithubRig(t);
    rig.queue();
    const machine = await rig.machine();
    await rig.provider.stop('leave');
    const outage = rig.github.inject({ match: { route: 'runs' }, do: { status: 503 } });
    await rig.start();
    await eventually('tries', () => outage.hits >= 4);
    assert.equal(machine.stopReason, null);
    outage.remove();
    await machine.guest('connect');
    await eventually('it to be seen online', () => machine.reports.includes('online'));
    assert.equal(rig.machines.length, 1);
  });

  it('remembers pauses, also those that came at once', async (t) => {
    const machines = { small: {}, large: {} };
    const rig = await startGithubRig(t, { repositories: { lab: { demo: { machines } } } });
    const paused = (): boolean[] => rig.provider.status().runners.map((row) => row.paused);
    await Promise.all(['small', 'large'].map((one) => rig.provider.pause(`lab/demo/${one}`, true)));
    assert.deepEqual(paused(), [true, true]);
    await rig.restart();
    assert.deepEqual(paused(), [true, true]);
  });

  it('goes on without a pause where the file of those is damaged, and says so', async (t) => {
    const rig = await startGithubRig(t);
    await rig.provider.pause('lab/demo/small', true);
    const file = path.join(rig.directory, 'state/paused.json');
    await writeFile(file, '["lab/de');
    await rig.restart();
    assert.equal(rig.row().paused, false);
    assert.equal(await readFile(`${file}.damaged`, 'utf8'), '["lab/de');
    assert.ok(rig.log.some((line) => line.startsWith('error paused machine types cannot be read')));
  });

  it('remembers a pause', async (t) => {
    const rig = await startGithubRig(t);
    await rig.provider.pause('lab/demo/small', true);
    await rig.restart();
    assert.equal(rig.row().paused, true);
    assert.equal(rig.row().notClaiming, 'paused');
  });
});

describe('a pause', () => {
  it('takes requests back, and asks again when it is over', async (t) => {
    const rig = await startGithubRig(t, { room: false });
    rig.queue();
    await eventually('a request', () => rig.waiting.length === 1);
    await rig.provider.pause('lab/demo/small', true);
    await eventually('the request to be taken back', () => rig.waiting.length === 0);
    await rig.provider.pause('lab/demo/small', false);
    await eventually('a request', () => rig.waiting.length === 1);
  });

  it('of a machine type that is not configured is refused', async (t) => {
    const rig = await startGithubRig(t);
    await assert.rejects(rig.provider.pause('lab/demo/huge', true), /lab\/demo\/huge/);
  });
});

describe('a drain', () => {
  it('ends what has no job, and resolves when the jobs are done', async (t) => {
    const rig = await startGithubRig(t);
    rig.queue({ name: 'first' });
    const busy = await rig.machine(1);
    await busy.guest('connect');
    const [, id] = (await busy.guest('next')).split(' ');
    rig.queue({ name: 'second' });
    const idle = await rig.machine(2);
    let drained = false;
    const drain = rig.provider.drain().then(() => {
      drained = true;
    });
    await within('the idle one to end', idle.ended);
    assert.equal(drained, false);
    assert.equal(busy.stopReason, null);
    await busy.guest(`jobs/${id}/complete`, 'success\n');
    busy.end();
    await within('the drain', drain);
    assert.deepEqual(rig.github.runners(), []);
    assert.equal(rig.row().notClaiming, 'the host takes nothing new');
    assert.equal(rig.machines.length, 2);
  });
});

describe('a stop that ends machines', () => {
  it('stops all of them, and takes out of GitHub what has no job', async (t) => {
    const rig = await startGithubRig(t);
    rig.queue({ name: 'first' });
    const busy = await rig.machine(1);
    await busy.guest('connect');
    await busy.guest('next');
    rig.queue({ name: 'second' });
    const idle = await rig.machine(2);
    await within('the stop', rig.provider.stop('end'));
    assert.equal(busy.stopReason, 'the host was stopped');
    assert.equal(idle.state, 'stopped');
    // GitHub itself ends the one that has a job.
    assert.deepEqual(
      rig.github.runners().map((runner) => runner.name),
      [busy.runnerName],
    );
  });
});

describe('a reload', () => {
  it('that removes a machine type takes its requests back and shows the jobs that wait', async (t) => {
    const rig = await startGithubRig(t, { room: false });
    rig.queue();
    await eventually('a request', () => rig.waiting.length === 1);
    const config = await rig.parse({});
    const repositories = [{ owner: 'lab', repo: 'demo', machines: ['large'] }];
    rig.provider.reconfigure({ ...config, repositories });
    await eventually('the request to be taken back', () => rig.waiting.length === 0);
    assert.match(rig.provider.status().health.message ?? '', /not configured: lab\/demo\/small/);
    assert.deepEqual(
      rig.provider.status().runners.map((row) => row.name),
      ['lab/demo/large'],
    );
    rig.provider.reconfigure(config);
    await eventually('a request', () => rig.waiting.length === 1);
  });

  it('that needs a restart says so, and takes effect for the rest', async (t) => {
    const rig = await startGithubRig(t);
    const next = await rig.parse({ base_url: 'http://127.0.0.1:1', webhook_secret: 'another' });
    rig.provider.reconfigure(next);
    assert.ok(rig.log.some((line) => line.includes('github.base_url has changed: restart')));
    rig.github.setWebhook({ url: rig.webhookUrl, secret: 'another' });
    rig.queue();
    await rig.machine();
  });
});

describe('beside another host on the same repository', () => {
  it('only own runners without a machine are removed', async (t) => {
    const rig = await createGithubRig(t);
    const other = await createGithubRig(t);
    await rig.start();
    rig.queue();
    const machine = await rig.machine();
    const hostId = machine.runnerName.slice('forrest-small-'.length, -10);
    const foreign = rig.github.addRunner('lab/demo', 'forrest-small-zzzzzz0123456789', LABELS);
    const dead = rig.github.addRunner('lab/demo', `forrest-small-${hostId}0123456789`, LABELS);
    const manual = rig.github.addRunner('lab/demo', 'somebody-s-runner', LABELS);
    await eventually('the dead one to be gone', () => !rig.github.runners().includes(dead));
    assert.ok(rig.github.runners().includes(foreign));
    assert.ok(rig.github.runners().includes(manual));
    assert.equal(machine.stopReason, null);
    // Another state directory is another host.
    await other.start();
    other.queue();
    const theirs = await other.machine();
    assert.notEqual(theirs.runnerName.slice(0, -10), machine.runnerName.slice(0, -10));
  });
});

describe('check', () => {
  it('finds that all is well', async (t) => {
    const rig = await createGithubRig(t);
    const found = await rig.check();
    assert.deepEqual(
      found.map(({ severity }) => severity),
      ['ok', 'ok', 'ok'],
    );
    assert.match(found[2]?.subject ?? '', /lab\/demo/);
  });

  it('finds an App that GitHub does not know', async (t) => {
    const rig = await createGithubRig(t);
    const found = await rig.check({ app_id: 7 });
    const error = found.find(({ severity }) => severity === 'error');
    assert.match(error?.message ?? '', /API 404: Integration not found$/);
    assert.match(error?.remedy ?? '', /correct github.app_id/);
  });

  it('finds that GitHub does not answer, and does not blame the App', async (t) => {
    const rig = await createGithubRig(t);
    const base_url = `http://127.0.0.1:${await freePort()}`;
    const found = await rig.check({ base_url });
    const error = found.find(({ severity }) => severity === 'error');
    assert.match(error?.message ?? '', /ECONNREFUSED/);
    assert.match(error?.remedy ?? '', /^correct github.base_url/);
  });

  it('finds missing installations and permissions, each with what to do', async (t) => {
    const rig = await createGithubRig(t, {
      repositories: {
        lab: { demo: { machines: { small: {} } } },
        stranger: { demo: { machines: { small: {} } } },
      },
    });
    rig.github.installation('lab').permissions['administration'] = 'read';
    const errors = (await rig.check()).filter(({ severity }) => severity === 'error');
    assert.deepEqual(
      errors.map(({ subject }) => subject),
      ['repository lab/demo', 'repository stranger/demo'],
    );
    assert.match(errors[0]?.message ?? '', /lacks the repository permission administration: write/);
    assert.match(errors[1]?.message ?? '', /not installed on the account stranger/);
    for (const { remedy } of errors) assert.ok(remedy, 'says what to do');
  });
});
