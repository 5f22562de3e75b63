/** How long a host takes from its start until all that an earlier run left is in order again. */

import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import type { TestContext } from 'node:test';
import type { SimJob } from '../../fixtures/gitlab/index.ts';
import { isAlive, sessionMembers } from '../../fixtures/host/src/drivers/proc.ts';
import { eventually } from '../support/deadline.ts';
import { createGuest } from '../support/guest.ts';
import { createRig, journalOf, type Rig } from '../support/rig.ts';
import type { Bench, BenchReport } from './bench.ts';

const ENTRIES = 100;
/** The calmest round counts, for the machine is not ours alone. */
const ROUNDS = 3;
const LIMIT_MS = 2000;
const WAIT_MS = 120_000;

/** A hundred of these must cost nothing while they wait. */
const SCRIPT = 'while [ -e log.txt ]; do sleep 5; done';

export const bench: Bench = {
  summary: `from the host's start to all leases reconciled, ${ENTRIES} journal entries`,
  async run(progress): Promise<BenchReport> {
    const cleanUps: (() => unknown)[] = [];
    const scope = { after: (cleanUp: () => unknown) => void cleanUps.push(cleanUp) };
    try {
      const rig = await createRig(scope as unknown as TestContext, {
        ram: `${ENTRIES}G`,
        script: SCRIPT,
        runner: { limit: ENTRIES },
        timings: { heartbeatMs: 10_000 },
      });
      const jobs = Array.from({ length: ENTRIES }, () => rig.queue());
      await rig.start();
      progress(`starting ${ENTRIES} machines`);
      for (const job of jobs) await takeJob(rig, job);
      const adopting: number[] = [];
      const bound: number[] = [];
      for (let round = 1; round <= ROUNDS; round += 1) {
        await rig.host.stop('leave');
        bound.push(await timed(() => readAndVerify(rig)));
        adopting.push(await timed(() => rig.start()));
        const { machines, providers } = rig.status();
        const rows = providers.flatMap(({ status }) => status.jobs);
        if (
          machines.length !== ENTRIES ||
          rows.filter((row) => row.state === 'running').length !== ENTRIES
        )
          throw new Error(
            `of ${ENTRIES} leases and machines ${rows.length} and ${machines.length} are left`,
          );
        progress(
          `round ${round}: ${ENTRIES} machines taken over in ${adopting.at(-1)?.toFixed(0)} ms`,
        );
      }
      const pids = rig.status().machines.flatMap(({ pid }) => pid ?? []);
      await rig.host.stop('leave');
      for (const pid of pids) process.kill(-pid, 'SIGKILL');
      await eventually(
        'the machines to be gone',
        () => pids.every((pid) => sessionMembers(pid).length === 0),
        WAIT_MS,
      );
      const closing = await timed(async () => {
        progress(`started again in ${(await timed(() => rig.start())).toFixed(0)} ms`);
        await eventually(
          'all jobs to be closed, and their entries gone',
          async () =>
            jobs.every((job) => job.status === 'failed') && (await journalOf(rig)).length === 0,
          WAIT_MS,
        );
      });
      const ours = Math.min(...adopting);
      return {
        peer: 'reading every record and looking at its process, one after the other: a bound, no host',
        figures: [
          {
            what: `${ENTRIES} running machines taken over`,
            unit: 'ms',
            ours,
            peer: Math.min(...bound),
          },
          {
            what: `${ENTRIES} jobs of machines that are gone closed in GitLab`,
            unit: 'ms',
            ours: closing,
            peer: null,
          },
        ],
        goals: [
          goal('all running machines taken over', ours),
          goal('all jobs of lost machines closed', closing),
        ],
      };
    } finally {
      for (const cleanUp of cleanUps) await cleanUp();
    }
  },
};

const goal = (what: string, ms: number): BenchReport['goals'][number] => ({
  what: `${what}, below ${LIMIT_MS} ms`,
  measured: `${ms.toFixed(0)} ms`,
  met: ms < LIMIT_MS,
});

/** Its runner has made its first own call: from now on the job is not given a second machine. */
async function takeJob(rig: Rig, job: SimJob): Promise<void> {
  const guest = await eventually(
    `the machine of job ${job.id}`,
    async () => {
      const name = rig.row(job)?.machine;
      const machine = rig.status().machines.find((one) => one.runnerName === name);
      if (machine?.pid == null) return undefined;
      return await createGuest(machine, job).catch(() => undefined);
    },
    WAIT_MS,
  );
  await guest.takeJob();
}

async function readAndVerify(rig: Rig): Promise<void> {
  await journalOf(rig);
  const directory = path.join(rig.directory, 'base/state/host/machines');
  for (const name of await readdir(directory)) {
    const record = JSON.parse(await readFile(path.join(directory, name), 'utf8'));
    if (!isAlive(record.process)) throw new Error(`${name} does not run`);
  }
}

async function timed(action: () => Promise<unknown>): Promise<number> {
  const from = performance.now();
  await action();
  return performance.now() - from;
}
