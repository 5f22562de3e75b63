/** What warm machines need of the plugin. */

import type { RunnerConfig, Timings } from '../config/index.ts';
import type { BootSpec, Logger, VmPool } from '../contract/index.ts';
import type { JobFacts } from '../gitlab/index.ts';
import type { Checkpoint } from '../leases/index.ts';
import type { Clock } from '../lib/clock.ts';
import type { Randomness } from '../lib/random.ts';
import type { WarmFacts } from './metadata.ts';
import type { WarmCause } from './warm-machine.ts';

/** How many warm machines a runner is to have now. */
export interface Wish {
  readonly runner: RunnerConfig;
  readonly count: number;
}

export interface Identity {
  readonly runnerName: string;
  readonly vmToken: string;
}

export interface WarmServices extends Pick<Randomness, 'random'> {
  readonly clock: Clock;
  readonly timings: Timings;
  readonly pool: Pick<VmPool, 'reserve'>;
  readonly log: Logger;
  readonly checkpoint: Checkpoint;
  /** Of every configured runner. */
  wishes(): readonly Wish[];
  /** Why no machine is to be begun at the moment, whatever is wished; null: none. */
  readonly problem: string | null;
  newIdentity(runner: string): Promise<Identity>;
  /** With what a machine of that runner would be booted now, and from where it would be told to clone. */
  settings(runner: RunnerConfig): Pick<WarmFacts, 'settings' | 'cloneUrl'>;
  bootSpec(runner: RunnerConfig, identity: Identity, facts: WarmFacts): BootSpec;
  /** From where that job is to be cloned. */
  cloneUrlOf(job: JobFacts): string;
  /** A VM token opens nothing any more. */
  closed(vmToken: string): void;
  changed(): void;
  /** A runner has one warm machine less. */
  ended(runner: string, cause: WarmCause): void;
}
