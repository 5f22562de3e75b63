/** One configured runner's loop: hold room, ask GitLab for a job, hand what comes to the leases. */

import type { GitlabConfig, RunnerConfig } from '../config/index.ts';
import type { RunnerRow } from '../contract/index.ts';
import type { RequestJobOutcome } from '../gitlab/index.ts';
import type { Place, ReadyMachine } from '../leases/index.ts';
import { describeError, errorCode } from '../lib/errors.ts';
import { EarlyAsks } from './early-asks.ts';
import { RunnerHealth } from './runner-health.ts';
import { RunnerToken } from './runner-token.ts';
import type { ClaimerServices, ClaimerSettings } from './services.ts';
import { Visibility } from './visibility.ts';
import { Wait } from './wait.ts';

/** For the owner of a job. */
const UNREADABLE =
  "what GitLab sent of this job to the runner's host was cut off, or changed, on its way";

/** What keeps a claimer from asking right now. */
type Standing = { readonly reason: string | null; readonly nextAskAt: number | null };

export class Claimer {
  readonly #services: ClaimerServices;
  readonly #settings: ClaimerSettings;
  readonly #health: RunnerHealth;
  readonly #visibility: Visibility;
  readonly #wait: Wait;
  readonly #earlyAsks: EarlyAsks;
  readonly #stopping = new AbortController();
  #paused: boolean;
  #standing: Standing = { reason: 'starting', nextAskAt: null };
  #loop: Promise<void> | null = null;
  /** Jobs that are being journaled and given a machine. */
  readonly #claims = new Set<Promise<void>>();
  /** Where this runner is when an event tells of a job: anywhere else it is not free to ask. */
  #place: 'resting' | 'waiting for room' | 'asking' | 'waiting for GitLab' | null = null;
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
    this.#settings = { runner, config, token: new RunnerToken(runner.tokenFile) };
    this.#paused = paused;
    this.#services = services;
    this.#health = new RunnerHealth(this.#settings, services);
    this.#visibility = new Visibility(this.#settings, this.#health, services);
    this.#wait = new Wait(services.clock);
    this.#earlyAsks = new EarlyAsks(services.clock);
  }

  get name(): string {
    return this.settings.name;
  }

  /** Those of the asks from now on. */
  get settings(): RunnerConfig {
    return this.#settings.runner;
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
    await this.#visibility.underWay;
  }

  /** Settings for the asks from now on. */
  reconfigure(runner: RunnerConfig, config: GitlabConfig): void {
    const before = this.settings;
    this.#settings.runner = runner;
    this.#settings.config = config;
    // It waits for room of the one that it had.
    if (runner.machineType.name !== before.machineType.name) this.#interruptRoom?.abort();
    if (runner.tokenFile !== before.tokenFile) {
      this.#settings.token = new RunnerToken(runner.tokenFile);
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
    const isLost = this.#health.unhealthyMs > this.#settings.config.timings.warmUnhealthyMs;
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
    const isFree = this.#place !== null && this.#place !== 'waiting for GitLab';
    if (!isFree || this.#expectsJob || !this.#earlyAsks.take()) return;
    this.#expectsJob = true;
    this.#services.pool.expectJob(this.settings.machineType.name);
    if (this.#place === 'resting') this.#wait.wake();
  }

  /** GitLab was out, and answers again: the wait after failed asks is over. */
  gitlabIsBack(): void {
    this.wake();
    if (this.#place === 'waiting for GitLab') this.#wait.wake();
  }

  /** A job of this runner has ended. Often another follows, of the next stage: asks now. No storm of these is possible. */
  jobEnded(): void {
    this.wake();
    if (this.#place === 'resting') this.#wait.wake();
  }

  row(): RunnerRow {
    const warm = this.#services.warm.row(this.settings.name);
    const { tokenExpiresAt } = this.#visibility;
    return {
      forge: 'gitlab',
      name: this.settings.name,
      machineType: this.settings.machineType.name,
      ...this.#health.row(),
      nextAskAt: this.#standing.nextAskAt === null ? null : Math.round(this.#standing.nextAskAt),
      limit: this.settings.limit,
      running: this.#services.leases.countOf(this.settings.name),
      paused: this.#paused,
      notClaiming: this.#standing.reason,
      ...(warm !== undefined && { warm }),
      ...(tokenExpiresAt !== undefined && { tokenExpiresAt }),
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
          this.#settings.config.timings.backoffCapMs,
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
      await this.#waitForGitlab(outMs, this.#health.lastAnswer ?? 'no answer yet');
      return;
    }
    const token = await this.#settings.token.read();
    if (!token.ok) {
      this.#health.refused(token.reason);
      await this.#pauseFor(this.#settings.config.timings.unhealthyIntervalMs, token.reason, null);
      return;
    }
    const place = (await this.#pin(token.token)) ?? (await this.#reserve());
    if (place !== null) await this.#ask(place);
  }

  /** A warm machine is room that is there already. */
  async #pin(token: string): Promise<ReadyMachine | null> {
    const ready = this.#services.warm.pin(this.settings.name, token);
    if (ready !== null) await this.#services.checkpoint('warm-pinned');
    return ready;
  }

  #heldBack(): string | null {
    if (this.#paused) return 'paused';
    const { problem } = this.#services.leases;
    if (problem !== null) return problem;
    const running = this.#services.leases.countOf(this.settings.name);
    return running >= this.settings.limit ? `limit ${this.settings.limit} reached` : null;
  }

  async #reserve(): Promise<Place | null> {
    const { name, machineType } = this.settings;
    const interrupt = new AbortController();
    this.#interruptRoom = interrupt;
    if (this.#stopping.signal.aborted) interrupt.abort();
    this.#place = 'waiting for room';
    this.#stand('waiting for room', null);
    const visible = this.#visibility.keepMeanwhile();
    try {
      return await this.#services.pool.reserve({
        machineType: machineType.name,
        firm: false,
        purpose: `runner ${name}: looking for a job`,
        intervalMs: this.#settings.config.checkIntervalMs,
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

  async #onRefused(error: unknown): Promise<void> {
    const reason =
      errorCode(error) === 'draining' ? 'the host is draining' : `no room: ${describeError(error)}`;
    if (errorCode(error) === 'draining') this.#services.log.debug(`${this.name}: ${reason}`);
    else this.#services.log.warn(`runner ${this.name} gets no machine: ${describeError(error)}`);
    await this.#pauseFor(this.#settings.config.timings.backoffCapMs, reason);
  }

  async #ask(place: Place): Promise<void> {
    const { gitlab, systemId, info, backoff } = this.#services;
    // While this one waited for room, its token was changed, it was stopped, another has found GitLab out, or the disk full.
    const token = await this.#settings.token.read();
    const isStopped = this.#stopping.signal.aborted;
    if (!token.ok || isStopped || backoff.remaining() > 0 || this.#heldBack() !== null) {
      place.release('failed');
      return;
    }
    this.#stand(null, null);
    this.#place = 'asking';
    this.#expectsJob = false;
    let outcome: RequestJobOutcome;
    try {
      outcome = await gitlab.requestJob(token.token, systemId, info(this.settings));
      if (outcome.kind === 'job') {
        place.makeFirm();
        this.#earlyAsks.giveBack();
        this.#answered(outcome, `job ${outcome.facts.id}`, token.token);
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
    await this.#onNoJob(outcome, token.token);
  }

  /** Not waited for: of a burst, GitLab has the next job at once, and a boot takes its time. */
  #claim(job: Extract<RequestJobOutcome, { kind: 'job' }>, place: Place): void {
    const { leases, log } = this.#services;
    const claim = leases
      .claim(this.settings.name, job, place)
      .then(() => undefined)
      .catch((error: unknown) => {
        place.release('failed');
        log.error(`runner ${this.name} could not take care of job ${job.facts.id}`, { error });
      })
      .finally(() => this.#claims.delete(claim));
    this.#claims.add(claim);
  }

  async #onNoJob(
    outcome: Exclude<RequestJobOutcome, { kind: 'job' }>,
    token: string,
  ): Promise<void> {
    const { timings, checkIntervalMs } = this.#settings.config;
    const { backoff } = this.#services;
    switch (outcome.kind) {
      case 'none':
        this.#answered(outcome, '204: no job', token);
        await this.#rest(checkIntervalMs, 'no job a moment ago');
        break;
      case 'conflict':
        this.#answered(outcome, '409: another runner was faster', token);
        await this.#rest(timings.conflictDelayMs, 'another runner was faster');
        break;
      case 'forbidden':
        await this.#onForbidden(outcome, token);
        break;
      case 'broken':
        await this.#endUnread(outcome);
        this.#health.note(outcome.reason);
        this.#tellAsked(outcome);
        await this.#pauseFor(
          backoff.next(undefined),
          `the last answer was broken: ${outcome.reason}`,
        );
        break;
      case 'retry': {
        const delayMs = backoff.next(outcome.retryAfterMs);
        this.#health.bad(outcome.reason);
        this.#tellAsked(outcome);
        await this.#waitForGitlab(delayMs, outcome.reason);
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

  async #onForbidden(
    outcome: Extract<RequestJobOutcome, { kind: 'forbidden' }>,
    refused: string,
  ): Promise<void> {
    const { reason } = outcome;
    this.#services.asked(this.name, outcome);
    const token = await this.#settings.token.read();
    if (token.ok && token.token !== refused) {
      this.#services.log.info(`runner ${this.name} has a new token, and asks with it`);
      return;
    }
    this.#health.refused(`GitLab refuses the runner token: ${reason}`);
    this.#health.note(reason);
    await this.#pauseFor(
      this.#settings.config.timings.unhealthyIntervalMs,
      this.#health.refusal(reason),
      refused,
    );
  }

  #answered(outcome: RequestJobOutcome, answer: string, token: string): void {
    this.#health.good(answer);
    this.#services.backoff.reset();
    this.#visibility.contacted(token);
    this.#tellAsked(outcome);
  }

  #tellAsked(outcome: RequestJobOutcome): void {
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

  async #waitForGitlab(delayMs: number, reason: string): Promise<void> {
    this.#place = 'waiting for GitLab';
    await this.#pauseFor(delayMs, `GitLab is out: ${reason}`);
    this.#place = null;
  }

  /** Waits for the clock; where `watched`, also until its file has another token than that: than none, for null. */
  async #pauseFor(delayMs: number, reason: string, watched?: string | null): Promise<void> {
    if (this.#stopping.signal.aborted) return;
    const { clock } = this.#services;
    this.#stand(reason, clock.now() + delayMs);
    const until = clock.monotonic() + delayMs;
    const isWatched = watched !== undefined;
    const step = isWatched ? Math.min(delayMs, this.#settings.config.checkIntervalMs) : delayMs;
    while (clock.monotonic() < until && !this.#stopping.signal.aborted) {
      const woken = await this.#wait.for(Math.min(step, until - clock.monotonic()));
      if (woken) return;
      if (!isWatched) continue;
      const token = await this.#settings.token.read();
      if (token.ok && token.token !== watched) return;
    }
  }

  /** Held back by a pause or a limit: until an event, or until GitLab must hear from us. */
  async #stayVisible(): Promise<void> {
    const woken = await this.#wait.for(this.#visibility.leftMs);
    if (!woken && !this.#stopping.signal.aborted) await this.#visibility.keep();
  }
}
