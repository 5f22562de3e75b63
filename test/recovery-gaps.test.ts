/** Killed in each gap between two steps: what the next start makes of it (docs/life-of-a-job.md has the table). */

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { SimJob } from '../fixtures/gitlab/index.ts';
import { CHECKPOINTS, type CheckpointName } from '../src/leases/index.ts';
import { eventually, within } from './support/deadline.ts';
import { liveJob, SAID } from './support/persistent-runner.ts';
import {
  createTestHost,
  type TestHost,
  type TestHostOptions,
  type TestMachine,
} from './support/test-host/index.ts';

const LONG_MS = 30_000;

/** Lets a persistent runner live in each machine that comes up. */
function inhabit(host: TestHost): () => void {
  const seen = new Set<TestMachine>();
  const timer = setInterval(() => {
    for (const machine of host.machines) {
      // What it says of its job it says only once it has it: it is the one that there is.
      const [job] = host.gitlab.jobs();
      if (job === undefined || seen.has(machine)) continue;
      seen.add(machine);
      const guest = host.guestIn(machine, job);
      void liveJob(guest, () => machine.isUp).catch(() => undefined);
    }
  }, 5);
  return () => clearInterval(timer);
}

async function nothingIsLeft(host: TestHost, job: SimJob): Promise<void> {
  await jobIsOver(host, job);
  await eventually('no machine to be left', () => host.machines.every((one) => !one.isUp), LONG_MS);
}

async function jobIsOver(host: TestHost, job: SimJob): Promise<void> {
  await eventually(`job ${job.id} to be final`, () => job.isFinal, LONG_MS);
  await eventually('no lease to be left', () => host.provider.status().jobs.length === 0, LONG_MS);
  await eventually('an empty journal', async () => (await host.journal()).length === 0, LONG_MS);
  assert.equal(job.handedOut, 1);
  assert.equal(job.verdict().ended, 1);
}

/** A job that lives, from the first gap to the last. */
const LIFE: readonly CheckpointName[] = [
  'entry-drafted',
  'lease-claimed',
  'machine-requested',
  'lease-booting',
  'lease-offered',
  'lease-running',
  'final-journaled',
  'final-answered',
  'lease-finishing',
  'machine-gone',
  'lease-ended',
];

/** Nothing of the job has run up to here. */
const UNSTARTED = new Set<CheckpointName>([
  'entry-drafted',
  'lease-claimed',
  'machine-requested',
  'lease-booting',
  'lease-offered',
]);

suite('killed in the life of a job', { concurrency: 4 }, () => {
  test('before the claim is written down: nobody can know of it, GitLab’s sweep ends it', async (t) => {
    const host = await createTestHost(t);
    const job = host.queue();
    const dead = host.killAt('claim-received');
    await host.start();
    await within('the kill', dead, LONG_MS);
    await host.start();
    await eventually('the next ask', () => host.provider.status().runners[0]?.health === 'ok');
    assert.deepEqual([job.status, await host.journal(), host.machines.length], ['running', [], 0]);
  });

  for (const gap of LIFE) {
    test(`${gap}: the job goes on as if nothing had happened`, async (t) => {
      const host = await createTestHost(t);
      t.after(inhabit(host));
      const job = host.queue();
      const dead = host.killAt(gap);
      await host.start();
      await within('the kill', dead, LONG_MS);
      await host.start();
      await nothingIsLeft(host, job);
      assert.equal(job.status, 'success');
      assert.equal(job.log.toString(), SAID);
      assert.deepEqual(job.verdict().anomalies, []);
      assert.equal(host.machines.length, 1);
      // The one gap in which the host is not told.
      if (gap !== 'lease-ended') assert.equal((await host.ended(job)).outcome, 'success');
    });

    test(`${gap}, and all machines with it`, async (t) => {
      const host = await createTestHost(t);
      t.after(inhabit(host));
      const job = host.queue();
      const dead = host.killAt(gap);
      await host.start();
      await within('the kill', dead, LONG_MS);
      host.losePower();
      await host.start();
      await nothingIsLeft(host, job);
      if (gap === 'lease-running') {
        // Something may have run: it is not begun anew.
        assert.deepEqual([job.status, job.failureReason], ['failed', 'runner_system_failure']);
        assert.match(job.log.toString(), /ERROR: its machine was gone when the host came back/);
        assert.equal(host.endedLabels[0]?.['cause'], 'machine-lost');
      } else {
        assert.equal(job.status, 'success');
        assert.equal(job.log.toString(), SAID);
        const boots = UNSTARTED.has(gap) && !['entry-drafted', 'lease-claimed'].includes(gap);
        assert.equal(host.machines.length, boots ? 2 : 1);
      }
    });
  }
});

/** The gaps of a job that a warm machine gets, from the machine's boot on. */
const WARM: readonly CheckpointName[] = [
  'warm-requested',
  'warm-pinned',
  'entry-drafted',
  'lease-claimed',
  'warm-bound',
  'lease-booting',
  'lease-offered',
  'lease-running',
  'lease-ended',
];

suite('killed with a warm machine', { concurrency: 4 }, () => {
  /** Killed in that gap, and started again. */
  const killed = async (
    t: TestContext,
    gap: CheckpointName,
    before: (host: TestHost, job: SimJob | null) => void = () => undefined,
  ): Promise<{ host: TestHost; job: SimJob; machine: TestMachine }> => {
    const host = await createTestHost(t, { configured: { limit: 1, warm: 1 } });
    const isAtBoot = gap === 'warm-requested';
    const atBoot = isAtBoot ? host.killAt(gap) : undefined;
    await host.start();
    const machine = await eventually('the warm machine', () => host.machines[0], LONG_MS);
    const restart = async (dead: Promise<void>, job: SimJob | null): Promise<void> => {
      await within('the kill', dead, LONG_MS);
      before(host, job);
      await host.start();
    };
    if (atBoot !== undefined) await restart(atBoot, null);
    const rests = (): boolean =>
      host.provider.status().runners[0]?.notClaiming === 'no job a moment ago';
    await eventually('the first ask, which may be made without that machine', rests);
    const dead = isAtBoot ? undefined : host.killAt(gap);
    const job = host.queue();
    t.after(inhabit(host));
    if (dead !== undefined) await restart(dead, job);
    return { host, job, machine };
  };

  for (const gap of WARM) {
    test(`${gap}: that machine has the job, or still waits for one`, async (t) => {
      const { host, job, machine } = await killed(t, gap);
      await jobIsOver(host, job);
      assert.equal(job.status, 'success');
      assert.equal(job.log.toString(), SAID);
      assert.deepEqual(job.verdict().anomalies, []);
      if (gap !== 'lease-ended') {
        assert.equal((await host.ended(job)).machine, machine.runnerName);
      }
    });

    test(`${gap}, and all machines with it`, async (t) => {
      const { host, job, machine } = await killed(t, gap, (dead) => dead.losePower());
      await jobIsOver(host, job);
      if (gap === 'lease-running') {
        assert.deepEqual([job.status, job.failureReason], ['failed', 'runner_system_failure']);
      } else {
        assert.equal(job.status, 'success');
        assert.equal(job.log.toString(), SAID);
        // A claimed job that was to have a machine is given one of the name that it was to have.
        if (!['entry-drafted', 'lease-claimed', 'warm-bound', 'lease-ended'].includes(gap)) {
          assert.notEqual((await host.ended(job)).machine, machine.runnerName);
        }
      }
    });
  }

  test('a claim that was not written down: its machine is no warm one any more', async (t) => {
    const { job, machine } = await killed(t, 'claim-received');
    await eventually('the machine to be stopped', () => !machine.isUp);
    assert.equal(machine.stopReason, 'no job is known for it');
    assert.equal(job.status, 'running');
  });

  test('an entry that is damaged: its machine, in which the job may have run, gets no other one', async (t) => {
    const { machine } = await killed(t, 'lease-running', (host, job) => {
      const file = path.join(host.stateDir, 'leases', `job-${job?.id}.json`);
      writeFileSync(file, '{"version":1,"fac');
    });
    await eventually('the machine to be stopped', () => !machine.isUp);
    assert.equal(machine.stopReason, 'no job is known for it');
  });
});

/** Gaps in our own end of a job whose machine has died. */
const OWN_END: readonly CheckpointName[] = [
  'machine-gone',
  'lease-finishing',
  'note-placed',
  'note-sent',
  'end-sent',
  'lease-ended',
];

suite('killed in our own end of a job', { concurrency: 4 }, () => {
  for (const gap of OWN_END) {
    test(`${gap}: failed once, with one note`, async (t) => {
      const host = await createTestHost(t);
      await host.start();
      const { job, guest, machine } = await host.running();
      await guest.log(SAID);
      const dead = host.killAt(gap);
      machine.end({ cause: 'crashed', detail: 'it ended with signal SIGKILL' });
      await within('the kill', dead, LONG_MS);
      await host.start();
      await nothingIsLeft(host, job);
      assert.deepEqual([job.status, job.failureReason], ['failed', 'runner_system_failure']);
      const log = job.log.toString();
      assert.ok(log.startsWith(SAID));
      assert.equal(log.match(/ERROR/g)?.length, 1);
      // A host tells a machine's end once: told, and not written down, it is forgotten.
      const isLost = gap === 'machine-gone';
      const reason = isLost
        ? /its machine was gone when the host came back/
        : /the machine ended before the job did/;
      assert.match(log, reason);
      if (gap === 'lease-ended') return;
      const row = await host.ended(job);
      assert.equal(row.outcome, 'system_failure');
      assert.match(row.reason ?? '', reason);
      assert.equal(host.endedLabels[0]?.['cause'], isLost ? 'machine-lost' : 'machine-crashed');
    });
  }

  const timedOut = async (
    t: TestContext,
    options: TestHostOptions = {},
  ): Promise<{ host: TestHost; job: SimJob }> => {
    const host = await createTestHost(t, { ...options, timings: { jobGraceMs: 1 } });
    await host.start();
    const { job } = await host.running({ timeoutSeconds: 1 });
    return { host, job };
  };

  test('end-journaled: GitLab has it, the machine is still there', async (t) => {
    const { host, job } = await timedOut(t);
    host.ignoreStop = true;
    await within('the kill', host.killAt('end-journaled'), LONG_MS);
    host.ignoreStop = false;
    const told = host.gitlab.requests.length;
    await host.start();
    await nothingIsLeft(host, job);
    assert.equal(job.failureReason, 'job_execution_timeout');
    const later = host.gitlab.requests.slice(told).filter((one) => one.jobId === job.id);
    assert.deepEqual(later, []);
    assert.equal((await host.ended(job)).outcome, 'system_failure');
  });

  test('machine-gone-journaled: the machine is gone, GitLab still has to hear of it', async (t) => {
    const { host, job } = await timedOut(t);
    const out = host.gitlab.inject({
      match: { route: ['trace', 'job-update'] },
      do: { status: 503 },
    });
    await within('the kill', host.killAt('machine-gone-journaled'), LONG_MS);
    out.remove();
    await host.start();
    await nothingIsLeft(host, job);
    assert.equal(job.failureReason, 'job_execution_timeout');
    assert.equal(job.log.toString().match(/ERROR/g)?.length, 1);
  });
});

suite('the table of gaps', () => {
  test('has a row for each name in the code, and a test for each row', () => {
    const page = path.join(import.meta.dirname, '../docs/life-of-a-job.md');
    const rows = [...readFileSync(page, 'utf8').matchAll(/^\| `([a-z-]+)` \|/gm)].map(
      ([, name]) => name,
    );
    assert.deepEqual(rows, [...CHECKPOINTS]);
    const tested = new Set<string>([
      'claim-received',
      ...LIFE,
      ...WARM,
      ...OWN_END,
      'end-journaled',
      'machine-gone-journaled',
    ]);
    assert.deepEqual(
      [...CHECKPOINTS].filter((name) => !tested.has(name)),
      [],
    );
  });
});
