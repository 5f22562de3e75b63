/** Warm machines (design §5): they wait for a job in our `jobs/request`, and yield to whoever needs their room. */

import assert from 'node:assert/strict';
import { suite, type TestContext, test } from 'node:test';
import type { RunnerRow } from 'forrest-gitlab/contract';
import type { MachineRow } from '../fixtures/host/src/index.ts';
import { eventually, within } from './support/deadline.ts';
import { createGuest, type Guest } from './support/guest.ts';
import { createRig, journalOf, type Rig, type RigOptions } from './support/rig.ts';

/** Whom there is no job for yet. */
const NOBODY = { id: 0, token: '' } as Parameters<typeof createGuest>[1];

const asks = (rig: Rig): number =>
  rig.gitlab.requests.filter((request) => request.route === 'jobs-request').length;

function runnerRow(rig: Rig, name = 'build'): RunnerRow {
  const row = rig.status().providers[0]?.status.runners.find((one) => one.name === name);
  if (row === undefined) throw new Error(`no runner ${name}`);
  return row;
}

const warmMachines = (rig: Rig): MachineRow[] =>
  rig.status().machines.filter(
    ({ runnerName }) => !rig.status().providers[0]?.status.jobs.some((job) => job.machine === runnerName),
  );

/** The machine that waits for a job; its runner has not asked yet. */
function warmMachine(rig: Rig, not: readonly string[] = []): Promise<{ row: MachineRow; guest: Guest }> {
  return eventually('a warm machine', async () => {
    const row = warmMachines(rig).find(({ runnerName, pid }) => pid !== null && !not.includes(runnerName));
    if (row === undefined) return undefined;
    const guest = await createGuest(row, NOBODY).catch(() => undefined);
    return guest && { row, guest };
  });
}

/** Its runner asks, and is kept waiting. */
async function wait(rig: Rig, guest: Guest): ReturnType<Guest['request']> {
  const answer = guest.request();
  await eventually('the machine to be ready', () => (runnerRow(rig).warm?.ready ?? 0) > 0);
  return { answer } as never;
}

suite('a warm machine', { concurrency: 4 }, () => {
  test('waits for a job, gets it at once, and another one takes its place', async (t) => {
    const rig = await startWarm(t);
    const { row, guest } = await warmMachine(rig);
    const asked = guest.request();
    await ready(rig);
    assert.deepEqual(runnerRow(rig).warm, { ready: 1, wanted: 1 });
    const job = rig.queue();
    const answer = await within('the job', asked);
    assert.equal(answer.status, 201);
    assert.equal(JSON.parse(answer.body.toString()).id, job.id);
    assert.equal(rig.row(job)?.machine, row.runnerName);
    const second = await warmMachine(rig, [row.runnerName]);
    assert.notEqual(second.row.runnerName, row.runnerName);
    const own = await createGuest(row, job);
    assert.equal((await own.keepAlive()).status, 200);
    assert.equal((await own.finish('success')).status, 200);
    await own.powerOff();
    assert.equal((await rig.ended(job)).outcome, 'success');
    assert.equal(job.verdict().handedOut, 1);
    assert.deepEqual(await journalOf(rig), []);
  });
});

async function ready(rig: Rig): Promise<void> {
  await eventually('a machine to be ready', () => (runnerRow(rig).warm?.ready ?? 0) > 0);
}

async function startWarm(t: TestContext, options: RigOptions = {}): Promise<Rig> {
  const rig = await createRig(t, { ...options, runner: { warm: 1, ...options.runner } });
  await rig.start();
  return rig;
}
