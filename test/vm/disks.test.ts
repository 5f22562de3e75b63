/** Machines with disks: what a guest finds on them, whose disk is kept, and what later machines start from. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import { isInstalled } from '../../fixtures/host/src/drivers/qemu/index.ts';
import { plainLog } from '../../fixtures/main-job/log-lines.ts';
import { eventually } from '../support/deadline.ts';
import { createRig, type Rig } from '../support/rig.ts';
import {
  BOOT_MS,
  endedInVm,
  inQemu,
  PARAMETERS,
  SHELL_TEMPLATE,
  skip,
  templateWith,
} from '../support/vm.ts';

const TOKEN = 'keep-this-disk-7Jw';

const NO_GIT = [{ key: 'GIT_STRATEGY', value: 'none' }];

/** What a job does to say which disk it has, and to change it. */
const DISK = [
  'mkdir -p /mnt/disk && mount -t ext4 /dev/vda /mnt/disk',
  'echo "disk of generation $(cat /mnt/disk/generation)"',
  'expr $(cat /mnt/disk/generation) + 1 > /mnt/disk/next && mv /mnt/disk/next /mnt/disk/generation',
  'umount /mnt/disk',
];

const persist = (token: string): string => `printf '%s\\n' '${token}' > /mnt/job/persist`;

/** A host whose machines have a disk with a file system, made from an image of generation 1. */
async function rigWithDisk(
  t: TestContext,
  start = '',
): Promise<{ rig: Rig; images: string; image: string }> {
  const directory = await mkdtemp(path.join(tmpdir(), 'forrest-disks-'));
  const content = path.join(directory, 'content');
  await mkdir(content);
  await writeFile(path.join(content, 'generation'), '1\n');
  const base = path.join(directory, 'base.img');
  await writeFile(base, '');
  await truncate(base, 8 * 1024 * 1024);
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', content, base]);
  const script = await readFile(path.join(SHELL_TEMPLATE, 'job-config/job.sh'), 'utf8');
  const template = await templateWith(directory, {
    'cloud-init/meta-data': 'local-hostname: <MACHINE_NAME>-<COLOUR>\n',
    'cloud-init/user-data': '#cloud-config\n',
    'job-config/job.sh': start + script,
  });
  const rig = await createRig(
    t,
    inQemu(
      {},
      {
        ram: '3G',
        machine: { base_image: base, disk: '16M', persistence_token: TOKEN },
        template: { path: template, parameters: { ...PARAMETERS, COLOUR: 'green' } },
      },
    ),
  );
  t.after(() => rm(directory, { recursive: true, force: true }));
  const images = path.join(rig.directory, 'base/machines/_');
  return { rig, images, image: path.join(images, 'small.img') };
}

suite('a virtual machine with a disk', {
  skip: skip || (isInstalled('mke2fs') ? false : 'e2fsprogs is not installed'),
}, () => {
  test('reads its configuration, asks for its disk to be kept, and the next one starts from that', async (t) => {
    const { rig, image } = await rigWithDisk(t);
    const first = rig.queue({
      name: 'first',
      protected: true,
      variables: NO_GIT,
      script: [
        'mkdir -p /mnt/ci && mount -t vfat -o ro "$(findfs LABEL=CIDATA)" /mnt/ci',
        'cat /mnt/ci/meta-data; echo "size $(blockdev --getsize64 /dev/vda)"',
        ...DISK,
        persist(TOKEN),
      ],
    });
    await rig.start();
    const row = await endedInVm(rig, first);
    assert.equal(first.status, 'success', first.log.toString());
    assert.match(first.log.toString(), /local-hostname: small-green/);
    assert.match(first.log.toString(), /size 16777216/);
    assert.match(first.log.toString(), /disk of generation 1/);
    assert.ok((await stat(image)).isFile(), 'its disk became the machine image');
    const runDir = path.join(rig.directory, 'base/runs/_/small', row.machine);
    const kept = await readdir(runDir);
    assert.deepEqual(
      kept.filter((name) => name.endsWith('.img')),
      [],
    );

    const second = rig.queue({ name: 'second', variables: NO_GIT, script: DISK });
    await endedInVm(rig, second);
    assert.match(second.log.toString(), /disk of generation 2/);
    // It did not ask: the image is as it was, and the third has the disk that the second had.
    const third = rig.queue({ name: 'third', variables: NO_GIT, script: DISK });
    await endedInVm(rig, third);
    assert.match(third.log.toString(), /disk of generation 2/);
  });

  test('keeps nothing for a wrong token, on an unprotected ref, or when it was killed', async (t) => {
    const { rig, images } = await rigWithDisk(t);
    const job = (name: string, isProtected: boolean, ...script: string[]) =>
      rig.queue({ name, protected: isProtected, variables: NO_GIT, script: [...DISK, ...script] });
    const wrong = job('wrong-token', true, persist('keep-this-disk-7Jx'));
    const unprotected = job('unprotected', false, persist(TOKEN));
    const killed = job('killed', true, persist(TOKEN), 'sync', 'echo "now kill it"', 'sleep 600');
    await rig.start();
    await eventually(
      'the token to be left',
      () => plainLog(killed.log).includes('\nnow kill it'),
      BOOT_MS,
    );
    const machine = rig
      .status()
      .machines.find((one) => one.runnerName === rig.row(killed)?.machine);
    assert.ok(machine?.pid);
    process.kill(machine.pid, 'SIGKILL');
    for (const one of [wrong, unprotected, killed]) await endedInVm(rig, one);
    assert.deepEqual(
      [wrong.status, unprotected.status, killed.status],
      ['success', 'success', 'failed'],
    );
    assert.deepEqual(await readdir(images).catch(() => []), []);
    assert.match(rig.log.join('\n'), /left a wrong persistence token for small/);
  });

  test('that does not come up from its kept disk: that is retired, and the next starts from its base', async (t) => {
    // Its start script resets it where the disk has no file system.
    const start = 'mount -t ext4 /dev/vda /mnt || reboot -f\numount /mnt\n';
    const { rig, images, image } = await rigWithDisk(t, start);
    await mkdir(images, { recursive: true });
    await writeFile(image, 'broken');
    const job = rig.queue({ name: 'job', variables: NO_GIT, script: DISK });
    await rig.start();
    await endedInVm(rig, job);
    assert.equal(job.status, 'success', job.log.toString());
    assert.match(job.log.toString(), /disk of generation 1/);
    assert.deepEqual(await readdir(images), ['small.img.broken']);
    assert.match(rig.log.join('\n'), /small did not come up from its kept disk/);
  });
});
