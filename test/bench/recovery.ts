/**
 * A start with 100 journal entries: until calls are answered, and until every lease is reconciled with GitLab.
 * Half of them have their machine still, half are orphans that have to be ended with a note in their log.
 */

import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import type { SimJob } from '../../fixtures/gitlab/index.ts';
import { createFileJournal, type LeaseRecord } from '../../src/leases/index.ts';
import { eventually } from '../support/deadline.ts';
import { createTestLog } from '../support/github-rig.ts';
import { createTestHost, type TestHost } from '../support/test-host.ts';
import { type Bench, type BenchReport, quantile } from './bench.ts';

const ENTRIES = 100;
const ROUNDS = 5;
const LIMIT_MS = 2000;

async function claimAll(host: TestHost): Promise<SimJob[]> {
  const jobs = Array.from({ length: ENTRIES }, () => host.queue());
  for (const _ of jobs) {
    await fetch(`${host.gitlab.url}/api/v4/jobs/request`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ token: host.runner.token, system_id: 'r_bench', info: {} }),
    });
  }
  return jobs;
}

function recordOf(job: SimJob): LeaseRecord {
  return {
    facts: {
      id: job.id,
      token: job.token,
      name: job.name,
      project: 'lab/demo',
      ref: 'main',
      url: null,
      timeoutSeconds: 3600,
      dependencies: [],
      failureReasons: [],
      protected: false,
      repoUrl: null,
    },
    runner: 'build',
    runnerName: `forrest-build-${job.id}`,
    vmToken: `glrt-bench-${job.id}`,
    requestId: null,
    stages: [],
    state: { name: 'running', pending: null },
    entered: { at: Date.now(), monotonic: Number(process.hrtime.bigint()) / 1e6 },
  };
}

interface Times {
  readonly startedMs: number;
  readonly reconciledMs: number;
}

async function round(): Promise<Times> {
  const undo: (() => unknown)[] = [];
  try {
    const host = await createTestHost({ after: (done) => void undo.push(done as () => unknown) });
    const jobs = await claimAll(host);
    const directory = path.join(host.stateDir, 'leases');
    await mkdir(directory);
    const journal = createFileJournal(directory, createTestLog([]));
    for (const job of jobs) await journal.put(recordOf(job));
    const orphans = jobs.filter((_, index) => index % 2 === 1);
    for (const job of jobs.filter((one) => !orphans.includes(one))) {
      host.leaveMachine(recordOf(job).runnerName);
    }
    const from = performance.now();
    await host.start();
    const startedMs = performance.now() - from;
    await eventually(
      'all orphans to be ended',
      () => orphans.every((job) => job.isFinal) && host.history.length === orphans.length,
      60_000,
    );
    return { startedMs, reconciledMs: performance.now() - from };
  } finally {
    for (const done of undo) await done();
  }
}

async function run(progress: (line: string) => void): Promise<BenchReport> {
  const times: Times[] = [];
  for (let count = 1; count <= ROUNDS; count += 1) {
    progress(`start ${count} of ${ROUNDS}`);
    times.push(await round());
  }
  const figure = (what: string, samples: number[], share: number) => ({
    what: `${ENTRIES} entries: ${what}`,
    unit: 'ms',
    ours: Number(quantile(samples, share).toPrecision(3)),
    peer: null,
  });
  const started = times.map((one) => one.startedMs);
  const reconciled = times.map((one) => one.reconciledMs);
  const median = quantile(reconciled, 0.5);
  return {
    peer: 'none',
    figures: [
      figure('start, p50', started, 0.5),
      figure('all reconciled, p50', reconciled, 0.5),
      figure('all reconciled, slowest', reconciled, 1),
    ],
    goals: [
      {
        what: `${ENTRIES} entries: start to all reconciled, p50 below ${LIMIT_MS / 1000} s`,
        measured: `${median.toFixed(0)} ms`,
        met: median < LIMIT_MS,
      },
    ],
  };
}

export const bench: Bench = {
  summary: 'recovery: a start with 100 journal entries, until all are reconciled with GitLab',
  run,
};
