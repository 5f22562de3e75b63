/** The GitHub provider under a random schedule of jobs, cancels, crashes, faults, pauses and restarts. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Fault, SimJob } from '../fixtures/github/index.ts';
import { eventually } from './support/deadline.ts';
import type { TestMachine } from './support/github-machine.ts';
import { type GithubRig, startGithubRig } from './support/github-rig.ts';
import { createRandom } from './support/random.ts';

const STEPS = 60;
const TYPE = 'lab/demo/small';
const SETTLE_MS = 40_000;

const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** What a runner does: takes a job, runs it, and its machine powers off. */
async function live(machine: TestMachine): Promise<void> {
  const isUp = (): boolean => machine.state !== 'stopped';
  if ((await machine.guest('connect')) !== 'ok') return machine.end({ exitCode: 3 });
  while (isUp()) {
    const [word, id] = (await machine.guest('next')).split(' ');
    if (word === 'gone') return machine.end({ exitCode: 3 });
    if (word !== 'job') continue;
    await wait(20);
    if (!isUp()) return;
    const canceled = (await machine.guest(`jobs/${id}/log`, '0\nhello\n')) === 'canceled';
    await machine.guest(`jobs/${id}/complete`, canceled ? 'cancelled\n' : 'success\n');
    return machine.end();
  }
}

function randomFault(random: () => number): Fault {
  const routes = ['jitconfig', 'runner-delete', 'runners', 'runner', 'runs', 'jobs'] as const;
  const actions: Fault['do'][] = [
    { status: 500 },
    { status: 404 },
    { cut: true },
    { loseAnswer: true },
    { delayMs: 100 },
    { secondaryRateLimit: { retryAfterSeconds: 1 } },
  ];
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
  return { match: { route: pick(routes), times: 1 + Math.floor(random() * 3) }, do: pick(actions) };
}

async function step(rig: GithubRig, random: () => number): Promise<void> {
  const any = <T>(from: readonly T[]): T | undefined => from[Math.floor(random() * from.length)];
  const dice = random();
  if (dice < 0.45) {
    rig.queue({ name: `job ${rig.github.jobs().length}` });
  } else if (dice < 0.6) {
    const job = any(rig.github.jobs().filter((one) => one.status !== 'completed'));
    if (job !== undefined) rig.github.cancel(job);
  } else if (dice < 0.7) {
    any(rig.machines.filter((one) => one.state !== 'stopped'))?.end({ cause: 'crashed' });
  } else if (dice < 0.88) {
    rig.github.inject(randomFault(random));
  } else if (dice < 0.93) {
    await rig.provider.pause(TYPE, !rig.row().paused);
  } else if (dice < 0.97) {
    await rig.restart();
  } else {
    rig.github.expireTokens();
  }
}

describe('after a random schedule', () => {
  for (const seed of [1, 2, 3]) {
    it(`no job, machine or runner is left: seed ${seed}`, async (t) => {
      const random = createRandom(seed);
      const rig = await startGithubRig(t, {
        section: { polling_interval: '1s' },
        // A runner that a busy machine lets go offline for a moment is given up, and its machine with it.
        timings: {
          rateLimitCapMs: 300,
          startLimitMs: 3000,
          callTimeoutMs: 1000,
          finishGraceMs: 2000,
        },
        simulator: {
          timings: { nextHoldMs: 50, offlineAfterMs: 500, lostAfterMs: 500, sweepEveryMs: 50 },
        },
      });
      const lives: Promise<void>[] = [];
      const bring = setInterval(() => {
        for (const machine of rig.machines.slice(lives.length)) lives.push(live(machine));
      }, 5);
      t.after(() => clearInterval(bring));

      for (let count = 0; count < STEPS; count++) {
        await step(rig, random);
        await wait(random() * 60);
      }
      if (rig.row().paused) await rig.provider.pause(TYPE, false);

      const isOver = (job: SimJob): boolean => job.status === 'completed';
      await eventually('all jobs to end', () => rig.github.jobs().every(isOver), SETTLE_MS);
      await eventually(
        'all machines to end',
        () => rig.machines.every((machine) => machine.state === 'stopped'),
        SETTLE_MS,
      );
      await eventually(
        'all runners to be gone',
        () => rig.github.runners().length === 0,
        SETTLE_MS,
      );
      clearInterval(bring);
      await Promise.all(lives);
      assert.ok(rig.github.jobs().every((job) => job.assigned <= 1));
      const ids = rig.history.map((row) => row.id);
      const twice = rig.history.filter((row, at) => ids.indexOf(row.id) !== at);
      assert.deepEqual(twice, [], 'jobs were told of twice');
      await eventually('no job to be shown', () => rig.provider.status().jobs.length === 0);
    });
  }
});
