/** One claimed job from the 201 to its end: state, journal, machine, heartbeat and limits. */

import type {
  JobOutcome,
  JobRow,
  JobStage,
  Logger,
  Machine,
  MachineOutcome,
  Reservation,
} from '../contract/index.ts';
import type {
  FailureReason,
  JobFacts,
  JobSecrets,
  JobStatus,
  UpdateOutcome,
} from '../gitlab/index.ts';
import type { Timer } from '../lib/clock.ts';
import { describeError } from '../lib/errors.ts';
import { Serial } from '../lib/serial.ts';
import { deliver } from './delivery.ts';
import { explainOver, outcomeOf } from './endings.ts';
import { Heartbeat } from './heartbeat.ts';
import { NextRoom } from './next-room.ts';
import { composeNote } from './note.ts';
import type { LeaseRecord } from './record.ts';
import type { LeaseServices } from './services.ts';
import { orderStages, stagesOf } from './stages.ts';
import { type LeaseEvent, type LeaseState, type PendingFinal, transition } from './state.ts';
import { timeLimitOf } from './time-limits.ts';

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
  /** For when a machine has ended before anything of the job had run. */
  readonly #nextRoom: NextRoom;
  readonly #heartbeat: Heartbeat;
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
    this.#nextRoom = new NextRoom(record.facts.id, record.runner, services, this.#stopped.signal);
    this.#heartbeat = new Heartbeat(this, services);
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

  /** For how long its runner has made no call. */
  get silentMs(): number {
    return this.#services.clock.monotonic() - this.#spokeAt;
  }

  /** Bytes of log that GitLab is known to hold. */
  get logBytes(): number {
    return this.#logBytes;
  }

  /** A new claim: journals it, then boots its machine in the room that is held for it. */
  async begin(reservation: Reservation): Promise<void> {
    await this.#events.run(() => this.#put(this.#state));
    await this.#services.checkpoint('lease-claimed');
    this.#heartbeat.start();
    await this.#boot(reservation);
  }

  /**
   * A lease that an earlier run left, with its machine where that still exists. Goes on as if nothing
   * had happened where it can, ends the job with the reason where it cannot.
   */
  resume(machine: Machine | undefined): void {
    this.#heartbeat.start();
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
    return this.#state.name === 'running' || this.#state.name === 'finishing';
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

  /** GitLab's answer to our keep-alive. */
  async onKeptAlive(answer: UpdateOutcome): Promise<void> {
    switch (answer.kind) {
      case 'over':
        await this.over(answer.jobStatus);
        // A runner that did not hear of it itself would not power off by itself.
        this.#machine?.stop('its job is over');
        break;
      case 'done':
        if (answer.jobStatus === 'canceling' && this.#state.name !== 'running') {
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

  /** Ends the job ourselves, with a reason for its log, and stops its machine. */
  giveUp(reason: string, wanted: FailureReason = 'runner_system_failure'): Promise<void> {
    return this.#giveUp('system_failure', reason, wanted);
  }

  /** Stops all timers and tries of this process; the journal keeps the lease. */
  leave(): void {
    this.#stopped.abort();
    this.#heartbeat.stop();
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
      stages: orderStages(this.#stages, this.#machine?.bootedAt ?? null),
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
    const at = this.#services.clock.now();
    this.#lastActivityAt = at;
    this.#stages.push(...stagesOf(before, next, event, at, this.#machine?.bootedAt ?? null));
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
    this.#heartbeat.stop();
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
    if (transition(this.#state, event)?.name === 'claimed') this.#nextRoom.ask();
    await this.apply(event);
    if (this.#state.name !== 'claimed') this.#nextRoom.giveBack();
  }

  async #renewIdentity(): Promise<void> {
    const identity = await this.#services.newIdentity(this.runner);
    this.#runnerName = identity.runnerName;
    this.#vmToken = identity.vmToken;
    this.#machine = null;
  }

  /** Nothing has run: the job gets one more machine. */
  async #bootAgain(): Promise<void> {
    this.#log.warn(`job ${this.facts.id} gets another machine: nothing of it has run yet`);
    try {
      await this.#boot(await this.#nextRoom.take());
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

  /** One limit at a time: the one of the present state. */
  #armLimit(): void {
    this.#limit?.cancel();
    const { clock, timings } = this.#services;
    const limit = timeLimitOf(this.#state, this.facts, timings);
    this.#limit =
      limit &&
      clock.after(limit.afterMs, () => {
        if (limit.fails === null) this.#machine?.stop(limit.reason);
        else void this.giveUp(limit.reason, limit.fails);
      });
  }
}
