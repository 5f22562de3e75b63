/** Every delay of the plugin in one frozen value; tests shorten them under `gitlab.timings`. */

/** All in ms. */
export interface Timings {
  /** Longest wait for a connection to GitLab to stand. */
  readonly connectTimeoutMs: number;
  /** Longest wait for the answer to `jobs/request`, which may hold a job. */
  readonly claimTimeoutMs: number;
  /** Longest wait for the answer to any other small call of ours. */
  readonly callTimeoutMs: number;
  /** Longest wait for GitLab's answer after an upload's last byte: the runner itself waits 10 min. */
  readonly forwardTimeoutMs: number;
  /** Longest wait for GitLab's answer to a guest's `PUT` or `PATCH`. */
  readonly updateTimeoutMs: number;
  /** Longest wait for a download to begin: GitLab answers at once, object storage within seconds. */
  readonly downloadTimeoutMs: number;
  /** Longest wait for GitLab to take or send the next byte, where the guest is ready for it. */
  readonly stallMs: number;
  /**
   * Longest time that a guest's call waits for a GitLab that is out. Its runner waits 10 min for an
   * answer; a minute is left for whatever lies between.
   */
  readonly holdLimitMs: number;
  /** Longest time that a guest's upload may take in all, waits included: the runner gives it 60 min. */
  readonly uploadLimitMs: number;
  /** First wait before a guest's call is repeated though GitLab is not out; doubled up to the cap. */
  readonly repeatMs: number;
  /** Longest wait between such repeats. */
  readonly repeatCapMs: number;
  /** First wait between probes of a GitLab that is out; doubled up to the cap. */
  readonly probeMs: number;
  /** Longest wait between probes: held calls go on so long after GitLab is back, at most. */
  readonly probeCapMs: number;
  /** Longest wait for the answer to a probe. */
  readonly probeTimeoutMs: number;
  /** Cap on a `Retry-After` that a probe or a guest's call is answered. */
  readonly retryAfterCapMs: number;
  /** First wait after a failed ask; doubled with each further one. */
  readonly backoffMs: number;
  /** Longest wait after failed asks, and cap on a `Retry-After`. */
  readonly backoffCapMs: number;
  /** Wait after 409, where another runner was faster. */
  readonly conflictDelayMs: number;
  /** Between asks of a runner whose token GitLab refuses. */
  readonly unhealthyIntervalMs: number;
  /** A runner that has not contacted GitLab for so long says that it is there. */
  readonly verifyAfterMs: number;
  /** Between keep-alives of a job whose guest does not speak for it yet. */
  readonly heartbeatMs: number;
  /** A running job's runner that is silent for so long gets our keep-alive beside it. */
  readonly silenceMs: number;
  /**
   * From boot until the guest's runner asks for its job. Longer than a host's own limit, 15 min, by which
   * it learns that a kept disk no longer comes up.
   */
  readonly askLimitMs: number;
  /** From the offered job until the runner's first own call for it. */
  readonly firstCallLimitMs: number;
  /** From the final state until the machine has ended by itself. */
  readonly finishGraceMs: number;
  /** What a job may take beyond its own timeout, for `after_script` and uploads. */
  readonly jobGraceMs: number;
  /** What a job that is being canceled may take to wind up, as long as its runner speaks. */
  readonly cancelLimitMs: number;
  /**
   * The runner of such a job is taken for frozen when it has been silent for so long. A quiet one speaks
   * at least every 4 min: four of the longest intervals that GitLab asks for.
   */
  readonly cancelSilenceMs: number;
  /** First wait after a final update of ours that GitLab did not take; doubled, up to the cap. */
  readonly deliveryBackoffMs: number;
  /** Longest wait between such updates. */
  readonly deliveryBackoffCapMs: number;
  /** How long we try, over restarts, to tell GitLab how a job ended. */
  readonly deliveryLimitMs: number;
  /** Between tries to write what the journal did not take: a full disk. */
  readonly journalRetryMs: number;
  /**
   * How long a warm machine's runner is kept waiting for a job before it is told that there is none, and asks again 3 s
   * later: it gives up after 10 min, and what lies between may do so earlier.
   */
  readonly warmHoldMs: number;
  /** A warm machine whose runner has not asked for so long is of no use. */
  readonly warmSilenceMs: number;
  /** A warm machine is replaced when it is so old, or a little sooner. */
  readonly warmAgeMs: number;
  /** Between looks for what nobody tells us of warm machines: that their image has changed, for instance. */
  readonly warmLookMs: number;
  /** A job that got a warm machine begins before the next one boots: on a small host that would cost it more than it gains. */
  readonly warmRefillMs: number;
  /** First rest after a warm machine that failed or gave up its room; doubled up to the cap. */
  readonly warmRestMs: number;
  /** Longest such rest. */
  readonly warmRestCapMs: number;
  /** A runner that GitLab has refused or not answered for so long has no warm machines. */
  readonly warmUnhealthyMs: number;
  /** For GitLab to take the ends of all jobs when the host ends them; the rest stays in the journal. */
  readonly stopLimitMs: number;
}

const SECOND = 1000;
const MINUTE = 60 * SECOND;

export const DEFAULT_TIMINGS: Timings = Object.freeze({
  connectTimeoutMs: 30 * SECOND,
  claimTimeoutMs: 2 * MINUTE,
  callTimeoutMs: 30 * SECOND,
  forwardTimeoutMs: 9 * MINUTE,
  updateTimeoutMs: 30 * SECOND,
  downloadTimeoutMs: MINUTE,
  stallMs: 2 * MINUTE,
  holdLimitMs: 9 * MINUTE,
  uploadLimitMs: 58 * MINUTE,
  repeatMs: SECOND,
  repeatCapMs: 30 * SECOND,
  probeMs: SECOND,
  probeCapMs: 5 * SECOND,
  probeTimeoutMs: 10 * SECOND,
  retryAfterCapMs: MINUTE,
  backoffMs: 3 * SECOND,
  backoffCapMs: MINUTE,
  conflictDelayMs: SECOND,
  unhealthyIntervalMs: 5 * MINUTE,
  verifyAfterMs: 15 * MINUTE,
  heartbeatMs: 10 * SECOND,
  silenceMs: 90 * SECOND,
  askLimitMs: 20 * MINUTE,
  firstCallLimitMs: 10 * MINUTE,
  finishGraceMs: 30 * SECOND,
  jobGraceMs: 10 * MINUTE,
  cancelLimitMs: 30 * MINUTE,
  cancelSilenceMs: 5 * MINUTE,
  deliveryBackoffMs: SECOND,
  deliveryBackoffCapMs: MINUTE,
  deliveryLimitMs: 24 * 60 * MINUTE,
  journalRetryMs: 5 * SECOND,
  warmHoldMs: 4 * MINUTE,
  warmSilenceMs: MINUTE,
  warmAgeMs: 60 * MINUTE,
  warmLookMs: 30 * SECOND,
  warmRefillMs: 2 * SECOND,
  warmRestMs: 15 * SECOND,
  warmRestCapMs: 15 * MINUTE,
  warmUnhealthyMs: 10 * MINUTE,
  stopLimitMs: 30 * SECOND,
});
