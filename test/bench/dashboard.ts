/**
 * The dashboard of a large host: 500 machines, as many live jobs, 5,000 ended ones. How long the first page takes, how
 * large it is, what one change costs the host (time of its thread) with 50 dashboards open, and when they have it. Beside the peer: a page
 * that loads itself again.
 */

import { once } from 'node:events';
import http, { type IncomingMessage } from 'node:http';
import { performance } from 'node:perf_hooks';
import { Worker } from 'node:worker_threads';
import { gunzipSync } from 'node:zlib';
import type { JobRow, RunnerRow } from 'forrest-gitlab/contract';
import { Hono } from 'hono';
import type { ControlEnv } from '../../fixtures/host/src/control/index.ts';
import { SignIns, startDashboard } from '../../fixtures/host/src/dashboard/index.ts';
import { History } from '../../fixtures/host/src/history/index.ts';
import { Changes } from '../../fixtures/host/src/lib/changes.ts';
import { listenHere } from '../../fixtures/host/src/listen.ts';
import type { Operator } from '../../fixtures/host/src/operator/index.ts';
import type { HostStatus, MachineRow } from '../../fixtures/host/src/status.ts';
import { temporaryDirectory } from '../support/files.ts';
import { type Bench, type BenchReport, quantile } from './bench.ts';
import type { ClientsData, ClientsMessage } from './dashboard-clients.ts';

const MACHINES = 500;
const ENDED = 5000;
const DASHBOARDS = 50;
const PAGES = 40;
const CHANGES = 30;
const GIB = 1024 ** 3;

export const bench: Bench = {
  summary: 'the dashboard of a host with 500 machines and 5,000 ended jobs',
  async run(progress) {
    const undo: (() => unknown)[] = [];
    try {
      return await measure(progress, { after: (step) => void undo.push(step) });
    } finally {
      for (const step of undo.reverse()) await step();
    }
  },
};

interface CleanUp {
  after(step: () => unknown): void;
}

async function measure(progress: (line: string) => void, cleanUp: CleanUp): Promise<BenchReport> {
  const host = await createHost(await temporaryDirectory(cleanUp));
  cleanUp.after(() => host.close());
  const cookie = await host.signIn();

  progress(`first page, ${PAGES} times`);
  const first: number[] = [];
  const firstCost: number[] = [];
  let packed = Buffer.alloc(0);
  for (let count = 0; count < PAGES; count += 1) {
    const began = performance.now();
    const before = process.threadCpuUsage();
    packed = await host.get('/', { cookie, 'accept-encoding': 'gzip' });
    first.push(performance.now() - began);
    firstCost.push(msOf(process.threadCpuUsage(before)));
  }
  const page = gunzipSync(packed).toString();
  const version = /data-version="([^"]+)"/.exec(page)?.[1] ?? '';

  progress(`${DASHBOARDS} dashboards, ${CHANGES} changes`);
  const clients = new Worker(new URL('./dashboard-clients.ts', import.meta.url), {
    workerData: {
      url: `${host.url}events?page=/&version=${version}`,
      cookie,
      count: DASHBOARDS,
    } satisfies ClientsData,
  });
  cleanUp.after(() => clients.terminate());
  const next = async (): Promise<ClientsMessage> =>
    ((await once(clients, 'message')) as [ClientsMessage])[0];
  await next();
  const arrivals: number[] = [];
  const sizes: number[] = [];
  const cost: number[] = [];
  for (let change = 0; change < CHANGES; change += 1) {
    await quiet();
    const before = process.threadCpuUsage();
    const changedAt = performance.timeOrigin + performance.now();
    host.change(change);
    const message = await next();
    if (message.type !== 'told') throw new Error('the dashboards were opened again');
    cost.push(msOf(process.threadCpuUsage(before)));
    arrivals.push(message.at - changedAt);
    sizes.push(message.bytes);
  }

  const firstMs = quantile(first, 0.5);
  const pageMs = quantile(firstCost, 0.5);
  const kib = packed.length / 1024;
  const typicalMs = quantile(cost, 0.5);
  const costMs = quantile(cost, 0.95);
  const reachedMs = Math.max(...arrivals);
  return {
    peer: 'a page that loads itself again',
    figures: [
      { what: 'first page, p50', unit: 'ms', ours: firstMs, peer: null },
      { what: 'first page, p95', unit: 'ms', ours: quantile(first, 0.95), peer: null },
      { what: 'host time for a first page, p50', unit: 'ms', ours: pageMs, peer: null },
      { what: 'first page, compressed', unit: 'KiB', ours: kib, peer: null },
      {
        what: 'host time for a change and 50 dashboards, p50',
        unit: 'ms',
        ours: typicalMs,
        peer: pageMs * DASHBOARDS,
      },
      {
        what: 'host time for a change and 50 dashboards, p95',
        unit: 'ms',
        ours: costMs,
        peer: quantile(firstCost, 0.95) * DASHBOARDS,
      },
      { what: 'change to the last dashboard', unit: 'ms', ours: reachedMs, peer: null },
      {
        what: 'sent to one dashboard for a change',
        unit: 'KiB',
        ours: Math.max(...sizes) / 1024,
        peer: kib,
      },
    ],
    goals: [
      {
        what: 'first page, p50 below 200 ms',
        measured: `${firstMs.toFixed(1)} ms`,
        met: firstMs < 200,
      },
      {
        what: 'first page below 200 KiB compressed',
        measured: `${kib.toFixed(1)} KiB`,
        met: kib < 200,
      },
      {
        what: `a change costs the host less than 5 ms with ${DASHBOARDS} dashboards, p50`,
        measured: `${typicalMs.toFixed(2)} ms`,
        met: typicalMs < 5,
      },
      {
        what: 'it reaches all of them within 1 s',
        measured: `${reachedMs.toFixed(0)} ms`,
        met: reachedMs < 1000,
      },
    ],
  };
}

/** The dashboard on a status of our own making; everything behind it is real but the providers and machines. */
async function createHost(stateDir: string) {
  const silent = { error: () => undefined, warn: () => undefined, info: () => undefined };
  const history = await History.open({ stateDir, log: silent });
  for (let id = 0; id < ENDED; id += 1) {
    history.add({ ...jobRow(id, 'ended'), outcome: id % 7 === 0 ? 'failed' : 'success' });
  }
  await history.flush();
  const machines = Array.from({ length: MACHINES }, (_, index) => machineRow(index));
  const jobs = machines.map((machine, index) => ({
    ...jobRow(ENDED + index, 'running'),
    machine: machine.runnerName,
  }));
  const status = (): HostStatus => toStatus(machines, jobs, history);
  const changes = new Changes();
  const operator = { status, endedJobs: () => history.list() } as unknown as Operator;
  const signIns = await SignIns.open(stateDir, silent);
  const dashboard = await startDashboard({ listen: '127.0.0.1:0', tokenFile: null }, listenHere, {
    operator,
    signIns,
    controlApp: new Hono<ControlEnv>(),
    changes,
    log: silent,
  });
  const call = (target: string, headers: http.OutgoingHttpHeaders): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      http
        .get(new URL(target, dashboard.url), { headers, agent: false }, resolve)
        .on('error', reject);
    });
  return {
    url: dashboard.url,
    close: () => dashboard.close(),
    async signIn(): Promise<string> {
      const answer = await call(dashboard.signInLink(), {});
      answer.resume();
      return answer.headers['set-cookie']?.[0]?.split(';')[0] ?? '';
    },
    async get(target: string, headers: http.OutgoingHttpHeaders): Promise<Buffer<ArrayBuffer>> {
      return Buffer.concat(await (await call(target, headers)).toArray());
    },
    /** One machine and its job enter another state. */
    change(index: number): void {
      const machine = machines[index];
      const job = jobs[index];
      if (machine === undefined || job === undefined) throw new Error('more changes than machines');
      machines[index] = { ...machine, state: 'stopping', since: Date.now() };
      jobs[index] = {
        ...job,
        state: 'finishing',
        stages: [...job.stages, { name: 'finished', at: Date.now() }],
      };
      changes.tell();
    },
  };
}

/** Of a thread: what else runs on this machine does not count. */
function msOf({ user, system }: NodeJS.CpuUsage): number {
  return (user + system) / 1000;
}

/** More than the time between two updates. */
function quiet(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 450));
}

function machineRow(index: number): MachineRow {
  return {
    runnerName: `forrest-build-${String(index).padStart(16, '0')}`,
    provider: index % 3 === 0 ? 'github' : 'gitlab',
    machineType: index % 3 === 0 ? 'lab/firmware/build' : 'debian',
    state: 'running',
    warm: false,
    ramBytes: (1 + (index % 4)) * GIB,
    since: Date.now() - index * 1000,
    pid: 1000 + index,
    runDir: `/srv/forrest/runs/_/debian/forrest-build-${index}`,
    keepMinutes: null,
    keptUntil: null,
  };
}

function jobRow(id: number, state: string): JobRow {
  const at = Date.now() - 60_000 - id * 500;
  return {
    forge: id % 3 === 0 ? 'github' : 'gitlab',
    id: String(1_000_000 + id),
    project: `group-${id % 11}/project-${id % 83}`,
    name: `job-${(id * 7919) % 997} of stage ${id % 5}`,
    ref: id % 4 === 0 ? 'main' : `feature/change-${(id * 31) % 409}`,
    url: `https://forge.example.com/group-${id % 11}/project-${id % 83}/-/jobs/${1_000_000 + id}`,
    runner: 'build',
    machine: `forrest-build-${String(id).padStart(16, 'x')}`,
    state,
    stages: ['claimed', 'booted', 'offered', 'running'].map((name, step) => ({
      name,
      at: at + step * 1000,
    })),
    logBytes: id * 1000,
    lastActivityAt: at + 5000,
    outcome: null,
    reason: id % 7 === 0 ? `the script ended with exit code ${id % 200}` : null,
  };
}

function toStatus(
  machines: readonly MachineRow[],
  jobs: readonly JobRow[],
  history: History,
): HostStatus {
  const of = (forge: string): readonly JobRow[] => jobs.filter((job) => job.forge === forge);
  const runners = (forge: string): RunnerRow[] =>
    Array.from({ length: 10 }, (_, index) => ({
      forge,
      name: `build-${index}`,
      machineType: 'debian',
      health: 'ok',
      lastAnswer: '204: no job',
      lastAnswerAt: 1,
      nextAskAt: 1,
      limit: 50,
      running: 25,
      paused: false,
      notClaiming: 'no job a moment ago',
    }));
  const usedBytes = machines.reduce((sum, { ramBytes }) => sum + ramBytes, 0);
  return {
    host: {
      name: 'large',
      version: '0.1.0',
      driver: 'qemu',
      accelerator: 'kvm',
      startedAt: 1,
      paused: false,
      draining: false,
      ready: true,
      dashboardUrl: null,
      configProblem: null,
      diskProblem: null,
    },
    pool: { ramBytes: usedBytes + 64 * GIB, usedBytes, held: [], waiting: [] },
    machines,
    providers: ['gitlab', 'github'].map((id) => ({
      id,
      status: { health: { status: 'ok', message: null }, jobs: of(id), runners: runners(id) },
    })),
    history: history.list(),
  };
}
