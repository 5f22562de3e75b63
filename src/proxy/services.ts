/** What the proxy needs of the plugin. */

import type { Timings } from '../config/index.ts';
import type { Logger } from '../contract/index.ts';
import type { Features } from '../gitlab/index.ts';
import type { Leases } from '../leases/index.ts';
import type { Clock } from '../lib/clock.ts';
import type { GitlabHealth, Upstream } from '../upstream/index.ts';
import type { WarmMachine } from '../warm/index.ts';
import type { Held } from './held.ts';
import type { Limits } from './limits.ts';

/** One call that went to GitLab, for log and metrics. Holds no token. */
export interface ForwardedCall {
  readonly route: string;
  readonly runner: string;
  readonly jobId: number;
  /** What the guest was answered; 0 where it had gone before. */
  readonly status: number;
  readonly bytesUp: number;
  readonly bytesDown: number;
  /** From its headers to the end of its answer. */
  readonly durationMs: number;
  /** Of that: waiting for a GitLab that was out. */
  readonly heldMs: number;
  /** From the last try to GitLab's first byte; null where none came. */
  readonly firstByteMs: number | null;
  /** How often it was sent again from here. */
  readonly repeats: number;
  readonly requestId: string | undefined;
}

/** A machine whose runner waits for a job. */
export interface Waiting extends Pick<WarmMachine, 'isReady' | 'hold'> {
  readonly facts: Pick<WarmMachine['facts'], 'runner'>;
}

export interface ProxyServices {
  readonly leases: Pick<Leases, 'byVmToken' | 'learnFeatures'>;
  readonly warm: {
    /** The machine without a job that a VM token belongs to. */
    byVmToken(token: string): Waiting | undefined;
  };
  readonly upstream: Upstream;
  readonly timings: Timings;
  /** In place of the defaults; for tests. */
  readonly limits?: Partial<Limits> | undefined;
  readonly log: Logger;
  readonly clock: Clock;
  readonly health: Pick<
    GitlabHealth,
    'isUp' | 'isOpen' | 'outSince' | 'outages' | 'answered' | 'suspect' | 'enter'
  >;
  readonly held: Held;
  /** Monotonic milliseconds. */
  monotonic(): number;
  /** Of what a guest sent as its features, the part that we understand. */
  knownFeatures(sent: unknown): Features | undefined;
  /** GitLab cannot be reached through the upstream: the error, as one line. */
  describeFailure(error: unknown): string;
  forwarded(call: ForwardedCall): void;
  /** A job's own runner has failed it, for a reason that may be any text. */
  failed(runner: string, reason: string): void;
}
