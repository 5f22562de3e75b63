/** A job of the run: what GitLab has of it, what is expected of it, and what was done to it. */

import type { GitlabSimulator, SimJob } from '../../fixtures/gitlab/index.ts';
import type { ChaosHost } from './host.ts';
import type { JobPlan } from './jobs.ts';
import type { FinalUpdate, JobFacts } from './judge.ts';
import { STATES, type State } from './schedule.ts';
import type { Witness } from './witness.ts';

/** A time in which answers to a host may have been lost; null: to any. */
export interface Window {
  readonly host: ChaosHost | null;
  readonly from: number;
  readonly to: number;
}

export class TrackedJob {
  readonly job: SimJob;
  readonly plan: JobPlan;
  readonly disturbances: string[] = [];
  canceled = false;

  constructor(job: SimJob, plan: JobPlan) {
    this.job = job;
    this.plan = plan;
  }

  /** Who has it, or had it last. */
  hostOf(hosts: readonly ChaosHost[]): ChaosHost | undefined {
    const id = this.job.id;
    return (
      hosts.find((host) => host.journal.live.has(id)) ??
      hosts.find((host) => host.journal.received.has(id))
    );
  }

  /** Whether it has come to that state, or will come to no other. */
  hasReached(state: State, hosts: readonly ChaosHost[]): boolean {
    const { job } = this;
    const host = this.hostOf(hosts);
    const now = host?.journal.live.get(job.id)?.state;
    if (now === undefined) return job.isFinal || host !== undefined;
    return STATES.indexOf(now as State) >= STATES.indexOf(state);
  }

  cancel(simulator: GitlabSimulator): void {
    if (this.job.isFinal) return;
    this.canceled = true;
    simulator.cancel(this.job.id);
  }

  /** Whether any host has read its 201. */
  isReceived(hosts: readonly ChaosHost[], simulator: GitlabSimulator): boolean {
    const { id } = this.job;
    return (
      hosts.some((host) => host.journal.received.has(id)) ||
      simulator.requests.some((request) => request.jobId === id)
    );
  }

  answerMayBeLost(windows: readonly Window[]): boolean {
    const { startedAt, manager } = this.job;
    return windows.some(
      ({ host, from, to }) =>
        startedAt !== null &&
        startedAt >= from &&
        startedAt <= to &&
        (host === null || host.systemId === null || host.systemId === manager?.systemId),
    );
  }

  facts(run: {
    readonly hosts: readonly ChaosHost[];
    readonly simulator: GitlabSimulator;
    readonly witness: Witness;
    readonly windows: readonly Window[];
    readonly mayBeginUnheard: boolean;
  }): JobFacts {
    const { job, plan, canceled, disturbances } = this;
    const verdict = job.verdict();
    const seen = run.witness.of(job.id);
    return {
      id: job.id,
      name: job.name,
      expected: plan.expected,
      status: job.status,
      failureReason: job.failureReason,
      handedOut: verdict.handedOut,
      ended: verdict.ended,
      finals: finalsOf(job.id, run.simulator),
      anomalies: verdict.anomalies,
      log: job.log,
      logIntact: verdict.logIntact,
      received: this.isReceived(run.hosts, run.simulator),
      answerMayBeLost: this.answerMayBeLost(run.windows),
      began: seen.began,
      mayBeginUnheard: run.mayBeginUnheard,
      scriptEnded: seen.ended,
      canceled,
      disturbances,
    };
  }
}

function finalsOf(jobId: number, simulator: GitlabSimulator): FinalUpdate[] {
  return simulator.requests
    .filter((request) => request.route === 'job-update' && request.jobId === jobId)
    .flatMap(({ body, status }) => {
      const state = stateIn(body);
      return state === 'success' || state === 'failed' ? [{ state, status }] : [];
    });
}

function stateIn(body: Buffer): unknown {
  try {
    return (JSON.parse(body.toString()) as { state?: unknown }).state;
  } catch {
    // Cut off on its way: GitLab has not read it either.
    return undefined;
  }
}
