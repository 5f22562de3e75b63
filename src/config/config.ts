/** The configuration as the rest of the plugin sees it: complete, typed, frozen. */

import type { MachineType, Secret } from '../contract/index.ts';
import type { Timings } from './timings.ts';

/** Whether docker pulls an image before a job, and whether it may do without. */
export type PullPolicy = 'always' | 'if-not-present' | 'never';

export type Executor =
  | { readonly name: 'shell' }
  | {
      readonly name: 'docker';
      /** For jobs that name none. */
      readonly image: string;
      /** The runner's helper image; empty: the runner's own choice. */
      readonly helperImage: string;
      readonly privileged: boolean;
      /** At least one. The next is tried where one fails; a job may choose any of them. */
      readonly pullPolicies: readonly PullPolicy[];
      /** `https://…`; empty: none. */
      readonly registryMirror: string;
    };

/** One runner of `gitlab.runners`. */
export interface RunnerConfig {
  /** Unique in the section; shown to people and used in machine names. */
  readonly name: string;
  /** Absolute path of the file that holds its authentication token. */
  readonly tokenFile: string;
  readonly machineType: MachineType;
  readonly executor: Executor;
  /** The most jobs at a time. */
  readonly limit: number;
  /** Machines that are booted before there is a job for them; together with the jobs at most `limit`. */
  readonly warm: number;
  /** Log size in KiB at which the guest's runner cuts the log. */
  readonly outputLimitKib: number;
  /**
   * Whose jobs may ask for their machine's disk to become the machine image: those on protected refs,
   * all, none.
   */
  readonly persist: 'protected' | 'always' | 'never';
}

/** The `gitlab:` section. */
export interface GitlabConfig {
  /** GitLab's address, without a trailing slash. */
  readonly url: string;
  /** `host:port` of the listener for guests. */
  readonly listen: string;
  /** CA certificates in PEM that are trusted besides the system's, also by guests; null: none. */
  readonly ca: string | null;
  /** Where guests clone from, instead of what each job says; null: as the job says. */
  readonly cloneUrl: string | null;
  /** What GitLab's webhooks show that they are GitLab's; null: there are none. */
  readonly webhookSecret: Secret | null;
  /** Between asks of a runner for which there was no job, in ms. */
  readonly checkIntervalMs: number;
  /** Whether the end of a machine's console goes to the log of a job that died with it. */
  readonly consoleTail: boolean;
  readonly runners: readonly RunnerConfig[];
  readonly timings: Timings;
}
