/** Virtual machines that outlive the host: taken over by the next one, or looked at where they have ended. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, stat, writeFile } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import { askHost } from '../../fixtures/host/src/cli/ask-host.ts';
import type { ProcessIdentity } from '../../fixtures/host/src/drivers/index.ts';
import { isAlive } from '../../fixtures/host/src/drivers/proc.ts';
import { isInstalled } from '../../fixtures/host/src/drivers/qemu/index.ts';
import type { HostStatus } from '../../fixtures/host/src/index.ts';
import { type HostCommand, runHost } from '../../fixtures/host/src/testing/host-command.ts';
import { plainLog } from '../../fixtures/main-job/log-lines.ts';
import { eventually, within } from '../support/deadline.ts';
import { freePort } from '../support/free-port.ts';
import { createRig, type Rig } from '../support/rig.ts';
import { BOOT_MS, inQemu, skip } from '../support/vm.ts';
import { DISK, NO_GIT, persist, rigWithDisk, TOKEN } from '../support/vm-disk.ts';

/** As a process of its own, which can be killed. */
async function startHost(t: TestContext, rig: Rig): Promise<HostCommand> {
  const host = runHost(t, path.join(rig.directory, 'config.yaml'));
  await eventually(
    'the host to be ready',
    () => host.stdout().includes('forrest-host ready'),
    30_000,
  );
  return host;
}

const pidOf = async (rig: Rig): Promise<number> =>
  Number(await readFile(path.join(rig.directory, 'base/state/lock'), 'utf8'));

interface Entry {
  readonly runDir: string;
  readonly process: ProcessIdentity;
}

async function recordOf(rig: Rig, host: HostCommand): Promise<Entry> {
  const [, name = ''] = await host.said(/"machine":"(forrest-[a-z0-9-]+)"/);
  const file = path.join(rig.directory, 'base/state/host/machines', `${name}.json`);
  return JSON.parse(await readFile(file, 'utf8'));
}

/** Ends everything, machines too. */
async function end(host: HostCommand): Promise<void> {
  host.kill('SIGINT');
  await host.said(/draining/);
  host.kill('SIGINT');
  await within('the host to end', host.exited, 30_000);
}

suite('a virtual machine whose host is killed', { skip }, () => {
  test('goes on with its job under the next host, which sees it power off', async (t) => {
    const rig = await createRig(t, inQemu());
    const job = rig.queue({
      script: ['for n in $(seq 1 30); do echo "line $n."; sleep 1; done'],
      variables: NO_GIT,
    });
    const host = await startHost(t, rig);
    await eventually('its log', () => plainLog(job.log).includes('line 3.'), BOOT_MS);
    const first = await pidOf(rig);
    process.kill(first, 'SIGKILL');
    await host.said(/took over the machine of an earlier run of the host/);
    await eventually('the job to be over', () => job.status !== 'running', BOOT_MS);
    assert.equal(job.status, 'success', job.log.toString() + host.stderr());
    assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
    const lines = [...plainLog(job.log).matchAll(/^line (\d+)\.$/gm)].map(([, n]) => Number(n));
    assert.deepEqual(
      lines,
      Array.from({ length: 30 }, (_, index) => index + 1),
    );
    await host.said(/the machine ended: it powered off/);
    await end(host);
  });

  test('that is warm waits on under the next host, and gets its job there', async (t) => {
    const rig = await createRig(t, inQemu({}, { runner: { warm: 1, limit: 1 } }));
    const file = path.join(rig.directory, 'config.yaml');
    const text = await readFile(file, 'utf8');
    // What the guest was told must hold for the next host, too.
    await writeFile(file, text.replace('127.0.0.1:0', `127.0.0.1:${await freePort()}`));
    const host = await startHost(t, rig);
    const ready = async (): Promise<string | undefined> => {
      const { machines, providers } = await askHost<HostStatus>(file, '/status');
      const isReady = providers[0]?.status.runners[0]?.warm?.ready === 1;
      return isReady ? machines[0]?.runnerName : undefined;
    };
    const machine = await eventually('the warm machine', ready, BOOT_MS);
    process.kill(await pidOf(rig), 'SIGKILL');
    await host.said(/took over the machine of an earlier run of the host/);
    const job = rig.queue({ script: ['echo "it runs" | tr t T'], variables: NO_GIT });
    await eventually('the job to be over', () => job.isFinal, BOOT_MS);
    assert.equal(job.status, 'success', job.log.toString() + host.stderr());
    assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
    const row = await eventually('its row', async () => {
      const { history } = await askHost<HostStatus>(file, '/status');
      return history.find(({ id }) => id === String(job.id));
    });
    assert.equal(row.machine, machine);
    await end(host);
  });

  test('is not answered by its QEMU for a while: it is taken over all the same', async (t) => {
    const rig = await createRig(t, inQemu());
    const job = rig.queue({ script: ['echo "it runs" | tr t T; sleep 5'], variables: NO_GIT });
    const host = await startHost(t, rig);
    await eventually('its log', () => plainLog(job.log).includes('iT runs'), BOOT_MS);
    const { process: qemu } = await recordOf(rig, host);
    process.kill(qemu.pid, 'SIGSTOP');
    process.kill(await pidOf(rig), 'SIGKILL');
    await host.said(/took over the machine of an earlier run of the host/);
    process.kill(qemu.pid, 'SIGCONT');
    await eventually('the job to be over', () => job.status !== 'running', BOOT_MS);
    assert.equal(job.status, 'success', job.log.toString() + host.stderr());
    await eventually(
      'its end to be seen',
      () => host.stderr().includes('the machine ended: it powered off'),
      BOOT_MS,
    );
    await end(host);
  });
});

suite('a virtual machine that ends while there is no host', {
  skip: skip || (isInstalled('mke2fs') ? false : 'e2fsprogs is not installed'),
}, () => {
  for (const [what, command, cause, isKept] of [
    ['powers off: its disk is kept', 'system_powerdown', 'it powered off', true],
    ['resets: it has crashed', 'system_reset', 'it reset itself, as after a panic', false],
  ] as const) {
    test(what, async (t) => {
      const { rig, image } = await rigWithDisk(t);
      const job = rig.queue({
        protected: true,
        variables: NO_GIT,
        script: [...DISK, persist(TOKEN), 'sync', 'echo "now it comes" | tr n N', 'sleep 600'],
      });
      const host = await startHost(t, rig);
      await eventually('its log', () => plainLog(job.log).includes('Now it comes'), BOOT_MS).catch(
        (error: Error) => {
          throw new Error(`${error.message}: ${job.status} ${job.log}\n${host.stderr()}`);
        },
      );
      const { runDir, process: qemu } = await recordOf(rig, host);
      const pid = await pidOf(rig);
      host.kill('SIGKILL');
      process.kill(pid, 'SIGKILL');
      // The power button, or the reset button: what follows is the guest's own doing.
      await eventually('the button', () => ask(runDir, command).then(() => true), 30_000);
      await eventually('the guest to have ended', () => isShutDown(runDir), BOOT_MS);
      assert.ok(isAlive(qemu), 'its QEMU waits to be looked at');
      const next = await startHost(t, rig);
      await next.said(new RegExp(`the machine ended: ${cause}`));
      assert.ok(!isAlive(qemu), 'its QEMU is gone');
      assert.equal(
        await stat(image).then(
          () => true,
          () => false,
        ),
        isKept,
      );
      await eventually('the job to be over', () => job.status !== 'running', 30_000);
      assert.equal(job.failureReason, 'runner_system_failure');
      await end(next);
    });
  }
});

/** Nobody else listens to its QEMU. */
async function isShutDown(runDir: string): Promise<boolean> {
  const said = await ask(runDir, 'query-status').catch(() => '');
  return said.includes('"status": "shutdown"');
}

/** What its QEMU answers to a command. */
async function ask(runDir: string, command: string): Promise<string> {
  const socket = net.connect(path.join(runDir, 'qmp.sock'));
  try {
    await once(socket, 'connect');
    socket.write(`{"execute":"qmp_capabilities"}{"execute":"${command}","id":"asked"}`);
    return await within('QEMU’s answer', answerOf(socket), 10_000);
  } finally {
    socket.destroy();
  }
}

async function answerOf(socket: net.Socket): Promise<string> {
  let said = '';
  for await (const chunk of socket) {
    said += String(chunk);
    const answer = said.split('\n').find((line) => line.includes('"id": "asked"'));
    if (answer !== undefined) return answer;
  }
  throw new Error('QEMU ended the connection');
}
