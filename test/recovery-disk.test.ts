/** A state directory that cannot be written: running jobs run on, no new one is taken, and it mends itself. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import { Pauses } from '../src/provider/pauses.ts';
import { loadSystemId } from '../src/provider/system-id.ts';
import { eventually } from './support/deadline.ts';
import { createTestLog } from './support/github-rig.ts';
import { createTestHost, startTestHost } from './support/test-host/index.ts';

const isRoot = process.getuid?.() === 0;
const canMount = isRoot && tryMount();

/** A file system of a few MiB, really full when it is full. */
function mountSmall(t: Pick<TestContext, 'after'>, mib = 6): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'forrest-disk-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mib}m`, 'tmpfs', directory]);
  t.after(() => {
    execFileSync('umount', ['-l', directory]);
    rmSync(directory, { recursive: true, force: true });
  });
  return directory;
}

function tryMount(): boolean {
  const undo: (() => void)[] = [];
  try {
    mountSmall({ after: (done) => void undo.push(done as () => void) }, 1);
    for (const done of undo) done();
    return true;
  } catch {
    return false;
  }
}

/** Takes all the space there is; returns how to give it back. */
function fill(directory: string): () => void {
  const file = path.join(directory, 'ballast');
  const { bavail, bsize } = statfsSync(directory);
  try {
    writeFileSync(file, Buffer.alloc(bavail * bsize));
  } catch {
    // The last page was in use by the directory itself.
  }
  return () => rmSync(file);
}

const skip = canMount ? false : 'needs root, to mount a small file system';

suite('a full disk', { concurrency: 3, skip }, () => {
  test('running jobs run on and end, no new one is taken, and there is space again', async (t) => {
    const disk = mountSmall(t);
    const stateDir = path.join(disk, 'state');
    const host = await startTestHost(t, { stateDir });
    const { job, guest, machine } = await host.running();
    // The spare is not enough: it is gone too.
    const giveBack = fill(disk);
    rmSync(path.join(stateDir, 'leases.spare'));
    const giveBackSpare = fillMore(disk);
    await guest.finish('success');
    const waiting = host.queue();
    const { health } = await eventually('the trouble to be said', () => {
      const status = host.provider.status();
      return status.health.status === 'down' ? status : undefined;
    });
    assert.match(health.message ?? '', /no new job is taken: the journal cannot be written/);
    assert.match(health.message ?? '', /ENOSPC/);
    await eventually('the runner to say why it takes no job', () =>
      host.provider.status().runners[0]?.notClaiming?.includes('cannot be written'),
    );
    await guest.finish('success');
    await guest.powerOff();
    assert.equal((await host.ended(job)).outcome, 'success');
    assert.ok(!machine.isUp);
    assert.equal(waiting.status, 'pending');
    giveBackSpare();
    giveBack();
    await host.machine(waiting);
    assert.equal(host.provider.status().health.status, 'ok');
    assert.ok(host.log.some((line) => line.includes('the journal can be written again')));
    await eventually('the entries alone, without drafts', async () =>
      (await host.journal()).every((name) => /^job-\d+\.json$/.test(name)),
    );
  });

  test('a job that comes just then is written down in the space that was kept for it', async (t) => {
    const disk = mountSmall(t);
    const host = await createTestHost(t, { stateDir: path.join(disk, 'state') });
    await host.start();
    await eventually('the first ask', () => host.provider.status().runners[0]?.health === 'ok');
    const giveBack = fill(disk);
    const job = host.queue();
    await host.machine(job);
    assert.ok((await host.journal()).includes(`job-${job.id}.json`));
    host.kill();
    giveBack();
    await host.start();
    const guest = await host.guest(job);
    await guest.takeJob();
    await guest.finish('success');
    await guest.powerOff();
    assert.equal((await host.ended(job)).outcome, 'success');
    assert.equal(host.machines.length, 1);
  });

  test('a job whose claim cannot be written down gets no warm machine: a crash would make that anybody’s', async (t) => {
    const disk = mountSmall(t);
    const stateDir = path.join(disk, 'state');
    const host = await createTestHost(t, { stateDir, configured: { warm: 1 } });
    await host.start();
    const [warm] = await eventually('the warm machine', () =>
      host.machines.length > 0 ? host.machines : undefined,
    );
    const rests = () => host.provider.status().runners[0]?.notClaiming === 'no job a moment ago';
    await eventually('the first ask', rests);
    const giveBack = fill(disk);
    rmSync(path.join(stateDir, 'leases.spare'));
    const giveBackSpare = fillMore(disk);
    const job = host.queue();
    const machine = await host.machine(job);
    assert.ok(!warm?.isUp);
    assert.notEqual(machine.runnerName, warm?.runnerName);
    giveBackSpare();
    giveBack();
    const guest = host.guestIn(machine, job);
    await guest.takeJob();
    await guest.finish('success');
    await guest.powerOff();
    assert.equal((await host.ended(job)).outcome, 'success');
  });

  test('a pause that cannot be kept is refused, and is none', async (t) => {
    const disk = mountSmall(t);
    const host = await startTestHost(t, { stateDir: path.join(disk, 'state') });
    fill(disk);
    rmSync(path.join(host.stateDir, 'leases.spare'));
    fillMore(disk);
    await assert.rejects(host.provider.pause('build', true), { code: 'ENOSPC' });
    assert.equal(host.provider.status().runners[0]?.paused, false);
  });

  test('a host that cannot keep its name for GitLab does not start, and says what to do', async (t) => {
    const disk = mountSmall(t);
    fill(disk);
    const stateDir = path.join(disk, 'state');
    const host = await createTestHost(t, { stateDir }).catch((error: unknown) => error);
    if (host instanceof Error) {
      // Not even the directory.
      assert.match(host.message, /ENOSPC/);
      return;
    }
    await assert.rejects((host as Awaited<ReturnType<typeof createTestHost>>).start(), {
      code: 'state_unwritable',
      message: /cannot be written: ENOSPC.*make room or mend its owner/,
    });
  });
});

function fillMore(disk: string): () => void {
  const file = path.join(disk, 'more-ballast');
  const { bavail, bsize } = statfsSync(disk);
  try {
    writeFileSync(file, Buffer.alloc(bavail * bsize));
  } catch {
    // As above.
  }
  return () => rmSync(file);
}

suite('what stands beside the journal', () => {
  const temporary = (t: TestContext): string => {
    const directory = mkdtempSync(path.join(tmpdir(), 'forrest-state-'));
    t.after(() => rmSync(directory, { recursive: true, force: true }));
    return directory;
  };
  const random = {
    random: () => 0,
    randomBytes: (count: number) => crypto.getRandomValues(new Uint8Array(count)),
  };

  test('the system_id stays, and is another one where the directory was copied to', async (t) => {
    const directory = temporary(t);
    const log: string[] = [];
    const load = (hostName: string, machineId: string): Promise<string> => {
      const file = path.join(directory, 'machine-id');
      writeFileSync(file, machineId);
      return loadSystemId(directory, hostName, random, createTestLog(log), file);
    };
    const first = await load('one', 'aaaa');
    assert.match(first, /^r_[a-z0-9]{12}$/);
    assert.equal(await load('one', 'aaaa\n'), first);
    assert.deepEqual(log, []);
    const copied = await load('one', 'bbbb');
    assert.notEqual(copied, first);
    assert.equal(await load('one', 'bbbb'), copied);
    assert.equal(log.length, 1);
    assert.notEqual(await load('two', 'bbbb'), copied);
    assert.doesNotMatch(await readFile(path.join(directory, 'system-id'), 'utf8'), /bbbb/);
  });

  test('the system_id of an earlier version, which stood alone, is kept', async (t) => {
    const directory = temporary(t);
    writeFileSync(path.join(directory, 'system-id'), 'r_abcdefghijkl\n');
    for (let count = 0; count < 2; count += 1) {
      assert.equal(
        await loadSystemId(directory, 'one', random, createTestLog([])),
        'r_abcdefghijkl',
      );
    }
  });

  test('pauses outlive a restart; a damaged list is set aside and said', async (t) => {
    const directory = temporary(t);
    const log: string[] = [];
    const load = async (): Promise<Pauses> => {
      const pauses = new Pauses(directory);
      await pauses.load(createTestLog(log));
      return pauses;
    };
    await (await load()).set('build', true);
    assert.ok((await load()).has('build'));
    await writeFile(path.join(directory, 'paused.json'), '["bui');
    assert.ok(!(await load()).has('build'));
    assert.match(log.join('\n'), /set aside as \.damaged/);
    assert.equal(await readFile(path.join(directory, 'paused.json.damaged'), 'utf8'), '["bui');
  });

  test('a directory of another user: the host does not start, and says what to do', {
    skip: isRoot ? 'root may write everywhere' : false,
  }, async (t) => {
    const directory = path.join(temporary(t), 'state');
    mkdirSync(directory);
    chmodSync(directory, 0o500);
    await assert.rejects(loadSystemId(directory, 'one', random, createTestLog([])), {
      code: 'state_unwritable',
      message: /EACCES/,
    });
  });
});
