/** The faults: what each kind does to a host, a machine or GitLab, and how it is undone. */

import { readFile, truncate } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GitlabSimulator, RouteName } from '../../fixtures/gitlab/index.ts';
import { sendSignal, sessionMembers } from '../../fixtures/host/src/drivers/proc.ts';
import { eventually } from '../support/deadline.ts';
import type { ChaosHost } from './host.ts';
import { KILLED } from './judge.ts';
import { JOURNAL_DAMAGED } from './log-check.ts';
import type { Weather } from './relay.ts';
import type { PlannedFault } from './schedule.ts';
import type { SmallDisk } from './small-disk.ts';
import type { TrackedJob, Window } from './tracked.ts';

export interface Field {
  readonly driver: 'process' | 'qemu';
  readonly simulator: GitlabSimulator;
  readonly hosts: readonly ChaosHost[];
  readonly disks: ReadonlyMap<ChaosHost, SmallDisk>;
  readonly jobs: ReadonlyMap<number, TrackedJob>;
  readonly windows: Window[];
}

export interface Target {
  readonly job: TrackedJob;
  readonly host: ChaosHost;
}

/** A fault that found nothing to hit. */
export class Missed extends Error {}

/** Answers that were on their way when something broke. */
const BEFORE_MS = 2000;
const AFTER_MS = 1000;

const API: readonly RouteName[] = [
  'jobs-request',
  'job-update',
  'trace',
  'artifacts-upload',
  'artifacts-download',
  'runners-verify',
];

/** Resolves once it is undone. Rejects with `Missed` where there is nothing to hit. */
export async function strike(fault: PlannedFault, target: Target, field: Field): Promise<void> {
  const { host, job } = target;
  const { holdMs, variant } = fault;
  switch (fault.kind) {
    case 'kill-host':
      return losing(host, field, () => host.killChild());
    case 'kill-host-and-supervisor':
      return down(host, field, () => sleep(holdMs / 3));
    case 'kill-machine':
      return killMachine(target, field, (pid) => sessionMembers(pid));
    case 'kill-runner':
      if (field.driver === 'qemu') throw new Missed('nobody outside of a virtual machine can');
      // The machine's script becomes the runner; what it has started is left.
      return killMachine(target, field, (pid) => [pid]);
    case 'stop-host':
      return stopped([await host.childPid()], holdMs);
    case 'stop-machine':
      return stopped(sessionMembers((await machineOf(target, field)).pid), holdMs);
    case 'gitlab-refuses':
      return weather(host, field, { kind: 'refuse' }, holdMs);
    case 'gitlab-hangs':
      return weather(host, field, { kind: 'hang' }, holdMs);
    case 'gitlab-cuts': {
      const afterBytes = Math.round(200 * 10 ** (variant * 3));
      return weather(host, field, { kind: 'cut', afterBytes }, holdMs);
    }
    case 'slow-network': {
      const slow = { latencyMs: 50 + variant * 250, bytesPerSecond: 150_000 + variant * 500_000 };
      return weather(host, field, { kind: 'slow', ...slow }, holdMs);
    }
    case 'gitlab-5xx':
      return answering(field, [500, 502, 503, 504, 429][Math.floor(variant * 5)] ?? 500, holdMs);
    case 'journal-truncated':
      return truncateJournal(target, field, variant);
    case 'disk-full':
      return fillDisk(host, field, holdMs);
    case 'lost-201':
      throw new Missed('it is armed before the jobs are queued: see armLost201');
    case 'duplicate-answer':
      job.job.answerAgain = true;
      return struck('the host to ask again', () => !job.job.answerAgain).finally(() => {
        job.job.answerAgain = false;
      });
    default:
      return fault.kind satisfies never;
  }
}

/** The next 201 does not arrive; resolves once one was lost. */
export async function armLost201(field: Field): Promise<void> {
  const fault = field.simulator.inject({
    match: { route: 'jobs-request' },
    do: { loseAnswer: true },
  });
  const armedAt = Date.now();
  let lost = false;
  const stop = field.simulator.onChange((job) => {
    const isAssigned = job.status === 'running' && (job.startedAt ?? 0) >= armedAt;
    if (!isAssigned || fault.hits === 0 || lost) return;
    lost = true;
    // At once: the answers to later requests arrive.
    fault.remove();
    field.windows.push({ host: null, from: job.startedAt ?? 0, to: Date.now() + AFTER_MS });
  });
  try {
    await struck('a job to be handed out', () => lost);
  } finally {
    stop();
    fault.remove();
  }
}

const STRUCK_MS = 20_000;
/** Where nothing runs at the moment. */
const MACHINE_MS = 5000;

async function struck(label: string, predicate: () => boolean): Promise<void> {
  await eventually(label, predicate, STRUCK_MS).catch((error: Error) => {
    throw new Missed(error.message);
  });
}

/** While this runs, what GitLab answers that host may be lost. */
async function losing(host: ChaosHost, field: Field, run: () => Promise<unknown>): Promise<void> {
  const from = Date.now() - BEFORE_MS;
  try {
    await run();
  } finally {
    field.windows.push({ host, from, to: Date.now() + AFTER_MS });
  }
}

/** Kills a host with its supervisor, and starts it again. */
function down(host: ChaosHost, field: Field, meanwhile: () => Promise<unknown>): Promise<void> {
  return losing(host, field, async () => {
    await host.killAll();
    // Nobody holds its sockets: a runner whose transfer is refused fails its job after seconds.
    for (const job of jobsOn(host, field)) {
      if (job.plan.expected.transfers) job.disturbances.push('its host could not be reached');
    }
    await meanwhile();
    await host.start();
  });
}

function jobsOn(host: ChaosHost, field: Field): TrackedJob[] {
  return [...host.journal.live.keys()].flatMap((id) => field.jobs.get(id) ?? []);
}

interface FoundMachine {
  readonly job: TrackedJob;
  readonly pid: number;
}

/** The job's machine, else any that runs: a fault is not to be wasted. */
async function machineOf({ job }: Target, field: Field): Promise<FoundMachine> {
  const find = (one: TrackedJob): FoundMachine | undefined => {
    for (const host of field.hosts) {
      const runnerName = host.journal.live.get(one.job.id)?.runnerName;
      const pid = runnerName === undefined ? undefined : host.machinePid(runnerName);
      if (pid !== undefined && sessionMembers(pid).length > 0) return { job: one, pid };
    }
    return undefined;
  };
  const all = (): FoundMachine[] => [...field.jobs.values()].flatMap((one) => find(one) ?? []);
  return eventually('a machine that runs', () => find(job) ?? all()[0], MACHINE_MS).catch(
    (error: Error) => {
      throw new Missed(error.message);
    },
  );
}

async function killMachine(
  target: Target,
  field: Field,
  victims: (pid: number) => readonly number[],
): Promise<void> {
  const { job, pid } = await machineOf(target, field);
  job.disturbances.push(KILLED);
  for (const victim of victims(pid)) sendSignal(victim, 'SIGKILL');
}

async function stopped(pids: readonly number[], holdMs: number): Promise<void> {
  for (const pid of pids) sendSignal(pid, 'SIGSTOP');
  try {
    await sleep(holdMs);
  } finally {
    for (const pid of pids) sendSignal(pid, 'SIGCONT');
  }
}

function weather(host: ChaosHost, field: Field, how: Weather, holdMs: number): Promise<void> {
  return losing(host, field, async () => {
    await host.relay.set(how);
    try {
      await sleep(holdMs);
    } finally {
      await host.relay.set({ kind: 'open' });
    }
  });
}

async function answering({ simulator }: Field, status: number, holdMs: number): Promise<void> {
  const headers: Record<string, string> = status === 429 ? { 'retry-after': '1' } : {};
  const fault = simulator.inject({ match: { route: API }, do: { status, headers } });
  try {
    await sleep(holdMs);
  } finally {
    fault.remove();
  }
}

/** Somewhere behind the job's token, as a file system that has lost the end of a file leaves it. */
async function truncateJournal(target: Target, field: Field, variant: number): Promise<void> {
  const { host } = target;
  let done = false;
  await down(host, field, async () => {
    const wanted = target.job.job.id;
    const ids = [...host.journal.live.keys()].sort((a, b) => +(b === wanted) - +(a === wanted));
    const id = ids[0];
    if (id === undefined) return;
    const file = host.journal.fileOf(id);
    const text = await readFile(file, 'utf8');
    const token = /"token":"[^"]+"/.exec(text);
    const least = token === null ? 0 : token.index + token[0].length;
    await truncate(file, least + Math.floor((text.length - least) * variant));
    field.jobs.get(id)?.disturbances.push(JOURNAL_DAMAGED);
    done = true;
  });
  if (!done) throw new Missed('the host had no journal entry');
}

async function fillDisk(host: ChaosHost, field: Field, holdMs: number): Promise<void> {
  const disk = field.disks.get(host);
  if (disk === undefined) throw new Missed('it needs the right to mount');
  // A machine needs to be written down before it boots: such a job may fail, one that runs may not.
  const disturb = (): void => {
    for (const job of jobsOn(host, field)) {
      const state = host.journal.live.get(job.job.id)?.state ?? '';
      if (state === 'running' || state === 'finishing') continue;
      if (!job.disturbances.includes(FULL)) job.disturbances.push(FULL);
    }
  };
  const before = new Set(host.journal.received);
  disturb();
  await disk.fill();
  const from = Date.now();
  try {
    await sleep(holdMs);
  } finally {
    await disk.empty();
  }
  // What was claimed meanwhile could not be written down at all.
  for (const job of field.jobs.values()) {
    const { id, manager, startedAt } = job.job;
    const isNew = startedAt !== null && startedAt >= from - BEFORE_MS && !before.has(id);
    if (isNew && manager?.systemId === host.systemId) job.disturbances.push(FULL);
  }
  disturb();
}

const FULL = 'its host’s disk was full';
