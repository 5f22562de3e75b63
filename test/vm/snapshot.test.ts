/** Machines that are restored from a snapshot instead of booted (design §9). */

import assert from 'node:assert/strict';
import { readdir, readFile, truncate, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type TestContext, test } from 'node:test';
import type { SimJob } from '../../fixtures/gitlab/index.ts';
import { readFatFile } from '../../fixtures/host/src/drivers/qemu/fat-image.ts';
import type { MachineRow } from '../../fixtures/host/src/index.ts';
import { eventually } from '../support/deadline.ts';
import { freePort } from '../support/free-port.ts';
import { createRig, type Rig } from '../support/rig.ts';
import { BOOT_MS, endedInVm, inQemu, skip } from '../support/vm.ts';
import { NO_GIT } from '../support/vm-disk.ts';
import { runnerRow } from '../support/warm.ts';

/** What a machine knows and draws at its beginning. */
const SCRIPT = [
  'echo "time $(date +%s) end"',
  'echo "name $(hostname) end"',
  'echo "random $(od -An -N16 -tx1 /dev/urandom | tr -d " \\n") end"',
];

const said = (job: SimJob, what: string): string =>
  new RegExp(`${what} (\\S+) end$`, 'm').exec(job.log.toString())?.[1] ?? '';

const count = (rig: Rig, text: string): number =>
  rig.log.filter((line) => line.includes(text)).length;

const restored = (rig: Rig): number => count(rig, 'was restored from a snapshot');

async function startSnapshotRig(t: TestContext): Promise<Rig> {
  // What a guest was told must hold for the next host, too.
  const section = { listen: `127.0.0.1:${await freePort()}` };
  const rig = await createRig(t, inQemu({}, { machine: { snapshot: true }, section }));
  await rig.start();
  await snapshotMade(rig, 1);
  return rig;
}

const snapshotMade = (rig: Rig, times: number): Promise<true> =>
  eventually(
    `snapshot ${times}`,
    () => count(rig, 'the snapshot of small was made') === times,
    BOOT_MS,
  );

test('machines of one snapshot', { skip }, async (t) => {
  const rig = await startSnapshotRig(t);

  const queue = (name: string): SimJob => rig.queue({ name, script: SCRIPT, variables: NO_GIT });
  const one = queue('one');

  await t.test('are restored for a job, with the right time and names of their own', async () => {
    await verify(rig, one);
    assert.equal(restored(rig), 1);
  });

  await t.test(
    'wait warm, also for the next host; one has a job, and another follows',
    async () => {
      await keepWarm(rig, 1);
      const machine = await readyMachine(rig);
      await holdsNothing(rig, machine);
      await rig.host.stop('leave');
      await rig.start();
      const two = queue('two');
      await verify(rig, two);
      assert.equal(rig.row(two)?.machine, machine.runnerName);
      assert.equal(said(one, 'random').length, 32);
      assert.notEqual(said(one, 'random'), said(two, 'random'));
      await eventually('the next one', () => restored(rig) === 3, BOOT_MS);
      await keepWarm(rig, 0);
    },
  );

  await t.test('boot where it is damaged, which retires it with the reason', async () => {
    const [memory = ''] = await findMemory(rig);
    await truncate(memory, 1024 * 1024);
    const job = queue('damaged');
    await endedInVm(rig, job);
    assert.equal(job.status, 'success', job.log.toString());
    assert.equal(restored(rig), 3);
    assert.equal(count(rig, 'could not be restored from its snapshot'), 1);
    assert.deepEqual(await findMemory(rig), []);
  });
});

test('a snapshot is taken anew when what it is made of changes', { skip }, async (t) => {
  const rig = await startSnapshotRig(t);
  const before = await findMemory(rig);
  const kernel = rig.host.config.machines.get('small')?.kernel?.initrd ?? '';
  const now = new Date();
  await utimes(kernel, now, now);
  const job = rig.queue({ name: 'meanwhile', script: SCRIPT, variables: NO_GIT });
  await endedInVm(rig, job);
  assert.equal(job.status, 'success', job.log.toString());
  assert.equal(restored(rig), 0);
  await snapshotMade(rig, 2);
  const after = await findMemory(rig);
  assert.equal(after.length, 1, 'the one before is removed');
  assert.notDeepEqual(after, before);
});

async function verify(rig: Rig, job: SimJob): Promise<void> {
  const { machine } = await endedInVm(rig, job);
  assert.equal(job.status, 'success', job.log.toString());
  assert.equal(said(job, 'name'), machine);
  const finishedAt = Math.round((job.finishedAt ?? 0) / 1000);
  const late = finishedAt - Number(said(job, 'time'));
  assert.ok(late >= -1 && late <= 15, `the clock was ${late} s behind the end of the job`);
}

async function keepWarm(rig: Rig, warm: number): Promise<void> {
  const file = path.join(rig.directory, 'config.yaml');
  const config = JSON.parse(await readFile(file, 'utf8'));
  config.gitlab.runners[0].warm = warm;
  await writeFile(file, JSON.stringify(config));
  await rig.host.reload();
}

/** The warm machine, once its runner waits for a job. */
const readyMachine = (rig: Rig): Promise<MachineRow> =>
  eventually(
    'a warm machine',
    () => (runnerRow(rig).warm?.ready ? rig.status().machines.find(({ warm }) => warm) : undefined),
    BOOT_MS,
  );

/** What it was told opens nothing of a job, not even with that job's own token. */
async function holdsNothing(rig: Rig, { runDir }: MachineRow): Promise<void> {
  const told = await readFatFile(path.join(runDir, 'job-config.img'), 'runner.env', []);
  const url = /^CI_SERVER_URL='(.+)'$/m.exec(String(told))?.[1]?.replace('10.0.2.2', '127.0.0.1');
  const job = rig.queue({ tags: ['nobody'] });
  for (const [method, target] of [
    ['PATCH', `jobs/${job.id}/trace`],
    ['POST', `jobs/${job.id}/artifacts`],
    ['GET', `jobs/${job.id}/artifacts`],
    ['GET', 'runners'],
  ] as const) {
    const { status } = await fetch(`${url}/api/v4/${target}`, {
      method,
      headers: { 'job-token': job.token },
    });
    assert.equal(status, 403, `${method} ${target}`);
  }
}

async function findMemory(rig: Rig): Promise<string[]> {
  const root = path.join(rig.directory, 'base/snapshots');
  const names = await readdir(root, { recursive: true });
  return names.filter((name) => name.endsWith('/memory')).map((name) => path.join(root, name));
}
