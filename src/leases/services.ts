/** What a lease needs of the plugin. */

import type { Timings } from '../config/index.ts';
import type { BootSpec, Logger, VmPool } from '../contract/index.ts';
import type { GitlabClient } from '../gitlab/index.ts';
import type { Clock } from '../lib/clock.ts';
import type { Checkpoint } from './checkpoints.ts';
import type { JournalWriter } from './journal-writer.ts';
import type { Lease } from './lease.ts';

export interface LeaseServices {
  readonly clock: Clock;
  readonly gitlab: Pick<GitlabClient, 'updateJob' | 'repeatUpdate' | 'appendTrace'>;
  readonly journal: Pick<JournalWriter, 'put' | 'remove' | 'setAside'>;
  readonly pool: Pick<VmPool, 'reserve'>;
  readonly timings: Timings;
  readonly log: Logger;
  readonly consoleTail: boolean;
  /** Where tests stop or kill. */
  readonly checkpoint: Checkpoint;
  /** A fresh identity for a job's next machine. */
  newIdentity(runner: string): Promise<{ readonly runnerName: string; readonly vmToken: string }>;
  /** What to boot for a lease. */
  bootSpec(lease: Lease): BootSpec;
  /** Whether the job's disk may become the machine image, should the job ask for that. */
  mayPersist(lease: Lease): boolean;
  /** The machine type of a configured runner, for a second boot. */
  machineTypeOf(runner: string): string | undefined;
  /** Its state, identity or row has changed. */
  changed(lease: Lease): void;
  /** It has ended, and its journal entry is gone. */
  ended(lease: Lease): void;
}
