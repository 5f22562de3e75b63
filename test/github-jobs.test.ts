/** The GitHub provider and its jobs: from queued at GitHub to machine, runner and job gone. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { eventually, within } from './support/deadline.ts';
import { createGithubRig, type GithubRig, startGithubRig } from './support/github-rig.ts';

/** Everything is over: no live machine, no runner at GitHub. */
async function assertNothingIsLeft(rig: GithubRig): Promise<void> {
  await eventually(
    'machines and runners to be gone',
    () =>
      rig.machines.every((machine) => machine.state === 'stopped') &&
      rig.github.runners().length === 0,
  );
}

describe('a GitHub job', () => {
  it('runs on a machine of its own, by the stand-in runner, and is told of as it goes', async (t) => {
    const rig = await startGithubRig(t, { standIn: true });
    const job = rig.queue({ steps: ['echo hello from $PWD', 'echo again'] });
    await rig.github.waitFor('the job to end', () => job.status === 'completed', 20_000);
    assert.equal(job.conclusion, 'success');
    assert.match(job.log.toString(), /hello from .*work\nagain\n/);
    const machine = await rig.machine();
    await within('the machine to end', machine.ended);
    const row = await eventually('the row', () => rig.history[0]);
    assert.equal(row.outcome, 'success');
    assert.equal(row.machine, machine.runnerName);
    assert.equal(row.project, 'lab/demo');
    assert.deepEqual(
      row.stages.map((stage) => stage.name),
      ['queued', 'booted', 'running', 'finished'],
    );
    assert.ok(machine.reports.includes('busy') && machine.reports.includes('done'));
    await assertNothingIsLeft(rig);
    assert.equal(rig.machines.length, 1);
  });

  it('fails where its step fails, and is canceled where it is canceled while it runs', async (t) => {
    const rig = await startGithubRig(t, { standIn: true });
    const bad = rig.queue({ name: 'bad', steps: ['echo oops >&2; exit 3'] });
    const long = rig.queue({ name: 'long', steps: ['echo begun; sleep 60'] });
    await rig.github.waitFor('the log of the long one', () => long.log.length > 0, 20_000);
    rig.github.cancel(long);
    await rig.github.waitFor(
      'both to end',
      () => bad.status === 'completed' && long.status === 'completed',
      20_000,
    );
    assert.equal(bad.conclusion, 'failure');
    assert.match(bad.log.toString(), /oops\nError: Process completed with exit code 3/);
    assert.equal(long.conclusion, 'cancelled');
    await eventually('both rows', () => rig.history.length === 2);
    const outcomes = new Map(rig.history.map((row) => [row.name, row.outcome]));
    assert.equal(outcomes.get('bad'), 'failed');
    assert.equal(outcomes.get('long'), 'canceled');
    await assertNothingIsLeft(rig);
  });

  it('gets its runner only once there is room', async (t) => {
    const rig = await startGithubRig(t, { room: false });
    rig.queue();
    await eventually('a request for room', () => rig.waiting.length === 1);
    assert.equal(rig.github.runners().length, 0);
    assert.equal(rig.waiting[0]?.firm, true);
    assert.equal(rig.waiting[0]?.machineType, 'lab/demo/small');
    assert.equal(rig.row().notClaiming, 'needs 1 GiB, 0 free');
    rig.grant();
    const machine = await rig.machine();
    assert.equal(rig.github.runners()[0]?.name, machine.runnerName);
    assert.match(machine.runnerName, /^forrest-small-[a-z0-9]{16}$/);
    assert.equal(machine.spec.substitutions['REPO_OWNER'], 'lab');
    assert.equal(machine.spec.substitutions['REPO_NAME'], 'demo');
    assert.equal(String(machine.spec.substitutions['JITCONFIG']), '[secret]');
    assert.ok(!JSON.stringify(machine.metadata).includes(machine.jitConfig));
  });

  it('is one of many: each gets one request for room, and no more', async (t) => {
    const rig = await startGithubRig(t, { room: false });
    for (let count = 0; count < 5; count++) rig.queue({ name: `job ${count}` });
    await eventually('five requests', () => rig.waiting.length === 5);
    assert.deepEqual(rig.waiting.map((request) => request.purpose).toSorted(), [
      'job job 0 of lab/demo',
      'job job 1 of lab/demo',
      'job job 2 of lab/demo',
      'job job 3 of lab/demo',
      'job job 4 of lab/demo',
    ]);
  });

  it('is found by asking, where webhooks do not come', async (t) => {
    const rig = await createGithubRig(t, { webhooks: false, section: { polling_interval: '1s' } });
    rig.queue({ name: 'before the start' });
    await rig.start();
    const machine = await rig.machine(1);
    assert.equal(machine.machineType.name, 'lab/demo/small');
    rig.queue({ name: 'after the start' });
    await rig.machine(2);
  });

  it('withdraws its request when it is canceled while it waits', async (t) => {
    const rig = await startGithubRig(t, { room: false });
    const job = rig.queue();
    await eventually('a request for room', () => rig.waiting.length === 1);
    rig.github.cancel(job);
    await eventually('the request to be taken back', () => rig.waiting.length === 0);
    const row = await eventually('the row', () => rig.history[0]);
    assert.equal(row.outcome, 'canceled');
    assert.equal(row.reason, 'canceled at GitHub');
    assert.equal(rig.github.runners().length, 0);
  });

  it('takes machine and runner with it when it is canceled before the machine is up', async (t) => {
    const rig = await startGithubRig(t);
    const job = rig.queue();
    const machine = await rig.machine();
    rig.github.cancel(job);
    await within('the machine to end', machine.ended);
    assert.equal(machine.stopReason, 'no queued job needs it any more');
    await assertNothingIsLeft(rig);
    assert.equal(rig.machines.length, 1);
  });

  it('keeps a machine that got another job just when it became surplus', async (t) => {
    const rig = await startGithubRig(t, { timings: { watchMs: 60_000 } });
    const job = rig.queue();
    const machine = await rig.machine();
    await machine.guest('connect');
    // Of the job with fewer labels that GitHub has given to the runner, nobody hears.
    rig.github.webhooks.hold();
    const other = rig.queue({ name: 'other', labels: ['self-hosted'] });
    rig.github.cancel(job);
    assert.match(await machine.guest('next'), new RegExp(`^job ${other.id} `));
    await rig.github.webhooks.release((held) =>
      held.filter(({ action }) => action === 'completed'),
    );
    await eventually('it to be seen busy', () => machine.reports.includes('busy'));
    assert.equal(machine.stopReason, null);
    await machine.guest(`jobs/${other.id}/complete`, 'success\n');
    await eventually('it to be seen done', () => machine.reports.includes('done'));
    assert.equal(machine.stopReason, null);
    machine.end();
    await assertNothingIsLeft(rig);
  });

  it('gets another machine where a runner of ours took a job with fewer labels', async (t) => {
    const rig = await startGithubRig(t, { timings: { collectMs: 0 } });
    const other = rig.queue({ name: 'other', labels: ['self-hosted'] });
    const job = rig.queue();
    const machine = await rig.machine();
    await machine.guest('connect');
    // By then it counts as the job's, and nothing else tells of one.
    await eventually('it to be online', () => machine.reports.includes('online'));
    assert.match(await machine.guest('next'), new RegExp(`^job ${other.id} `));
    const second = await rig.machine(2);
    await second.guest('connect');
    assert.match(await second.guest('next'), new RegExp(`^job ${job.id} `));
  });

  it('gets another machine where the first one dies, with growing rests between', async (t) => {
    // No look at GitHub's list cleans up what should not have been left.
    const rig = await startGithubRig(t, { timings: { watchMs: 60_000 } });
    rig.queue();
    for (let count = 1; count <= 3; count++) {
      const machine = await rig.machine(count);
      machine.end({ cause: 'crashed', detail: 'it ended with exit code 7', exitCode: 7 });
    }
    await eventually('the reason to be shown', () =>
      /^rests until \d\d:\d\d: it ended with exit code 7 \(3 times in a row\)$/.test(
        rig.row().notClaiming ?? '',
      ),
    );
    const machine = await rig.machine(4);
    await eventually('only its runner to be left', () => rig.github.runners().length === 1);
    await machine.guest('connect');
    assert.match(await machine.guest('next'), /^job /);
  });

  it('gets another machine where its runner never connects', async (t) => {
    const rig = await startGithubRig(t, { timings: { startLimitMs: 200 } });
    rig.queue();
    const machine = await rig.machine();
    await within('the machine to end', machine.ended);
    assert.equal(machine.stopReason, 'its runner did not connect to GitHub within 0.2 s');
    await eventually('the log to say so', () =>
      rig.log.some((line) => line.includes('did not connect to GitHub')),
    );
    await rig.machine(2);
    await eventually('the runner of the first to be gone', () =>
      rig.github.runners().every((runner) => runner.name !== machine.runnerName),
    );
  });

  it('keeps a machine past its start limit while GitHub cannot say whether it connected', async (t) => {
    const rig = await startGithubRig(t, { timings: { startLimitMs: 150, watchMs: 60_000 } });
    const outage = rig.github.inject({
      match: { route: ['runner', 'runners'] },
      do: { status: 502 },
    });
    rig.queue();
    const machine = await rig.machine();
    await machine.guest('connect');
    await eventually('two looks', () => outage.hits >= 4);
    assert.equal(machine.stopReason, null);
    outage.remove();
    await eventually('it to be seen online', () => machine.reports.includes('online'));
    assert.equal(machine.stopReason, null);
  });

  it('has its machine stopped where that does not end after it', async (t) => {
    const rig = await startGithubRig(t, { timings: { finishGraceMs: 200 } });
    const job = rig.queue();
    const machine = await rig.machine();
    await machine.guest('connect');
    await machine.guest('next');
    await machine.guest(`jobs/${job.id}/complete`, 'success\n');
    await within('the machine to end', machine.ended);
    assert.equal(machine.stopReason, 'it did not end within 0.2 s after its job');
    await assertNothingIsLeft(rig);
    assert.equal(rig.machines.length, 1);
  });

  it('that was over unseen leaves its machine the time to end well', async (t) => {
    const rig = await startGithubRig(t);
    const job = rig.queue();
    const machine = await rig.machine();
    for (const { id } of rig.github.runners()) rig.github.deleteRunner(id);
    rig.github.cancel(job);
    await eventually('it to be seen done', () => machine.reports.includes('done'));
    assert.equal(machine.stopReason, null);
    machine.end();
    await assertNothingIsLeft(rig);
  });

  it('says what became of it where its machine dies under it', async (t) => {
    const rig = await startGithubRig(t, {
      simulator: { timings: { offlineAfterMs: 100, lostAfterMs: 200, sweepEveryMs: 50 } },
    });
    const job = rig.queue();
    const machine = await rig.machine();
    await machine.guest('connect');
    await machine.guest('next');
    await eventually('it to be seen busy', () => machine.reports.includes('busy'));
    machine.end({ cause: 'crashed', detail: 'its kernel panicked', exitCode: null });
    await rig.github.waitFor('GitHub to fail it', () => job.conclusion === 'failure');
    const row = await eventually('the row', () => rig.history[0]);
    assert.equal(row.outcome, 'system_failure');
    assert.equal(row.reason, 'its machine ended: its kernel panicked');
    await assertNothingIsLeft(rig);
    assert.equal(rig.machines.length, 1);
  });

  it('is forgotten with its machine where its run is deleted', async (t) => {
    const rig = await startGithubRig(t, { section: { polling_interval: '1s' } });
    const job = rig.queue();
    const machine = await rig.machine();
    rig.github.deleteRun(job.run);
    await within('the machine to end', machine.ended);
    const row = await eventually('the row', () => rig.history[0]);
    assert.equal(row.reason, 'its workflow run was deleted at GitHub');
    await assertNothingIsLeft(rig);
  });

  it('waits for its approval without a machine', async (t) => {
    const rig = await startGithubRig(t, { section: { polling_interval: '1s' } });
    const job = rig.queue({ waiting: true });
    await eventually('it to be known', () => rig.provider.status().jobs[0]?.state === 'waiting');
    assert.equal(rig.machines.length, 0);
    rig.github.approve(job);
    await rig.machine();
  });

  it('is not ours with other labels, or the same in another order', async (t) => {
    const rig = await startGithubRig(t);
    rig.queue({ name: 'order', labels: ['forrest', 'self-hosted', 'small'] });
    rig.queue({ name: 'more', labels: ['self-hosted', 'forrest', 'small', 'x'] });
    rig.queue({ name: 'ours' });
    await rig.machine();
    assert.deepEqual(
      rig.provider.status().jobs.map((row) => row.name),
      ['ours'],
    );
  });

  it('for a machine type that is not configured is shown, and nothing is asked for', async (t) => {
    const rig = await startGithubRig(t);
    rig.queue({ labels: ['self-hosted', 'forrest', 'huge'] });
    await eventually('the job to be shown', () => rig.provider.status().jobs.length === 1);
    const { health } = rig.provider.status();
    assert.equal(health.status, 'degraded');
    assert.match(health.message ?? '', /not configured: lab\/demo\/huge/);
    assert.equal(rig.machines.length, 0);
  });
});
