/** The stand-in for GitHub's runner in a virtual machine: the micro guest in QEMU. */

import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import { suite, test } from 'node:test';
import { buildMicroGuest, type MicroGuest } from '../../fixtures/guest/micro/micro-guest.ts';
import { createQemuDriver } from '../../fixtures/host/src/drivers/index.ts';
import { isInstalled, QEMU } from '../../fixtures/host/src/drivers/qemu/index.ts';
import { createLog } from '../../fixtures/host/src/index.ts';
import { runTemplate } from '../support/github-template.ts';

const guest: MicroGuest | string = isInstalled(QEMU, 'mformat')
  ? await buildMicroGuest({ runner: null }).catch((error: Error) => error.message)
  : 'qemu-system-x86 and mtools are not installed';
const skip = typeof guest === 'string' ? guest : false;

suite('a GitHub job in a virtual machine', { skip }, () => {
  test('runs with busybox alone, its steps in bash, and its machine powers off', async (t) => {
    if (typeof guest === 'string') throw new Error(guest);
    const log = createLog({ level: 'silent', format: 'json' });
    const { job, console } = await runTemplate(t, {
      driver: await createQemuDriver({ baseDir: tmpdir(), user: null, log }),
      runner: 'github-runner',
      guestHost: '10.0.2.2',
      kernel: {
        path: guest.kernel,
        initrd: guest.initrd,
        commandLine: 'console=ttyS0 quiet panic=-1',
      },
      steps: ['uname -s', 'test -n "$BASH_VERSION"; git --version'],
      // Software emulation on a busy machine is slow.
      timeoutMs: 150_000,
    });
    assert.equal(job.conclusion, 'success', console);
    assert.match(job.log.toString(), /^Linux\ngit version /);
    assert.match(console, /micro guest: job\.sh ended with 0/);
  });
});
