/** Machines with disks: what a guest finds on them, whose disk is kept, and what later machines start from. */

import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { suite, test } from 'node:test';
import { isInstalled } from '../../fixtures/host/src/drivers/qemu/index.ts';
import { plainLog } from '../../fixtures/main-job/log-lines.ts';
import { eventually } from '../support/deadline.ts';
import { BOOT_MS, endedInVm, skip } from '../support/vm.ts';
import { DISK, NO_GIT, persist, rigWithDisk, TOKEN } from '../support/vm-disk.ts';

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

  for (const snapshot of [false, true]) {
    const way = snapshot ? 'restored from a snapshot' : 'booted';
    test(`that cannot be kept, ${way}, is a machine's own and goes with it`, async (t) => {
      const { rig, base, images } = await rigWithDisk(t, '', { snapshot });
      const before = await readFile(base);
      await rig.start();
      const told = (text: string) => rig.log.filter((line) => line.includes(text)).length;
      if (snapshot) {
        await eventually('the snapshot', () => told('the snapshot of small was made') > 0, BOOT_MS);
      }
      const script = ['echo "size $(blockdev --getsize64 /dev/vda)"', ...DISK];
      for (const name of ['first', 'second']) {
        const job = rig.queue({ name, variables: NO_GIT, script });
        const row = await endedInVm(rig, job);
        assert.equal(job.status, 'success', job.log.toString());
        assert.match(job.log.toString(), /size 16777216/);
        assert.match(job.log.toString(), /disk of generation 1/);
        const left = await readdir(path.join(rig.directory, 'base/runs/_/small', row.machine));
        assert.ok(!left.some((file) => file.startsWith('disk.')), left.join());
      }
      assert.equal(told('was restored from a snapshot'), snapshot ? 2 : 0);
      assert.deepEqual(await readFile(base), before);
      assert.deepEqual(await readdir(images).catch(() => []), []);
    });
  }

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
