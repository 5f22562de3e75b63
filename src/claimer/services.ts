/** What a claimer needs of the plugin. */

import type { GitlabConfig, RunnerConfig } from '../config/index.ts';
import type { Logger, RunnerRow, VmPool } from '../contract/index.ts';
import type { GitlabClient, RequestJobOutcome, RunnerInfo } from '../gitlab/index.ts';
import type { Checkpoint, Leases, ReadyMachine } from '../leases/index.ts';
import type { Clock } from '../lib/clock.ts';
import type { Backoff } from './backoff.ts';
import type { RunnerToken } from './runner-token.ts';

export interface ClaimerServices {
  readonly clock: Clock;
  readonly gitlab: Pick<GitlabClient, 'requestJob' | 'verifyRunner'>;
  readonly leases: Pick<Leases, 'claim' | 'countOf' | 'refuse'> & {
    /** Why no new job can be taken care of at the moment; null: one can. */
    readonly problem: string | null;
  };
  readonly pool: Pick<VmPool, 'reserve' | 'expectJob'>;
  readonly warm: {
    /** A machine that waits for a job of the runner; null: there is none. */
    pin(runner: string, runnerToken: string): ReadyMachine | null;
    row(runner: string): RunnerRow['warm'];
    /** A runner may have some again. */
    look(): void;
  };
  readonly checkpoint: Checkpoint;
  readonly backoff: Backoff;
  readonly log: Logger;
  /** This host's, the same for each of its runners. */
  readonly systemId: string;
  /** What to advertise for a runner. */
  info(runner: RunnerConfig): RunnerInfo;
  changed(): void;
  /** One ask was answered, or was not. */
  asked(runner: string, outcome: RequestJobOutcome): void;
  /** The token's expiry, as GitLab tells it; null: never. */
  expiry(runner: string, expiresAt: Date | null): void;
}

/** What it goes by; a reload changes it. */
export interface ClaimerSettings {
  runner: RunnerConfig;
  config: GitlabConfig;
  token: RunnerToken;
}
