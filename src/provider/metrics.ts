/** What the plugin counts; the host exposes it as `forrest_gitlab_…`. */

import type { Metrics } from '../contract/index.ts';
import type { Lease } from '../leases/index.ts';
import type { ForwardedCall } from '../proxy/index.ts';

export interface ProviderMetrics {
  asked(runner: string, answer: string): void;
  expiry(runner: string, expiresAt: Date | null): void;
  webhook(result: string): void;
  forwarded(call: ForwardedCall): void;
  ended(lease: Lease): void;
  live(count: number): void;
  held(count: number): void;
  out(since: number | null): void;
}

export function createProviderMetrics(metrics: Metrics): ProviderMetrics {
  const asks = metrics.counter({
    name: 'job_requests_total',
    help: 'Requests for a job, by runner and answer.',
    labelNames: ['runner', 'answer'],
  });
  const webhooks = metrics.counter({
    name: 'webhooks_total',
    help: 'Events that GitLab delivered, by what became of them.',
    labelNames: ['result'],
  });
  const expiry = metrics.gauge({
    name: 'runner_token_expires_timestamp_seconds',
    help: 'When the runner token expires; absent where it never does.',
    labelNames: ['runner'],
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
    help: 'How long a guest call took from its headers to the end of its answer.',
    labelNames: ['route'],
    buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600],
  });
  const heldSeconds = metrics.histogram({
    name: 'proxied_call_held_seconds',
    help: 'How long a guest call waited for a GitLab that did not answer; only those that did.',
    labelNames: ['route'],
    buckets: [0.1, 1, 10, 60, 300, 600],
  });
  const firstByte = metrics.histogram({
    name: 'proxied_call_first_byte_seconds',
    help: 'From sending a guest call to the first byte of the answer.',
    labelNames: ['route'],
    buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600],
  });
  const repeats = metrics.counter({
    name: 'proxied_call_repeats_total',
    help: 'How often guest calls were sent to GitLab again.',
    labelNames: ['route'],
  });
  const held = metrics.gauge({
    name: 'proxied_calls_held',
    help: 'Guest calls that wait for GitLab to answer again.',
  });
  const out = metrics.gauge({
    name: 'gitlab_out_since_timestamp_seconds',
    help: 'Since when GitLab does not answer; 0 while it does.',
  });
  out.set(0);
  const ended = metrics.counter({
    name: 'jobs_ended_total',
    help: 'Ended jobs, by runner, outcome, and what ended them otherwise than their own runner or a person.',
    labelNames: ['runner', 'outcome', 'cause'],
  });
  const live = metrics.gauge({
    name: 'jobs_live',
    help: 'Jobs that are claimed and have not ended.',
  });
  return {
    asked: (runner, answer) => asks.add(1, { runner, answer }),
    expiry: (runner, expiresAt) => {
      if (expiresAt !== null) expiry.set(expiresAt.getTime() / 1000, { runner });
    },
    webhook: (result) => webhooks.add(1, { result }),
    forwarded(call) {
      calls.add(1, { route: call.route, status: String(call.status) });
      bytes.add(call.bytesUp, { route: call.route, direction: 'up' });
      bytes.add(call.bytesDown, { route: call.route, direction: 'down' });
      seconds.observe(call.durationMs / 1000, { route: call.route });
      if (call.heldMs > 0) heldSeconds.observe(call.heldMs / 1000, { route: call.route });
      if (call.firstByteMs !== null)
        firstByte.observe(call.firstByteMs / 1000, { route: call.route });
      if (call.repeats > 0) repeats.add(call.repeats, { route: call.route });
    },
    ended: (lease) =>
      ended.add(1, {
        runner: lease.runner,
        outcome: lease.row().outcome ?? 'unknown',
        cause: lease.cause ?? 'none',
      }),
    live: (count) => live.set(count),
    held: (count) => held.set(count),
    out: (since) => out.set((since ?? 0) / 1000),
  };
}
