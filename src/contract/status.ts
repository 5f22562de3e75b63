/** What a provider shows of itself: rows for the host's page, history and command line. */

/** A moment in a job's life, wall clock in ms since the epoch. */
export interface JobStage {
  /** `queued`, `claimed`, `booted`, `offered`, `running`, `finished`, `machine-gone`. */
  readonly name: string;
  readonly at: number;
}

/** How a job ended. `system_failure`: failed by the provider, with a reason. */
export type JobOutcome = 'success' | 'failed' | 'canceled' | 'system_failure';

/** One job, live or ended. Holds no secret. */
export interface JobRow {
  /** `gitlab`, `github`. */
  readonly forge: string;
  /** The forge's own id, as text. */
  readonly id: string;
  /** Full path of the project or repository. */
  readonly project: string;
  readonly name: string;
  readonly ref: string;
  /** The job's page at the forge, or null where it is not known. */
  readonly url: string | null;
  /** Name of the runner (of the configuration) that claimed it. */
  readonly runner: string;
  /** `runnerName` of its machine. */
  readonly machine: string;
  /** The provider's own name for where the job is: `claimed`, `booting`, `running`, … */
  readonly state: string;
  /** In the order in which they were reached. */
  readonly stages: readonly JobStage[];
  /** Bytes of log that the forge has acknowledged. */
  readonly logBytes: number;
  /** When the job last did something that the provider saw; wall clock, ms. */
  readonly lastActivityAt: number;
  /** Null while the job is live. */
  readonly outcome: JobOutcome | null;
  /** Why it ended as it did, in a sentence; null while live or where the outcome says it all. */
  readonly reason: string | null;
}

/** One configured runner. */
export interface RunnerRow {
  readonly forge: string;
  readonly name: string;
  readonly machineType: string;
  readonly health: 'ok' | 'unhealthy' | 'unknown';
  /** The forge's last answer in words, such as `204: no job`; null before the first. */
  readonly lastAnswer: string | null;
  /** Wall clock of that answer in ms; null before the first. */
  readonly lastAnswerAt: number | null;
  /** Wall clock of the next planned ask in ms; null where nothing is planned. */
  readonly nextAskAt: number | null;
  readonly limit: number;
  /** Jobs that count against the limit now. */
  readonly running: number;
  readonly paused: boolean;
  /** Why nothing is being claimed at this moment, in words; null while a request is under way. */
  readonly notClaiming: string | null;
  /** Machines that wait for a job: up already, and how many there are to be now; absent: it is to have none. */
  readonly warm?: { readonly ready: number; readonly wanted: number };
  /** When its token expires, wall clock in ms; null: never; absent: not known. */
  readonly tokenExpiresAt?: number | null;
}

/** How a provider is. A provider's trouble never makes the host itself unhealthy. */
export interface ProviderHealth {
  readonly status: 'ok' | 'degraded' | 'down';
  /** What is wrong and since when, in a sentence; null when all is well. */
  readonly message: string | null;
}

/** A snapshot of a provider; cheap and synchronous. */
export interface ProviderStatus {
  readonly health: ProviderHealth;
  /** Live jobs only: the host keeps the history. */
  readonly jobs: readonly JobRow[];
  readonly runners: readonly RunnerRow[];
}
