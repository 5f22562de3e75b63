/**
 * What the plugin measures. Where gitlab-runner has a metric of the same meaning, its name and labels, so
 * that boards and alerts made for it go on working; the rest is `forrest_gitlab_…`.
 */

import type { RunnerConfig } from '../config/index.ts';
import type { Labels, Metrics, RunnerRow, Sample } from '../contract/index.ts';
import type { ObservedCall, RequestJobOutcome } from '../gitlab/index.ts';
import type { Journal, Lease } from '../leases/index.ts';
import type { ForwardedCall } from '../proxy/index.ts';
import { packageVersion } from './version.ts';

/** What is read when somebody asks. */
export interface Measured {
  readonly systemId: () => string;
  readonly runners: () => readonly RunnerConfig[];
  readonly leases: () => readonly Lease[];
  readonly warm: (runner: string) => readonly { readonly isReady: boolean }[];
  readonly expiries: () => readonly Pick<RunnerRow, 'name' | 'tokenExpiresAt'>[];
}

export interface ProviderMetrics {
  asked(runner: string, outcome: RequestJobOutcome): void;
  /** An event that GitLab delivered, by what became of it. */
  webhook(result: string): void;
  /** A call of our own. */
  called(runner: string, call: ObservedCall): void;
  /** A call of a guest that went to GitLab. */
  forwarded(call: ForwardedCall): void;
  /** A guest's runner failed its job, with the reason that it gave. */
  failed(runner: string, reason: string): void;
  ended(lease: Lease): void;
  /** A runner has one warm machine less. */
  warmEnded(runner: string, cause: string): void;
  /** How many calls wait for GitLab. */
  held(count: number): void;
  /** Since when GitLab is out, wall clock in ms; null: it answers. */
  out(since: number | null): void;
  recovered(jobs: number): void;
  /** The same journal, measured. */
  measure(journal: Journal): Journal;
  /** A line went to the log. */
  logged(level: 'warning' | 'error'): void;
}

/** As gitlab-runner has them. */
const API_BUCKETS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const DURATION_BUCKETS = [30, 60, 300, 600, 1800, 3600, 7200, 10_800, 18_000, 36_000];
const QUEUE_BUCKETS = [1, 3, 10, 30, 60, 120, 300, 900, 1800, 3600];

const PROXY_BUCKETS = [0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600];
const DISK_BUCKETS = [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10];

/** What the official runner gives; a guest may send anything. */
const FAILURE_REASONS = new Set([
  'script_failure',
  'runner_system_failure',
  'job_execution_timeout',
  'image_pull_failure',
  'unknown_failure',
  'runner_configuration_error',
  'job_canceled',
]);

/** gitlab-runner's names for the calls of guests that it makes itself. */
const ENDPOINTS: Readonly<Record<string, string>> = { update: 'update_job', trace: 'patch_trace' };

export function createProviderMetrics(
  metrics: Metrics,
  measured: Measured,
  monotonic: () => number,
): ProviderMetrics {
  const of = (runner: string): Labels => ({ runner, system_id: measured.systemId() });
  observe(metrics, measured, of);
  const statuses = metrics.counter({
    wellKnown: true,
    name: 'gitlab_runner_api_request_statuses_total',
    help: "Calls of GitLab's API, the guests' included, by runner, endpoint and status.",
    labelNames: ['runner', 'system_id', 'endpoint', 'status'],
  });
  const durations = metrics.histogram({
    wellKnown: true,
    name: 'gitlab_runner_api_request_duration_seconds',
    help: "How long calls of GitLab's API took, the guests' included.",
    labelNames: ['runner', 'system_id', 'endpoint'],
    buckets: API_BUCKETS,
  });
  const jobs = metrics.counter({
    wellKnown: true,
    name: 'gitlab_runner_jobs_total',
    help: 'Jobs that were claimed.',
    labelNames: ['runner', 'system_id'],
  });
  const failures = metrics.counter({
    wellKnown: true,
    name: 'gitlab_runner_failed_jobs_total',
    help: 'Jobs that failed, by reason.',
    labelNames: ['runner', 'failure_reason'],
  });
  const jobSeconds = metrics.histogram({
    wellKnown: true,
    name: 'gitlab_runner_job_duration_seconds',
    help: 'How long jobs took, from the claim to the final state.',
    labelNames: ['runner', 'system_id'],
    buckets: DURATION_BUCKETS,
  });
  const queued = metrics.histogram({
    wellKnown: true,
    name: 'gitlab_runner_job_queue_duration_seconds',
    help: 'How long jobs had waited in GitLab when they were claimed.',
    labelNames: ['runner', 'system_id', 'project_jobs_running'],
    buckets: QUEUE_BUCKETS,
  });
  const errors = metrics.counter({
    wellKnown: true,
    name: 'gitlab_runner_errors_total',
    help: 'Warnings and errors in the log.',
    labelNames: ['level'],
  });
  const asks = metrics.counter({
    name: 'job_requests_total',
    help: 'Requests for a job, by answer: job, none, conflict, forbidden, broken, retry (no answer, or 5xx).',
    labelNames: ['runner', 'answer'],
  });
  const webhooks = metrics.counter({
    name: 'webhooks_total',
    help: 'Events that GitLab delivered, by what became of them.',
    labelNames: ['result'],
  });
  const calls = metrics.counter({
    name: 'proxied_calls_total',
    help: 'Calls of guests that went to GitLab, by route and status; 0: the guest went away.',
    labelNames: ['route', 'status'],
  });
  const bytes = metrics.counter({
    name: 'proxied_bytes_total',
    help: 'Bytes of bodies that passed the proxy.',
    labelNames: ['route', 'direction'],
  });
  const seconds = metrics.histogram({
    name: 'proxied_call_seconds',
    help: 'How long a call of a guest took, from its headers to the end of its answer.',
    labelNames: ['route'],
    buckets: PROXY_BUCKETS,
  });
  const heldSeconds = metrics.histogram({
    name: 'proxied_call_held_seconds',
    help: 'How long a call of a guest waited for a GitLab that did not answer; only those that did.',
    labelNames: ['route'],
    buckets: [0.1, 1, 10, 60, 300, 600],
  });
  const firstByte = metrics.histogram({
    name: 'proxied_call_first_byte_seconds',
    help: 'From sending a call of a guest to the first byte of its answer.',
    labelNames: ['route'],
    buckets: PROXY_BUCKETS,
  });
  const repeats = metrics.counter({
    name: 'proxied_call_repeats_total',
    help: 'How often calls of guests were sent to GitLab again.',
    labelNames: ['route'],
  });
  const held = metrics.gauge({
    name: 'proxied_calls_held',
    help: 'Calls of guests that wait for GitLab to answer again.',
  });
  const out = metrics.gauge({
    name: 'gitlab_out_since_timestamp_seconds',
    help: 'Since when GitLab does not answer; 0 while it does.',
  });
  out.set(0);
  held.set(0);
  const ended = metrics.counter({
    name: 'jobs_ended_total',
    help: 'Ended jobs, by outcome, and by what ended them other than their own runner or a person.',
    labelNames: ['runner', 'outcome', 'cause'],
  });
  const warmEnded = metrics.counter({
    name: 'warm_machines_ended_total',
    help: 'Warm machines that are none any more, by why: bound (a job has it), yielded, retired, surplus, failed.',
    labelNames: ['runner', 'cause'],
  });
  const recovered = metrics.counter({
    name: 'recovered_jobs_total',
    help: 'Jobs that an earlier run of the host had left in the journal.',
  });
  const journalSeconds = metrics.histogram({
    name: 'journal_write_seconds',
    help: 'How long it took to make a step of a job durable.',
    buckets: DISK_BUCKETS,
  });
  const journalFailures = metrics.counter({
    name: 'journal_write_failures_total',
    help: 'Steps of jobs that could not be made durable: a crash would lose those jobs.',
  });
  // What has not happened yet is 0, not missing: a rate over it then has a beginning.
  for (const level of ['warning', 'error']) errors.add(0, { level });
  webhooks.add(0, { result: 'pending' });
  journalFailures.add(0);
  recovered.add(0);

  const timed = async (write: Promise<void>): Promise<void> => {
    const startedAt = monotonic();
    try {
      await write;
      journalSeconds.observe((monotonic() - startedAt) / 1000);
    } catch (error) {
      journalFailures.add();
      throw error;
    }
  };
  const observeCall = (runner: string, endpoint: string, status: number, ms: number): void => {
    statuses.add(1, { ...of(runner), endpoint, status: String(status) });
    durations.observe(ms / 1000, { ...of(runner), endpoint });
  };
  return {
    asked(runner, outcome) {
      asks.add(1, { runner, answer: outcome.kind });
      if (outcome.kind !== 'job') return;
      jobs.add(1, of(runner));
      const { seconds, projectJobsRunning } = outcome.queue;
      if (seconds === null) return;
      queued.observe(seconds, { ...of(runner), project_jobs_running: countOf(projectJobsRunning) });
    },
    webhook: (result) => webhooks.add(1, { result }),
    called(runner, { endpoint, answer, durationMs }) {
      // As gitlab-runner does: what was not answered has no status.
      if (answer !== null) observeCall(runner, endpoint, answer.status, durationMs);
    },
    forwarded(call) {
      const { runner, route, status, durationMs } = call;
      calls.add(1, { route, status: String(status) });
      bytes.add(call.bytesUp, { route, direction: 'up' });
      bytes.add(call.bytesDown, { route, direction: 'down' });
      seconds.observe(durationMs / 1000, { route });
      if (call.heldMs > 0) heldSeconds.observe(call.heldMs / 1000, { route });
      if (call.firstByteMs !== null) firstByte.observe(call.firstByteMs / 1000, { route });
      if (call.repeats > 0) repeats.add(call.repeats, { route });
      const endpoint = ENDPOINTS[route];
      if (endpoint !== undefined && status > 0) observeCall(runner, endpoint, status, durationMs);
    },
    failed(runner, reason) {
      const failure_reason = FAILURE_REASONS.has(reason) ? reason : 'unknown_failure';
      failures.add(1, { runner, failure_reason });
    },
    ended(lease) {
      const { outcome, stages } = lease.row();
      ended.add(1, {
        runner: lease.runner,
        outcome: outcome ?? 'unknown',
        cause: lease.cause ?? 'none',
      });
      if (outcome === 'system_failure') {
        const isTimeout = lease.cause === 'job-timeout';
        const failure_reason = isTimeout ? 'job_execution_timeout' : 'runner_system_failure';
        failures.add(1, { runner: lease.runner, failure_reason });
      }
      const at = (name: string) => stages.find((stage) => stage.name === name)?.at;
      const [claimed, finished] = [at('claimed'), at('finished')];
      if (claimed === undefined || finished === undefined) return;
      jobSeconds.observe(Math.max(0, finished - claimed) / 1000, of(lease.runner));
    },
    warmEnded: (runner, cause) => warmEnded.add(1, { runner, cause }),
    held: (count) => held.set(count),
    out: (since) => out.set((since ?? 0) / 1000),
    recovered: (count) => recovered.add(count),
    measure: (journal) => ({
      ...journal,
      put: (record) => timed(journal.put(record)),
      remove: (jobId) => timed(journal.remove(jobId)),
    }),
    logged: (level) => errors.add(1, { level }),
  };
}

/** What is read, not counted. */
function observe(metrics: Metrics, measured: Measured, of: (runner: string) => Labels): void {
  metrics.observedGauge(
    {
      wellKnown: true,
      name: 'gitlab_runner_jobs',
      help: 'Jobs that are claimed and have not ended, by state; `idle` where a runner has none.',
      labelNames: ['runner', 'system_id', 'state', 'stage', 'executor_stage'],
    },
    () => measured.runners().flatMap(({ name }) => jobsOf(name, measured.leases(), of(name))),
  );
  metrics.observedGauge(
    {
      wellKnown: true,
      name: 'gitlab_runner_limit',
      help: 'The most jobs of a runner at a time.',
      labelNames: ['runner', 'system_id'],
    },
    () => measured.runners().map(({ name, limit }) => ({ value: limit, labels: of(name) })),
  );
  metrics.observedGauge(
    {
      name: 'warm_machines',
      help: 'Machines that wait for a job: ready where their runner has asked for one, else booting.',
      labelNames: ['runner', 'state'],
    },
    () =>
      measured
        .runners()
        .filter(({ warm }) => warm > 0)
        .flatMap(({ name }) => warmOf(name, measured.warm(name))),
  );
  metrics.observedGauge(
    {
      wellKnown: true,
      name: 'gitlab_runner_version_info',
      help: 'Always 1; what runs here.',
      labelNames: ['name', 'version', 'os', 'architecture'],
    },
    () => [
      {
        value: 1,
        labels: {
          name: 'forrest-gitlab',
          version: packageVersion(),
          os: 'linux',
          architecture: measured.runners()[0]?.machineType.architecture ?? '',
        },
      },
    ],
  );
  metrics.observedGauge(
    {
      name: 'runner_token_expires_timestamp_seconds',
      help: 'When the runner token expires; absent where it never does, or is not known yet.',
      labelNames: ['runner'],
    },
    () =>
      measured
        .expiries()
        .flatMap(({ name, tokenExpiresAt: at }) =>
          at == null ? [] : [{ value: at / 1000, labels: { runner: name } }],
        ),
  );
  metrics.observedGauge(
    { name: 'journal_entries', help: 'Jobs in the journal: those that a crash would not lose.' },
    () => [{ value: measured.leases().length }],
  );
}

function warmOf(runner: string, machines: readonly { readonly isReady: boolean }[]): Sample[] {
  const ready = machines.filter(({ isReady }) => isReady).length;
  return [
    { value: ready, labels: { runner, state: 'ready' } },
    { value: machines.length - ready, labels: { runner, state: 'booting' } },
  ];
}

function jobsOf(runner: string, leases: readonly Lease[], labels: Labels): Sample[] {
  const counts = new Map<string, { value: number; labels: Labels }>();
  for (const lease of leases.filter((one) => one.runner === runner)) {
    const state = stateOf(lease);
    const key = `${state} ${lease.state.name}`;
    const known = counts.get(key) ?? {
      value: 0,
      labels: { ...labels, state, stage: lease.state.name, executor_stage: '' },
    };
    counts.set(key, { ...known, value: known.value + 1 });
  }
  const idle = { ...labels, state: 'idle', stage: '', executor_stage: '' };
  return counts.size === 0 ? [{ value: 0, labels: idle }] : [...counts.values()];
}

/** By gitlab-runner's names. */
function stateOf(lease: Lease): string {
  const { state } = lease;
  if (state.name === 'running') return 'running';
  if (state.name !== 'finishing' && state.name !== 'ended') return 'pending';
  return state.outcome === 'system_failure' ? 'failed' : state.outcome;
}

/** GitLab tells a number up to some limit, then `N+`, or `+Inf` where it does not count. */
function countOf(told: string | null): string {
  return told !== null && /^(\d{1,2}\+?|\+Inf)$/.test(told) ? told : '';
}
