/** One claimed job from the 201 to its end: state, journal, machine, heartbeat and limits. */

import type { Timings } from '../config/index.ts';
import type {
  BootSpec,
  JobOutcome,
  JobRow,
  JobStage,
  Logger,
  Machine,
  MachineOutcome,
  Reservation,
  VmPool,
} from '../contract/index.ts';
import type {
  FailureReason,
  GitlabClient,
  JobFacts,
  JobSecrets,
  JobStatus,
  UpdateOutcome,
} from '../gitlab/index.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import { describeError } from '../lib/errors.ts';
import { Serial } from '../lib/serial.ts';
import { type Delivered, deliver } from './delivery.ts';
import type { Journal } from './journal.ts';
import { composeNote } from './note.ts';
import type { LeaseRecord } from './record.ts';
import {
  isLive,
  type LeaseEvent,
  type LeaseState,
  type PendingFinal,
  transition,
} from './state.ts';

/** What a lease needs of the plugin. */
export interface LeaseServices {
  readonly clock: Clock;
  readonly gitlab: Pick<GitlabClient, 'updateJob' | 'repeatUpdate' | 'appendTrace'>;
  readonly journal: Journal;
  readonly pool: Pick<VmPool, 'reserve'>;
  readonly timings: Timings;
  readonly log: Logger;
  readonly consoleTail: boolean;
  /** Where tests stop or kill. */
  checkpoint(name: string): Promise<void>;
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

/** A claimed job. Events are applied one after the other, each journaled before what follows from it. */
export class Lease {
  readonly facts: JobFacts;
  readonly runner: string;
  readonly requestId: string | null;
  readonly #services: LeaseServices;
  readonly #log: Logger;
  readonly #events = new Serial();
  /** Null after a restart without payload: then nothing can be masked. */
  readonly #secrets: JobSecrets | null;
  readonly #stages: JobStage[];
  readonly #stopped = new AbortController();
  #runnerName: string;
  #vmToken: string;
  #state: LeaseState;
  #machine: Machine | null = null;
  #logBytes = 0;
  #lastActivityAt: number;
  #spokeAt: number;
  /** Asked for when a machine ended before anything of the job had run. */
  #nextRoom: Promise<Reservation> | null = null;
  #heartbeat: Timer | null = null;
  #limit: Timer | null = null;

  constructor(record: LeaseRecord, secrets: JobSecrets | null, services: LeaseServices) {
    this.facts = record.facts;
    this.runner = record.runner;
    this.requestId = record.requestId;
    this.#runnerName = record.runnerName;
    this.#vmToken = record.vmToken;
    this.#state = record.state;
    this.#stages = [...record.stages];
    this.#secrets = secrets;
    this.#services = services;
    this.#lastActivityAt = services.clock.now();
    this.#spokeAt = services.clock.monotonic();
    this.#log = services.log.child({ job: record.facts.id, runner: record.runner });
  }

  get state(): LeaseState {
    return this.#state;
  }

  get runnerName(): string {
    return this.#runnerName;
  }

  get vmToken(): string {
    return this.#vmToken;
  }

  get machine(): Machine | null {
    return this.#machine;
  }

  /** Whether it counts against its runner's limit: room is held, or will be. */
  get holdsRoom(): boolean {
    const state = this.#state;
    return state.name !== 'ended' && !(state.name === 'finishing' && state.machineGone);
  }

  /** Bytes of log that GitLab is known to hold. */
  get logBytes(): number {
    return this.#logBytes;
  }

  /** A new claim: journals it, then boots its machine in the room that is held for it. */
  async begin(reservation: Reservation): Promise<void> {
    await this.#events.run(() => this.#put(this.#state));
    await this.#services.checkpoint('lease-claimed');
    this.#startHeartbeat();
    await this.#boot(reservation);
  }

  /**
   * A lease that an earlier run left, with its machine where that still exists. Goes on as if nothing
   * had happened where it can, ends the job with the reason where it cannot.
   */
  resume(machine: Machine | undefined): void {
    this.#startHeartbeat();
    if (machine !== undefined) {
      this.#machine = machine;
      this.#watch(machine);
      if (this.#state.name === 'claimed') void this.apply({ type: 'booting' });
    } else if (this.#state.name === 'claimed') {
      void this.#bootAgain();
    } else {
      const reason = 'its machine was gone when the host came back';
      void this.apply({ type: 'machine-ended', reason, note: this.#note(reason, null) });
    }
    if (this.#state.name === 'finishing') this.#afterFinishing();
    else this.#armLimit();
  }

  /**
   * The machine's runner asks for its job. Answers the payload until the runner's first own call,
   * any number of times: a lost answer is asked for again. Null where there is none to give.
   */
  async offer(): Promise<Buffer | null> {
    await this.apply({ type: 'offered' });
    return this.#state.name === 'offered' ? this.#state.payload : null;
  }

  /** Before a call of the runner for its job is passed on: false where it may not speak for it. */
  async speak(): Promise<boolean> {
    this.#spokeAt = this.#services.clock.monotonic();
    this.#lastActivityAt = this.#services.clock.now();
    if (this.#state.name === 'offered') await this.apply({ type: 'own-call' });
    const state = this.#state;
    // Where the last word is ours, anything of the runner's would come between our note and our update.
    return state.name === 'running' || (state.name === 'finishing' && state.owed?.kind !== 'own');
  }

  /** GitLab's answer to a trace `PATCH` told how many bytes it holds. */
  noteLogBytes(size: number): void {
    this.#logBytes = size;
    this.#services.changed(this);
  }

  /** GitLab took the runner's final update. */
  finalTaken(outcome: JobOutcome): Promise<void> {
    return this.apply({ type: 'final-taken', outcome });
  }

  /** GitLab remembered the runner's final update and wants it again. */
  finalPending(final: PendingFinal): Promise<void> {
    return this.apply({ type: 'final-pending', final });
  }

  /** GitLab told that the job is over. */
  over(jobStatus: JobStatus | undefined): Promise<void> {
    const { outcome, reason } = explainOver(jobStatus);
    return this.apply({ type: 'over', outcome, reason });
  }

  /** Ends the job ourselves, with a reason for its log, and stops its machine. */
  giveUp(reason: string, wanted: FailureReason = 'runner_system_failure'): Promise<void> {
    return this.#giveUp('system_failure', reason, wanted);
  }

  /** Stops all timers and tries of this process; the journal keeps the lease. */
  leave(): void {
    this.#stopped.abort();
    this.#heartbeat?.cancel();
    this.#limit?.cancel();
  }

  /** What the host shows of it. */
  row(): JobRow {
    const { facts } = this;
    const done =
      this.#state.name === 'finishing' || this.#state.name === 'ended' ? this.#state : null;
    return {
      forge: 'gitlab',
      id: String(facts.id),
      project: facts.project,
      name: facts.name,
      ref: facts.ref,
      url: facts.url,
      runner: this.runner,
      machine: this.#runnerName,
      state: this.#state.name,
      stages: this.#stagesWithBoot(),
      logBytes: this.#logBytes,
      lastActivityAt: this.#lastActivityAt,
      outcome: done?.outcome ?? null,
      reason: done?.reason ?? null,
    };
  }

  /** Applies one event after those before it: journal first, then what follows from the new state. */
  apply(event: LeaseEvent): Promise<void> {
    return this.#events.run(() => this.#advance(event));
  }

  async #advance(event: LeaseEvent): Promise<void> {
    const before = this.#state;
    const next = transition(before, event);
    if (next === null || this.#stopped.signal.aborted) return;
    this.#noteStage(before, next, event);
    if (next.name === 'claimed') await this.#renewIdentity();
    await this.#put(next);
    await this.#services.checkpoint(`lease-${next.name}`);
    this.#state = next;
    this.#log.debug(`job ${this.facts.id}: ${before.name} -> ${next.name}`, { event: event.type });
    this.#enter(before);
    this.#services.changed(this);
  }

  /** A journal that cannot be written must not stop a job that GitLab already runs. */
  async #put(state: LeaseState): Promise<void> {
    try {
      if (state.name === 'ended') await this.#services.journal.remove(this.facts.id);
      else await this.#services.journal.put(this.#record(state));
    } catch (error) {
      this.#log.error(
        `the journal entry of job ${this.facts.id} could not be written: a crash now would lose the job`,
        { error },
      );
    }
  }

  #record(state: LeaseState): LeaseRecord {
    return {
      facts: this.facts,
      runner: this.runner,
      runnerName: this.#runnerName,
      vmToken: this.#vmToken,
      requestId: this.requestId,
      stages: this.#stages,
      state,
    };
  }

  /** What follows from having entered a state. */
  #enter(before: LeaseState): void {
    const { name } = this.#state;
    this.#armLimit();
    switch (name) {
      case 'claimed':
        void this.#bootAgain();
        break;
      case 'booting':
        break;
      case 'offered':
        this.#machine?.report('online');
        break;
      case 'running':
        if (before.name === 'offered') this.#machine?.report('busy');
        break;
      case 'finishing':
        if (before.name !== 'finishing') this.#afterFinishing(before);
        break;
      case 'ended':
        this.leave();
        this.#services.ended(this);
        break;
      default:
        name satisfies never;
    }
  }

  #afterFinishing(before?: LeaseState): void {
    if (this.#state.name !== 'finishing') return;
    this.#heartbeat?.cancel();
    this.#machine?.report('done');
    if (this.#state.owed !== null) void this.#deliver();
    const { owed, reason } = this.#state;
    const ranItself = before?.name === 'running' && owed === null;
    // A runner that is told of the end winds up and powers off by itself; any other has nothing to do.
    if (!ranItself) this.#machine?.stop(reason ?? 'its job is over');
  }

  async #deliver(): Promise<void> {
    if (this.#state.name !== 'finishing' || this.#state.owed === null) return;
    const { outcome, owed } = this.#state;
    const delivered = await deliver(this.facts, owed, this.#logBytes, {
      ...this.#services,
      log: this.#log,
      signal: this.#stopped.signal,
    });
    if (delivered.kind === 'stopped') return;
    await this.apply({ type: 'delivered', outcome: outcomeOf(delivered, outcome) });
  }

  /** In the queue of events, so that no other one can come between the machine and its state. */
  #boot(reservation: Reservation): Promise<void> {
    return this.#events.run(async () => {
      if (this.#state.name !== 'claimed') {
        reservation.release();
        return;
      }
      const machine = reservation.boot(this.#services.bootSpec(this));
      this.#machine = machine;
      this.#watch(machine);
      machine.allowPersist(this.#services.mayPersist(this)).catch((error: unknown) => {
        this.#log.warn('whether the disk may be kept could not be told', { error });
      });
      await this.#advance({ type: 'booting' });
    });
  }

  #watch(machine: Machine): void {
    void machine.ended.then((outcome) => this.#onMachineEnded(machine, outcome));
  }

  async #onMachineEnded(machine: Machine, outcome: MachineOutcome): Promise<void> {
    if (machine !== this.#machine) return;
    const reason = `the machine ended before the job did: ${outcome.detail}`;
    const event = {
      type: 'machine-ended',
      reason,
      note: this.#note(reason, outcome.consoleTail),
    } as const;
    // Asked for at once, so that nobody else gets the room that has just become free.
    if (transition(this.#state, event)?.name === 'claimed') this.#nextRoom = this.#reserveAgain();
    await this.apply(event);
    if (this.#state.name !== 'claimed') this.#releaseNextRoom();
  }

  async #renewIdentity(): Promise<void> {
    const identity = await this.#services.newIdentity(this.runner);
    this.#runnerName = identity.runnerName;
    this.#vmToken = identity.vmToken;
    this.#machine = null;
  }

  /** Room for a job that is ours already: it comes before all other requests. */
  #reserveAgain(): Promise<Reservation> {
    const machineType = this.#services.machineTypeOf(this.runner);
    const room =
      machineType === undefined
        ? Promise.reject(
            new Error(`the runner ${this.runner} is no longer configured on this host`),
          )
        : this.#services.pool.reserve({
            machineType,
            firm: true,
            claimed: true,
            purpose: `job ${this.facts.id}: second boot`,
            signal: this.#stopped.signal,
          });
    // Whoever uses it looks at its failure, maybe later.
    room.catch(() => undefined);
    return room;
  }

  #releaseNextRoom(): void {
    void this.#nextRoom?.then((room) => room.release()).catch(() => undefined);
    this.#nextRoom = null;
  }

  /** Nothing has run: the job gets one more machine. */
  async #bootAgain(): Promise<void> {
    this.#log.warn(`job ${this.facts.id} gets another machine: nothing of it has run yet`);
    const room = this.#nextRoom ?? this.#reserveAgain();
    this.#nextRoom = null;
    try {
      await this.#boot(await room);
    } catch (error) {
      if (this.#stopped.signal.aborted) return;
      await this.giveUp(`no machine could be had for it: ${describeError(error)}`);
    }
  }

  #giveUp(outcome: JobOutcome, reason: string, wanted: FailureReason): Promise<void> {
    return this.apply({
      type: 'give-up',
      outcome,
      reason,
      failureReason: this.facts.failureReasons.includes(wanted) ? wanted : 'runner_system_failure',
      note: this.#note(reason, null),
    });
  }

  #note(reason: string, consoleTail: Uint8Array | null): string {
    return composeNote({
      reason,
      runnerName: this.#runnerName,
      console: this.#services.consoleTail ? consoleTail : null,
      secrets: this.#secrets,
      now: this.#services.clock.now(),
    });
  }

  #startHeartbeat(): void {
    const { clock, timings } = this.#services;
    this.#heartbeat = clock.after(timings.heartbeatMs, () => void this.#beat());
  }

  /** Keeps the job alive in GitLab while its runner does not, and sees a cancel. */
  async #beat(): Promise<void> {
    const sentIn = this.#state;
    if (!isLive(sentIn) || this.#stopped.signal.aborted) return;
    const { clock, timings, gitlab } = this.#services;
    const silentMs = clock.monotonic() - this.#spokeAt;
    if (sentIn.name !== 'running' || silentMs >= timings.silenceMs) {
      const answer = await gitlab.updateJob(this.facts.id, this.facts.token, { state: 'running' });
      // An answer counts only in the state in which its request was sent.
      if (this.#state === sentIn) await this.#onHeartbeat(answer, sentIn.name === 'running');
    }
    if (isLive(this.#state) && !this.#stopped.signal.aborted) this.#startHeartbeat();
  }

  async #onHeartbeat(answer: UpdateOutcome, running: boolean): Promise<void> {
    switch (answer.kind) {
      case 'over':
        await this.over(answer.jobStatus);
        // A runner that did not hear of it itself would not power off by itself.
        this.#machine?.stop('its job is over');
        break;
      case 'done':
        if (answer.jobStatus === 'canceling' && !running) {
          await this.#giveUp('canceled', 'canceled before it began', 'unknown_failure');
        }
        break;
      case 'retry':
        this.#log.warn(`the keep-alive of job ${this.facts.id} failed: ${answer.reason}`);
        break;
      case 'pending':
        break;
      default:
        answer satisfies never;
    }
  }

  /** One limit at a time: the one of the present state. */
  #armLimit(): void {
    this.#limit?.cancel();
    const limit = this.#limitOf(this.#state);
    this.#limit = limit && this.#services.clock.after(limit.afterMs, limit.reach);
  }

  #limitOf(state: LeaseState): { afterMs: number; reach: () => void } | null {
    const { timings } = this.#services;
    const stop = (afterMs: number, what: string) => ({
      afterMs,
      reach: () => this.#machine?.stop(`${what} within ${Math.round(afterMs / 1000)} s`),
    });
    switch (state.name) {
      case 'booting':
        return stop(timings.askLimitMs, 'its runner did not ask for its job');
      case 'offered':
        return stop(
          timings.firstCallLimitMs,
          'its runner was given the job and did not speak for it',
        );
      case 'running': {
        const afterMs = this.facts.timeoutSeconds * 1000 + timings.jobGraceMs;
        const reason = `the job outlived its timeout of ${this.facts.timeoutSeconds} s, and the time to wind up`;
        return { afterMs, reach: () => void this.giveUp(reason, 'job_execution_timeout') };
      }
      case 'finishing':
        return state.machineGone
          ? null
          : stop(timings.finishGraceMs, 'its job is over and it did not power off');
      case 'claimed':
      case 'ended':
        return null;
      default:
        return state satisfies never;
    }
  }

  #noteStage(before: LeaseState, next: LeaseState, event: LeaseEvent): void {
    const at = this.#services.clock.now();
    const add = (name: string): void => void this.#stages.push({ name, at });
    this.#lastActivityAt = at;
    const bootedAt = this.#machine?.bootedAt ?? null;
    if (event.type === 'machine-ended' && bootedAt !== null) {
      this.#stages.push({ name: 'booted', at: bootedAt });
    }
    if (next.name !== before.name && (next.name === 'offered' || next.name === 'running'))
      add(next.name);
    const hadFinal = !isLive(before) && !(before.name === 'finishing' && before.owed !== null);
    const hasFinal = next.name === 'ended' || (next.name === 'finishing' && next.owed === null);
    if (hasFinal && !hadFinal) add('finished');
    if (event.type === 'machine-ended') add('machine-gone');
  }

  /** `booted` is known to the machine alone until it has ended. */
  #stagesWithBoot(): JobStage[] {
    const bootedAt = this.#machine?.bootedAt ?? null;
    const known = this.#stages.some((stage) => stage.name === 'booted' && stage.at === bootedAt);
    const stages =
      bootedAt === null || known
        ? this.#stages
        : [...this.#stages, { name: 'booted', at: bootedAt }];
    return stages.toSorted((a, b) => a.at - b.at);
  }
}

/** GitLab turns our `failed` into `canceled` where a cancel was under way, and may have ended the job before us. */
function outcomeOf(
  delivered: Exclude<Delivered, { kind: 'stopped' }>,
  ours: JobOutcome,
): JobOutcome {
  if (delivered.kind === 'over') return explainOver(delivered.jobStatus).outcome;
  return delivered.jobStatus === 'canceled' || delivered.jobStatus === 'canceling'
    ? 'canceled'
    : ours;
}

function explainOver(jobStatus: JobStatus | undefined): { outcome: JobOutcome; reason: string } {
  switch (jobStatus) {
    case 'canceled':
    case 'canceling':
      return { outcome: 'canceled', reason: 'canceled in GitLab' };
    case 'success':
      return { outcome: 'success', reason: 'already a success in GitLab' };
    case 'failed':
      return { outcome: 'failed', reason: 'failed by GitLab' };
    case 'running':
    case undefined:
      return {
        outcome: 'canceled',
        reason: 'GitLab no longer accepts this job: deleted, erased or expired',
      };
    default:
      return jobStatus satisfies never;
  }
}
