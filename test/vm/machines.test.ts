/** Jobs in virtual machines: the micro guest in QEMU, and the ways in which such a machine fails. */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { suite, test } from 'node:test';
import type { SimJob } from '../../fixtures/gitlab/index.ts';
import { buildMicroGuest, type MicroGuest } from '../../fixtures/guest/micro/micro-guest.ts';
import { isInstalled, QEMU } from '../../fixtures/host/src/drivers/qemu/index.ts';
import { eventually } from '../support/deadline.ts';
import { createRig, type Rig, type RigOptions } from '../support/rig.ts';

const TEMPLATE = path.join(import.meta.dirname, '../../fixtures/guest/templates/gitlab-shell');

/** Software emulation on a busy machine is slow. */
const BOOT_MS = 55_000;

const guest: MicroGuest | string = isInstalled(QEMU, 'mformat')
  ? await buildMicroGuest({ runner: null }).catch((error: Error) => error.message)
  : 'qemu-system-x86 and mtools are not installed';
const skip = typeof guest === 'string' ? guest : false;

function inQemu(kernel: object = {}, more: RigOptions = {}): RigOptions {
  if (typeof guest === 'string') throw new Error(guest);
  return {
    ...more,
    driver: 'qemu',
    ram: '2G',
    machine: { kernel: { path: guest.kernel, initrd: guest.initrd, ...kernel } },
    template: { path: TEMPLATE, parameters: { GITLAB_RUNNER: 'gitlab-runner', BOOT_GATE: '' } },
  };
}

const ended = (rig: Rig, job: SimJob) =>
  eventually(
    `job ${job.id} to have ended on the host`,
    () => rig.status().history.find((row) => row.id === String(job.id)),
    BOOT_MS,
  );

suite('a virtual machine', { skip }, () => {
  test('runs its job and is gone; its console can be read while it runs, its token from no command line', async (t) => {
    const rig = await createRig(t, inQemu());
    const job = rig.queue({
      script: ['uname -s', 'cat /proc/cpuinfo | grep -c processor'],
      variables: [{ key: 'GIT_STRATEGY', value: 'none' }],
    });
    await rig.start();
    assert.match(rig.status().host.accelerator ?? '', /^(kvm|tcg)$/);
    const machine = await eventually('its process', () =>
      rig.status().machines.find((one) => one.pid),
    );
    const commandLine = await readFile(`/proc/${machine.pid}/cmdline`, 'utf8');
    assert.match(commandLine, /qemu-system/);
    assert.doesNotMatch(commandLine, /glrt-/);
    const console = path.join(machine.runDir, 'log.txt');
    await eventually(
      'its console',
      async () => /gitlab-runner/.test(await readFile(console, 'utf8')),
      BOOT_MS,
    );
    const row = await ended(rig, job);
    assert.equal(row.outcome, 'success', job.log.toString());
    assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
    assert.match(await readFile(console, 'utf8'), /micro guest: job\.sh ended with 0/);
    assert.equal(rig.status().pool.usedBytes, 0);
  });

  for (const [what, kernel, reason, console] of [
    [
      'panics',
      { command_line: 'console=ttyS0 quiet panic=-1 rdinit=/bin/nothing root=/dev/none' },
      /it reset itself/,
      /[Pp]anic/,
    ],
    [
      'has an init that exits',
      { command_line: 'console=ttyS0 quiet panic=-1 rdinit=/usr/bin/git' },
      /it reset itself/,
      /Attempted to kill init/,
    ],
  ] as const) {
    test(`that ${what}: the job fails with the reason, and the console’s end in its log`, async (t) => {
      const rig = await createRig(t, inQemu(kernel));
      const job = rig.queue();
      await rig.start();
      const row = await ended(rig, job);
      assert.match(row.reason ?? '', reason);
      assert.equal(job.failureReason, 'runner_system_failure');
      assert.match(job.log.toString(), console);
      assert.equal(rig.status().machines.length, 0);
    });
  }

  test('whose runner never asks is stopped, and the job fails', async (t) => {
    // Process 1 sleeps: neither an end nor a panic, just nothing.
    const quiet = { command_line: 'console=ttyS0 quiet rdinit=/bin/busybox -- sleep 1000' };
    const rig = await createRig(t, inQemu(quiet, { timings: { askLimitMs: 8000 } }));
    const job = rig.queue();
    await rig.start();
    const row = await ended(rig, job);
    assert.match(row.reason ?? '', /did not ask for its job/);
    assert.equal(rig.status().machines.length, 0);
  });
});
