/** What a host of 200 machines adds to their jobs' calls, and what it costs; and one that has nothing to do. */

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { getText } from '../../../fixtures/host/src/testing/get-json.ts';
import { within } from '../../support/deadline.ts';
import { type Bench, type BenchReport, quantile } from '../bench.ts';
import { memoryOf, usageOf } from '../proxy/usage.ts';
import { readMachines, takeJob } from '../sleepers.ts';
import { measureIdle } from './idle.ts';
import type { Job, Phase, Sample } from './load.ts';
import { compile, type Rig, startRig } from './rig.ts';

const FEW = 10;
const MANY = 200;
const LOAD_PROCESSES = 2;
/** The calmest of each figure counts, for the machine is not ours alone. */
const ROUNDS = 3;
const PHASE_MS = 12_000;
const PHASE_LIMIT_MS = 120_000;
const PROJECT = 'lab/demo';

/** What is to be reached. */
const ADDED_P99_MS = 50;
const DELAY_P99_MS = 20;
const MACHINE_MB = 1;

export const bench: Bench = {
  summary: `a host of ${MANY} machines: what it adds to their calls, what it needs; an idle one`,
  async run(progress): Promise<BenchReport> {
    const directory = await mkdtemp(path.join(tmpdir(), 'forrest-bench-host-'));
    try {
      progress('compiling both packages');
      await compile();
      const busy = await measureBusy(path.join(directory, 'busy'), progress);
      const idle = await measureIdle(path.join(directory, 'idle'), progress);
      return {
        peer: 'the same calls at GitLab itself',
        figures: [...busy.figures, ...idle.figures],
        goals: [...busy.goals, ...idle.goals],
      };
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  },
};

/** What some machines cost; times in ms. */
interface Measured {
  readonly host: Sample;
  readonly direct: Sample;
  readonly cpuPercent: number;
  readonly loopP99: number;
  readonly memoryBytes: number;
}

async function measureBusy(
  directory: string,
  progress: (line: string) => void,
): Promise<Pick<BenchReport, 'figures' | 'goals'>> {
  const rig = await startRig(directory, { runners: 1, machines: MANY });
  const loads = Array.from({ length: LOAD_PROCESSES }, startLoad);
  try {
    let jobs: readonly Job[] = [];
    const measure = async (machines: number): Promise<Measured[]> => {
      progress(`booting ${machines - jobs.length} machines`);
      jobs = await addJobs(rig, jobs, machines);
      const rounds: Measured[] = [];
      for (let round = 1; round <= ROUNDS; round += 1) {
        const measured = await measureRound(rig, loads, jobs);
        jobs = measured.host.jobs;
        rounds.push(measured);
        progress(
          `${machines} machines, round ${round} of ${ROUNDS}: PATCH p99 ${quantile(measured.host.patches, 0.99).toFixed(1)} ms, direct ${quantile(measured.direct.patches, 0.99).toFixed(1)} ms, event loop p99 ${measured.loopP99.toFixed(1)} ms`,
        );
      }
      return rounds;
    };
    const few = await measure(FEW);
    return report(few, await measure(MANY));
  } finally {
    for (const { child } of loads) child.kill('SIGKILL');
    await rig.end();
  }
}

interface Load {
  readonly child: ChildProcess;
  /** Rejects when it ends. */
  readonly failed: Promise<never>;
}

function startLoad(): Load {
  const child = fork(path.join(import.meta.dirname, 'load.ts'));
  const failed = once(child, 'exit').then(() => {
    throw new Error('a load process failed');
  });
  failed.catch(() => undefined);
  return { child, failed };
}

/** So many in all, each taken by its machine. */
async function addJobs(rig: Rig, before: readonly Job[], machines: number): Promise<Job[]> {
  for (let count = before.length; count < machines; count += 1) {
    await rig.gitlab.post('jobs', { project: PROJECT, name: `job-${count}`, script: ['true'] });
  }
  const gitlab = new URL(rig.gitlab.url);
  const seen = new Set(before.map(({ host }) => host.path.split('/')[1]));
  const urls = await readMachines(rig.called, machines);
  const fresh = urls.filter((url) => !seen.has(url.pathname.slice(1)));
  const added = await Promise.all(
    fresh.map(async (url): Promise<Job> => {
      const { vm, job } = await takeJob(url);
      const direct = { ...vm, port: Number(gitlab.port), path: `/api/v4/jobs/${job.id}` };
      return { host: vm, direct };
    }),
  );
  return [...before, ...added];
}

/** The same load straight at GitLab, then through the host. */
async function measureRound(
  rig: Rig,
  loads: readonly Load[],
  jobs: readonly Job[],
): Promise<Measured> {
  const direct = await runPhase(loads, { way: 'direct', jobs, forMs: PHASE_MS });
  const pids = [rig.supervisorPid, rig.hostPid];
  const cpu = async (): Promise<number> =>
    (await Promise.all(pids.map(usageOf))).reduce((sum, one) => sum + one.cpuSeconds, 0);
  // Its quantiles are of the time since the last look.
  await loopP99(rig);
  const before = await cpu();
  const startedAt = performance.now();
  const host = await runPhase(loads, { way: 'host', jobs: direct.jobs, forMs: PHASE_MS });
  const seconds = (performance.now() - startedAt) / 1000;
  return {
    host,
    direct,
    cpuPercent: (((await cpu()) - before) / seconds) * 100,
    loopP99: await loopP99(rig),
    memoryBytes: await memoryOf(pids),
  };
}

async function runPhase(loads: readonly Load[], phase: Phase): Promise<Sample> {
  const samples = await Promise.all(
    loads.map(async ({ child, failed }, index) => {
      const jobs = phase.jobs.filter((_, at) => at % loads.length === index);
      const over = Promise.race([once(child, 'message'), failed]);
      child.send({ ...phase, jobs } satisfies Phase);
      const [sample] = await within('the load', over, PHASE_LIMIT_MS);
      return sample as Sample;
    }),
  );
  return {
    patches: samples.flatMap(({ patches }) => patches),
    uploads: samples.flatMap(({ uploads }) => uploads),
    jobs: samples.flatMap(({ jobs }) => jobs),
  };
}

async function loopP99(rig: Rig): Promise<number> {
  const text = await getText(rig.controlSocket, '/metrics');
  const found = /^forrest_event_loop_delay_seconds\{quantile="0\.99"\} (\S+)$/m.exec(text)?.[1];
  return Number(found) * 1000;
}

function report(
  few: readonly Measured[],
  many: readonly Measured[],
): Pick<BenchReport, 'figures' | 'goals'> {
  const calmest = (rounds: readonly Measured[], of: (one: Measured) => number): number =>
    Math.min(...rounds.map(of));
  const added = (kind: 'patches' | 'uploads'): number =>
    calmest(many, ({ host, direct }) => quantile(host[kind], 0.99) - quantile(direct[kind], 0.99));
  const times = (what: string, kind: 'patches' | 'uploads', share: number) => ({
    what: `${MANY} machines: ${what}, p${share * 100}`,
    unit: 'ms',
    ours: calmest(many, ({ host }) => quantile(host[kind], share)),
    peer: calmest(many, ({ direct }) => quantile(direct[kind], share)),
  });
  const cpuEach = (rounds: readonly Measured[], machines: number): number =>
    calmest(rounds, ({ cpuPercent }) => cpuPercent) / machines;
  const memory = (rounds: readonly Measured[]): number =>
    calmest(rounds, ({ memoryBytes }) => memoryBytes) / 1e6;
  const ours = (what: string, unit: string, value: number) => ({
    what,
    unit,
    ours: value,
    peer: null,
  });
  const cpuFew = cpuEach(few, FEW);
  const cpuMany = cpuEach(many, MANY);
  const grown = (memory(many) - memory(few)) / (MANY - FEW);
  const delay = calmest(many, ({ loopP99: p99 }) => p99);
  const worst = Math.max(added('patches'), added('uploads'));
  return {
    figures: [
      times('a log PATCH', 'patches', 0.5),
      times('a log PATCH', 'patches', 0.99),
      times('an upload of 1 MiB', 'uploads', 0.5),
      times('an upload of 1 MiB', 'uploads', 0.99),
      ours(`${FEW} machines: CPU of the host for each`, '% of a core', cpuFew),
      ours(`${MANY} machines: CPU of the host for each`, '% of a core', cpuMany),
      ours(`CPU for each of ${MANY} beside each of ${FEW}`, 'times', cpuMany / cpuFew),
      ours(`${FEW} machines: memory of the host`, 'MB', memory(few)),
      ours(`${MANY} machines: memory of the host`, 'MB', memory(many)),
      ours(`${MANY} machines: event loop delay, p99`, 'ms', delay),
    ],
    goals: [
      {
        what: `${MANY} machines: calls take at most ${ADDED_P99_MS} ms more than at GitLab itself, p99`,
        measured: `${worst.toFixed(1)} ms (log ${added('patches').toFixed(1)}, upload ${added('uploads').toFixed(1)})`,
        met: worst <= ADDED_P99_MS,
      },
      {
        what: `${MANY} machines: event loop delay p99 below ${DELAY_P99_MS} ms`,
        measured: `${delay.toFixed(1)} ms`,
        met: delay < DELAY_P99_MS,
      },
      {
        what: `memory grows by less than ${MACHINE_MB} MB a machine, from ${FEW} to ${MANY}`,
        measured: `${grown.toFixed(2)} MB`,
        met: grown < MACHINE_MB,
      },
    ],
  };
}
