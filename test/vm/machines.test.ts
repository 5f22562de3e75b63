/** Jobs in virtual machines: the micro guest in QEMU, and the ways in which such a machine fails. */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { suite, test } from 'node:test';
import { eventually } from '../support/deadline.ts';
import { temporaryDirectory } from '../support/files.ts';
import { createRig } from '../support/rig.ts';
import {
  BOOT_MS,
  endedInVm,
  inQemu,
  PARAMETERS,
  SHELL_TEMPLATE,
  skip,
  templateWith,
} from '../support/vm.ts';

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
    const row = await endedInVm(rig, job);
    assert.equal(row.outcome, 'success', job.log.toString());
    assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
    assert.match(await readFile(console, 'utf8'), /micro guest: job\.sh ended with 0/);
    // Its runner may be looking for the next job.
    await eventually('its memory to be free', () => rig.status().pool.usedBytes === 0);
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
      const row = await endedInVm(rig, job);
      assert.match(row.reason ?? '', reason);
      assert.equal(job.failureReason, 'runner_system_failure');
      assert.match(job.log.toString(), console);
      assert.equal(rig.status().machines.length, 0);
    });
  }

  for (const [what, start, reason, console] of [
    [
      'whose disk is full',
      'mount -t tmpfs -o size=64k tmpfs /machine/tmp && cat /dev/zero > /machine/tmp/all\n',
      /it powered off/,
      /No space left on device/,
    ],
    [
      'that has no network',
      'ip link set eth0 down\n',
      /it powered off/,
      /(refused|unreachable|dial|connect|timed out|ENETUNREACH)/i,
    ],
  ] as const) {
    test(`${what}: the job fails with the reason, and the console’s end in its log`, async (t) => {
      const directory = await temporaryDirectory(t);
      const script = await readFile(path.join(SHELL_TEMPLATE, 'job-config/job.sh'), 'utf8');
      const template = await templateWith(directory, {
        'job-config/job.sh': `set -e\n${start}${script.replace('<GITLAB_WAIT_TIMEOUT>', '5')}`,
      });
      const rig = await createRig(
        t,
        inQemu({}, { template: { path: template, parameters: PARAMETERS } }),
      );
      const job = rig.queue();
      await rig.start();
      const row = await endedInVm(rig, job);
      assert.equal(row.outcome, 'system_failure');
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
    const row = await endedInVm(rig, job);
    assert.match(row.reason ?? '', /did not ask for its job/);
    assert.equal(rig.status().machines.length, 0);
  });
});
