/** One configured runner's loop: hold room, ask GitLab for a job, hand what comes to the leases. */

import type { GitlabConfig, RunnerConfig } from '../config/index.ts';
import type { Logger, RunnerRow, VmPool } from '../contract/index.ts';
import type {
  GitlabClient,
  RequestJobOutcome,
  RunnerInfo,
  VerifyOutcome,
} from '../gitlab/index.ts';
import type { Checkpoint, Leases, Place, ReadyMachine } from '../leases/index.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import { describeError, errorCode } from '../lib/errors.ts';
import type { Backoff } from './backoff.ts';
import { EarlyAsks } from './early-asks.ts';
import { RunnerToken } from './runner-token.ts';
import { Wait } from './wait.ts';

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

/** A token is renewed now and then, and its expiry with it. */
const EXPIRY_EVERY_MS = 24 * 3_600_000;

/** For the owner of a job. */
const UNREADABLE =
  "what GitLab sent of this job to the runner's host was cut off, or changed, on its way";

/** What keeps a claimer from asking right now. */
type Standing = { readonly reason: string | null; readonly nextAskAt: number | null };

export class Claimer {
  readonly #services: ClaimerServices;
  #token: RunnerToken;
  readonly #wait: Wait;
  readonly #earlyAsks: EarlyAsks;
  readonly #stopping = new AbortController();
  #runner: RunnerConfig;
  #config: GitlabConfig;
  #paused: boolean;
  #standing: Standing = { reason: 'starting', nextAskAt: null };
  #health: RunnerRow['health'] = 'unknown';
  /** Monotonic time of the last good answer, or of the beginning. */
  #healthyAt: number;
  #lastAnswer: string | null = null;
  #lastAnswerAt: number | null = null;
  /** Monotonic time of the last contact, so that GitLab keeps seeing a runner that has no room. */
  #contactAt: number;
  #refusedSince: number | null = null;
  /** Wall clock, ms; null: never; undefined: not known yet. */
  #tokenExpiresAt: number | null | undefined;
  /** Monotonic time at which GitLab was asked for it last. */
  #expiryAskedAt = Number.NEGATIVE_INFINITY;
  #loop: Promise<void> | null = null;
  /** Jobs that are being journaled and given a machine. */
  readonly #claims = new Set<Promise<void>>();
  /** A sign of life to GitLab that is under way while this runner waits for room. */
  #visible: Promise<void> = Promise.resolve();
  /** Where this runner is when an event tells of a job: anywhere else it is not free to ask. */
  #place: 'resting' | 'waiting for room' | 'asking' | null = null;
  /** An event has told of a job since the last ask began. */
  #expectsJob = false;
  /** Ends a wait for room, where something else has become more urgent. */
  #interruptRoom: AbortController | null = null;

  constructor(
    runner: RunnerConfig,
    config: GitlabConfig,
    paused: boolean,
    services: ClaimerServices,
  ) {
    this.#runner = runner;
    this.#config = config;
    this.#paused = paused;
    this.#services = services;
    this.#token = new RunnerToken(runner.tokenFile);
    this.#wait = new Wait(services.clock);
    this.#earlyAsks = new EarlyAsks(services.clock);
    this.#contactAt = services.clock.monotonic();
    this.#healthyAt = this.#contactAt;
  }

  get name(): string {
    return this.#runner.name;
  }

  /** Those of the asks from now on. */
  get settings(): RunnerConfig {
    return this.#runner;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /**
   * Asks no more. Resolves when the request that may be under way has been answered and what it
   * brought is journaled: such a request is never aborted.
   */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#interruptRoom?.abort();
    this.#wait.wake();
    await this.#loop;
    await Promise.all(this.#claims);
    await this.#visible;
  }

  /** Settings for the asks from now on. */
  reconfigure(runner: RunnerConfig, config: GitlabConfig): void {
    const before = this.#runner;
    this.#runner = runner;
    this.#config = config;
    // It waits for room of the one that it had.
    if (runner.machineType.name !== before.machineType.name) this.#interruptRoom?.abort();
    if (runner.tokenFile !== before.tokenFile) {
      this.#token = new RunnerToken(runner.tokenFile);
      this.#wait.wake();
    }
    this.wake();
  }

  pause(paused: boolean): void {
    this.#paused = paused;
    if (paused) this.#interruptRoom?.abort();
    this.wake();
  }

  /** Whether machines may wait for its jobs: it takes some, or will soon. */
  get keepsWarm(): boolean {
    const { warmUnhealthyMs } = this.#config.timings;
    const unhealthyMs = this.#services.clock.monotonic() - this.#healthyAt;
    const isLost = this.#health === 'unhealthy' && unhealthyMs > warmUnhealthyMs;
    return !this.#paused && !this.#stopping.signal.aborted && !isLost;
  }

  /** Something has changed that may allow an ask: a job ended, a pause was lifted. */
  wake(): void {
    if (this.#isHeldBack()) this.#wait.wake();
  }

  /**
   * GitLab has said that a job waits: asks now, or right after the ask that is under way, where nothing but
   * the check interval keeps this runner from it. Call it freely: it is limited in rate.
   */
  expectJob(): void {
    if (this.#place === null || this.#expectsJob || !this.#earlyAsks.take()) return;
    this.#expectsJob = true;
    this.#services.pool.expectJob(this.#runner.machineType.name);
    if (this.#place === 'resting') this.#wait.wake();
  }

  /** A job of this runner has ended. Often another follows, of the next stage: asks now. No storm of these is possible. */
  jobEnded(): void {
    this.wake();
    if (this.#place === 'resting') this.#wait.wake();
  }

  row(): RunnerRow {
    const warm = this.#services.warm.row(this.#runner.name);
    return {
      forge: 'gitlab',
      name: this.#runner.name,
      machineType: this.#runner.machineType.name,
      health: this.#health,
      lastAnswer: this.#lastAnswer,
      lastAnswerAt: this.#lastAnswerAt,
      nextAskAt: this.#standing.nextAskAt === null ? null : Math.round(this.#standing.nextAskAt),
      limit: this.#runner.limit,
      running: this.#services.leases.countOf(this.#runner.name),
      paused: this.#paused,
      notClaiming: this.#standing.reason,
      ...(warm !== undefined && { warm }),
      ...(this.#tokenExpiresAt !== undefined && { tokenExpiresAt: this.#tokenExpiresAt }),
    };
  }

  async #run(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      try {
        await this.#turn();
      } catch (error) {
        // A fault here is ours; the runner goes on after a pause and says so.
        this.#services.log.error(`claiming for runner ${this.name} failed`, { error });
        await this.#pauseFor(
          this.#config.timings.backoffCapMs,
          `an error: ${describeError(error)}`,
        );
      }
    }
    this.#stand('stopped', null);
  }

  /** Whether only an event, not the clock, lets this runner ask again. */
  #isHeldBack(): boolean {
    return this.#standing.nextAskAt === null || this.#paused;
  }

  async #turn(): Promise<void> {
    const heldBack = this.#heldBack();
    if (heldBack !== null) {
      this.#stand(heldBack, null);
      await this.#stayVisible();
      return;
    }
    const outMs = this.#services.backoff.remaining();
    if (outMs > 0) {
      await this.#pauseFor(outMs, `GitLab is out: ${this.#lastAnswer ?? 'no answer yet'}`);
      return;
    }
    const token = await this.#token.read();
    if (!token.ok) {
      this.#refuse(token.reason);
      await this.#pauseFor(this.#config.timings.unhealthyIntervalMs, token.reason);
      return;
    }
    const place = (await this.#pin(token.token)) ?? (await this.#reserve());
    if (place === null) return;
    await this.#ask(token.token, place);
  }

  /** A warm machine is room that is there already. */
  async #pin(token: string): Promise<ReadyMachine | null> {
    const ready = this.#services.warm.pin(this.#runner.name, token);
    if (ready !== null) await this.#services.checkpoint('warm-pinned');
    return ready;
  }

  #heldBack(): string | null {
    if (this.#paused) return 'paused';
    const { problem } = this.#services.leases;
    if (problem !== null) return problem;
    const running = this.#services.leases.countOf(this.#runner.name);
    return running >= this.#runner.limit ? `limit ${this.#runner.limit} reached` : null;
  }

  async #reserve(): Promise<Place | null> {
    const { name, machineType } = this.#runner;
    const interrupt = new AbortController();
    this.#interruptRoom = interrupt;
    if (this.#stopping.signal.aborted) interrupt.abort();
    this.#place = 'waiting for room';
    this.#stand('waiting for room', null);
    const visible = this.#stayVisibleMeanwhile();
    try {
      return await this.#services.pool.reserve({
        machineType: machineType.name,
        firm: false,
        purpose: `runner ${name}: looking for a job`,
        intervalMs: this.#config.checkIntervalMs,
        signal: interrupt.signal,
        onWaiting: (reason) => this.#stand(reason, null),
      });
    } catch (error) {
      if (!interrupt.signal.aborted) await this.#onRefused(error);
      return null;
    } finally {
      visible.cancel();
      this.#interruptRoom = null;
      this.#place = null;
    }
  }

  /** While there is no room, GitLab must still see this runner; its request keeps its age. */
  #stayVisibleMeanwhile(): Timer {
    const { clock, log } = this.#services;
    let over = false;
    const arm = (): Timer =>
      clock.after(this.#untilInvisible(), () => {
        this.#visible = this.#verifyIfDue()
          .catch((error: unknown) => {
            log.error(`runner ${this.name} could not tell GitLab that it is there`, { error });
          })
          .then(() => {
            if (!over) timer = arm();
          });
      });
    let timer = arm();
    return {
      cancel() {
        over = true;
        timer.cancel();
      },
    };
  }

  async #onRefused(error: unknown): Promise<void> {
    const reason =
      errorCode(error) === 'draining' ? 'the host is draining' : `no room: ${describeError(error)}`;
    if (errorCode(error) === 'draining') this.#services.log.debug(`${this.name}: ${reason}`);
    else this.#services.log.warn(`runner ${this.name} gets no machine: ${describeError(error)}`);
    await this.#pauseFor(this.#config.timings.backoffCapMs, reason);
  }

  async #ask(token: string, place: Place): Promise<void> {
    const { gitlab, systemId, info, backoff } = this.#services;
    // While this one waited for room, it was stopped, or another has found GitLab out, or the disk full.
    const isStopped = this.#stopping.signal.aborted;
    if (isStopped || backoff.remaining() > 0 || this.#heldBack() !== null) {
      place.release('failed');
      return;
    }
    this.#stand(null, null);
    this.#place = 'asking';
    this.#expectsJob = false;
    let outcome: RequestJobOutcome;
    try {
      outcome = await gitlab.requestJob(token, systemId, info(this.#runner));
      if (outcome.kind === 'job') {
        place.makeFirm();
        this.#earlyAsks.giveBack();
        this.#answered(outcome, `job ${outcome.facts.id}`);
        this.#claim(outcome, place);
        return;
      }
    } catch (error) {
      place.release('failed');
      throw error;
    } finally {
      this.#place = null;
    }
    place.release(outcome.kind === 'retry' ? 'failed' : 'no-job');
    await this.#onNoJob(outcome);
  }

  /** Not waited for: of a burst, GitLab has the next job at once, and a boot takes its time. */
  #claim(job: Extract<RequestJobOutcome, { kind: 'job' }>, place: Place): void {
    const { leases, log } = this.#services;
    const claim = leases
      .claim(this.#runner.name, job, place)
      .then(() => undefined)
      .catch((error: unknown) => {
        place.release('failed');
        log.error(`runner ${this.name} could not take care of job ${job.facts.id}`, { error });
      })
      .finally(() => this.#claims.delete(claim));
    this.#claims.add(claim);
  }

  async #onNoJob(outcome: Exclude<RequestJobOutcome, { kind: 'job' }>): Promise<void> {
    const { timings, checkIntervalMs } = this.#config;
    const { backoff, log } = this.#services;
    switch (outcome.kind) {
      case 'none':
        this.#answered(outcome, '204: no job');
        await this.#learnExpiry();
        await this.#rest(checkIntervalMs, 'no job a moment ago');
        break;
      case 'conflict':
        this.#answered(outcome, '409: another runner was faster');
        await this.#rest(timings.conflictDelayMs, 'another runner was faster');
        break;
      case 'forbidden':
        await this.#onForbidden(outcome);
        break;
      case 'broken':
        await this.#endUnread(outcome);
        this.#record(outcome, outcome.reason);
        await this.#pauseFor(
          backoff.next(undefined),
          `the last answer was broken: ${outcome.reason}`,
        );
        break;
      case 'retry': {
        const delayMs = backoff.next(outcome.retryAfterMs);
        if (this.#health !== 'unhealthy') {
          log.warn(`GitLab did not answer runner ${this.name} as it should: ${outcome.reason}`);
        }
        this.#health = 'unhealthy';
        this.#record(outcome, outcome.reason);
        await this.#pauseFor(delayMs, `GitLab is out: ${outcome.reason}`);
        break;
      }
      default:
        outcome satisfies never;
    }
  }

  /** A job that came, and cannot be run. */
  async #endUnread({
    left,
    reason,
  }: Extract<RequestJobOutcome, { kind: 'broken' }>): Promise<void> {
    const { leases, log } = this.#services;
    const job = left === null ? 'a job' : `job ${left.id}`;
    const end =
      left === null ? 'nobody can end it, GitLab will after a while' : 'it is failed there';
    log.error(`GitLab assigned runner ${this.name} ${job} that cannot be read: ${end}`, {
      answer: reason,
    });
    if (left !== null) await leases.refuse(this.name, left, UNREADABLE);
  }

  async #onForbidden(outcome: Extract<RequestJobOutcome, { kind: 'forbidden' }>): Promise<void> {
    const { reason } = outcome;
    this.#services.asked(this.name, outcome);
    const token = await this.#token.read();
    if (token.ok && token.changed) {
      this.#services.log.info(`runner ${this.name} has a new token, and asks with it`);
      return;
    }
    this.#refuse(`GitLab refuses the runner token: ${reason}`);
    this.#lastAnswer = reason;
    this.#lastAnswerAt = this.#services.clock.now();
    await this.#pauseFor(this.#config.timings.unhealthyIntervalMs, this.#refusal(reason), true);
  }

  #refusal(reason: string): string {
    const since = new Date(this.#refusedSince ?? this.#services.clock.now());
    return `token refused since ${since.toISOString().slice(11, 16)} UTC (${reason})`;
  }

  #refuse(reason: string): void {
    if (this.#health !== 'unhealthy' || this.#refusedSince === null) {
      this.#services.log.error(
        `runner ${this.name} is unhealthy: ${reason}; its token file ${this.#runner.tokenFile} is read again when it changes`,
      );
    }
    this.#refusedSince ??= this.#services.clock.now();
    this.#health = 'unhealthy';
    this.#services.changed();
  }

  #answered(outcome: RequestJobOutcome, answer: string): void {
    if (this.#health === 'unhealthy')
      this.#services.log.info(`runner ${this.name} is healthy again`);
    this.#health = 'ok';
    this.#refusedSince = null;
    this.#services.backoff.reset();
    this.#contactAt = this.#services.clock.monotonic();
    this.#healthyAt = this.#contactAt;
    this.#record(outcome, answer);
  }

  #record(outcome: RequestJobOutcome, answer: string): void {
    this.#lastAnswer = answer;
    this.#lastAnswerAt = this.#services.clock.now();
    this.#services.asked(this.name, outcome);
    this.#services.changed();
  }

  #stand(reason: string | null, nextAskAt: number | null): void {
    this.#standing = { reason, nextAskAt };
    this.#services.changed();
  }

  /** Between two asks, where an event may end the wait. */
  async #rest(delayMs: number, reason: string): Promise<void> {
    if (this.#expectsJob) return;
    this.#place = 'resting';
    await this.#pauseFor(delayMs, reason);
    this.#place = null;
  }

  /** Waits for the clock; where `watchToken`, also for a changed token file. */
  async #pauseFor(delayMs: number, reason: string, watchToken = false): Promise<void> {
    if (this.#stopping.signal.aborted) return;
    const { clock } = this.#services;
    this.#stand(reason, clock.now() + delayMs);
    const until = clock.monotonic() + delayMs;
    const step = watchToken ? Math.min(delayMs, this.#config.checkIntervalMs) : delayMs;
    while (clock.monotonic() < until && !this.#stopping.signal.aborted) {
      const woken = await this.#wait.for(Math.min(step, until - clock.monotonic()));
      if (woken) return;
      if (!watchToken) continue;
      const token = await this.#token.read();
      if (token.ok && token.changed) return;
    }
  }

  /** Held back by a pause or a limit: until an event, or until GitLab must hear from us. */
  async #stayVisible(): Promise<void> {
    const woken = await this.#wait.for(this.#untilInvisible());
    if (!woken && !this.#stopping.signal.aborted) await this.#verifyIfDue();
  }

  #untilInvisible(): number {
    const silentMs = this.#services.clock.monotonic() - this.#contactAt;
    return Math.max(0, this.#config.timings.verifyAfterMs - silentMs);
  }

  async #verifyIfDue(): Promise<void> {
    if (this.#untilInvisible() <= 0) await this.#verify();
  }

  /** Nothing but `runners/verify` tells it, and a runner that is never idle needs none otherwise. */
  async #learnExpiry(): Promise<void> {
    const now = this.#services.clock.monotonic();
    if (now - this.#expiryAskedAt >= EXPIRY_EVERY_MS) await this.#verify();
  }

  async #verify(): Promise<void> {
    this.#expiryAskedAt = this.#services.clock.monotonic();
    const token = await this.#token.read();
    // Also after a failure: the next try is due after the same time, not at once.
    this.#contactAt = this.#services.clock.monotonic();
    if (!token.ok) {
      this.#refuse(token.reason);
      return;
    }
    const { gitlab, systemId, info, log } = this.#services;
    const outcome: VerifyOutcome = await gitlab.verifyRunner(
      token.token,
      systemId,
      info(this.#runner),
    );
    switch (outcome.kind) {
      case 'valid':
        this.#services.expiry(this.name, outcome.tokenExpiresAt);
        this.#tokenExpiresAt = outcome.tokenExpiresAt?.getTime() ?? null;
        this.#services.changed();
        break;
      case 'forbidden':
        this.#refuse(`GitLab refuses the runner token: ${outcome.reason}`);
        break;
      case 'retry':
        log.warn(`runner ${this.name} could not tell GitLab that it is there: ${outcome.reason}`);
        break;
      default:
        outcome satisfies never;
    }
  }
}
