/** Machines that are restored from a snapshot instead of booted (design §9). */

import assert from 'node:assert/strict';
import { readdir, truncate, utimes } from 'node:fs/promises';
import path from 'node:path';
import { type TestContext, test } from 'node:test';
import type { SimJob } from '../../fixtures/gitlab/index.ts';
import { eventually } from '../support/deadline.ts';
import { createRig, type Rig } from '../support/rig.ts';
import { BOOT_MS, endedInVm, inQemu, skip } from '../support/vm.ts';
import { NO_GIT } from '../support/vm-disk.ts';

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

async function startSnapshotRig(t: TestContext): Promise<Rig> {
  const rig = await createRig(t, inQemu({}, { machine: { snapshot: true } }));
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

  await t.test('have the right time, their own names and their own random numbers', async () => {
    const jobs = ['one', 'two'].map((name) =>
      rig.queue({ name, script: SCRIPT, variables: NO_GIT }),
    );
    for (const job of jobs) {
      await endedInVm(rig, job);
      assert.equal(job.status, 'success', job.log.toString());
      assert.match(said(job, 'name'), /^[a-z0-9-]+$/);
      const finishedAt = Math.round((job.finishedAt ?? 0) / 1000);
      const late = finishedAt - Number(said(job, 'time'));
      assert.ok(late >= -1 && late <= 15, `the clock was ${late} s behind the end of the job`);
    }
    const [one, two] = jobs as [SimJob, SimJob];
    assert.equal(said(one, 'random').length, 32);
    assert.notEqual(said(one, 'random'), said(two, 'random'));
    assert.notEqual(said(one, 'name'), said(two, 'name'));
    assert.equal(count(rig, 'was restored from a snapshot'), 2);
  });

  await t.test('boot where it is damaged, which retires it with the reason', async () => {
    const [memory = ''] = await findMemory(rig);
    await truncate(memory, 1024 * 1024);
    const job = rig.queue({ name: 'damaged', script: SCRIPT, variables: NO_GIT });
    await endedInVm(rig, job);
    assert.equal(job.status, 'success', job.log.toString());
    assert.equal(count(rig, 'was restored from a snapshot'), 2);
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
  assert.equal(count(rig, 'was restored from a snapshot'), 0);
  await snapshotMade(rig, 2);
  const after = await findMemory(rig);
  assert.equal(after.length, 1, 'the one before is removed');
  assert.notDeepEqual(after, before);
});

async function findMemory(rig: Rig): Promise<string[]> {
  const root = path.join(rig.directory, 'base/snapshots');
  const names = await readdir(root, { recursive: true });
  return names.filter((name) => name.endsWith('/memory')).map((name) => path.join(root, name));
}
