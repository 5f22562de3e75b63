/** One claimed job from the 201 to its end: what happens to it, and what follows from each step of it. */

import type { JobOutcome, JobRow, Logger, Machine, MachineOutcome } from '../contract/index.ts';
import type {
  FailureReason,
  JobFacts,
  JobSecrets,
  JobStatus,
  UpdateOutcome,
} from '../gitlab/index.ts';
import { describeError } from '../lib/errors.ts';
import { deliver } from './delivery.ts';
import { explainOver, failureReasonOf } from './endings.ts';
import { Heartbeat } from './heartbeat.ts';
import { JournaledState } from './journaled-state.ts';
import { NextRoom } from './next-room.ts';
import { composeNote } from './note.ts';
import { isReady, type Place } from './ready-machine.ts';
import type { LeaseRecord } from './record.ts';
import { toRow } from './row.ts';
import type { LeaseServices } from './services.ts';
import {
  type EndCause,
  type Finishing,
  type LeaseEvent,
  type LeaseState,
  type Owed,
  type PendingFinal,
  transition,
} from './state.ts';
import { type TimeLimit, TimeLimitWatch, timeLimitOf } from './time-limits.ts';

export class Lease {
  readonly facts: JobFacts;
  readonly runner: string;
  readonly requestId: string | null;
  readonly #services: LeaseServices;
  readonly #log: Logger;
  readonly #journaled: JournaledState;
  /** Null after a restart without payload: then nothing can be masked. */
  readonly #secrets: JobSecrets | null;
  readonly #stopped = new AbortController();
  readonly #heartbeat: Heartbeat;
  readonly #limits: TimeLimitWatch;
  /** For when a machine has ended before anything of the job had run. */
  readonly #nextRoom: NextRoom;
  #machine: Machine | null = null;
  #logBytes = 0;
  #lastActivityAt: number;
  #spokeAt: number;
  #cancelingSince: number | null = null;
  /** The time limit for which its machine was stopped. */
  #limitReached: EndCause | null = null;

  constructor(record: LeaseRecord, secrets: JobSecrets | null, services: LeaseServices) {
    const { clock, timings } = services;
    this.facts = record.facts;
    this.runner = record.runner;
    this.requestId = record.requestId;
    this.#secrets = secrets;
    this.#services = services;
    this.#lastActivityAt = clock.now();
    this.#spokeAt = clock.monotonic();
    this.#log = services.log.child({ job: record.facts.id, runner: record.runner });
    this.#journaled = new JournaledState(record, services, this.#log, (before, event) =>
      this.#onEntered(before, event),
    );
    this.#heartbeat = new Heartbeat(this, services);
    this.#limits = new TimeLimitWatch(
      clock,
      () =>
        timeLimitOf(
          {
            state: this.state,
            facts: this.facts,
            enteredAt: this.#journaled.record.entered.monotonic,
            spokeAt: this.#spokeAt,
            cancelingSince: this.#cancelingSince,
          },
          timings,
        ),
      (limit) => this.#onLimit(limit),
    );
    this.#nextRoom = new NextRoom(record.facts.id, record.runner, services, this.#stopped.signal);
  }

  get state(): LeaseState {
    return this.#journaled.record.state;
  }

  get runnerName(): string {
    return this.#journaled.record.runnerName;
  }

  get vmToken(): string {
    return this.#journaled.record.vmToken;
  }

  get machine(): Machine | null {
    return this.#machine;
  }

  /** Whether it counts against its runner's limit: room is held, or will be. */
  get holdsRoom(): boolean {
    const state = this.state;
    return state.name !== 'ended' && !(state.name === 'finishing' && state.machineGone);
  }

  /** For how long its runner has made no call. */
  get silentMs(): number {
    return this.#services.clock.monotonic() - this.#spokeAt;
  }

  /** Whether its machine may speak: until that has ended. */
  get isOpen(): boolean {
    return this.holdsRoom;
  }

  /** Bytes of log that GitLab is known to hold. */
  get logBytes(): number {
    return this.#logBytes;
  }

  /** What ended it otherwise than its own runner or a person; null while live. */
  get cause(): EndCause | null {
    return 'cause' in this.state ? this.state.cause : null;
  }

  /** A new claim: journals it, then gives it the machine of that place; null: it is to get one of its own. */
  async begin(place: Place | null): Promise<void> {
    await this.#services.checkpoint('claim-received');
    const isOnDisk = await this.#journaled.put();
    await this.#services.checkpoint('lease-claimed');
    this.#heartbeat.start();
    if (place === null) {
      void this.#bootAgain();
    } else if (isReady(place) && !isOnDisk) {
      // After a crash nobody would know that it is a job's, and it would be given to another one.
      place.release();
      await this.#journaled.renewIdentity();
      this.#services.changed(this);
      void this.#bootAgain();
    } else {
      await this.#boot(place);
    }
  }

  /** The machine that an earlier run left it. */
  attach(machine: Machine): void {
    this.#machine = machine;
  }

  /**
   * A lease that an earlier run left. Goes on as if nothing had happened where its machine is still
   * there, ends the job with the reason where it cannot.
   */
  resume(): void {
    this.#heartbeat.start();
    const { name } = this.state;
    if (this.#machine !== null) {
      this.#watch(this.#machine);
      // A warm one may not have been told yet.
      if (!this.#machine.firm) this.#machine.makeFirm();
      if (name === 'claimed') {
        this.#tellPersist(this.#machine);
        void this.apply({ type: 'booting' });
      }
      // The host knows its machine only as far as it had told it.
      if (name === 'offered') this.#machine.report('online');
      if (name === 'running') this.#machine.report('busy');
    } else if (name === 'claimed') {
      void this.#bootAgain();
    } else {
      const reason = 'its machine was gone when the host came back';
      const note = this.#note(reason, null);
      void this.apply({ type: 'machine-ended', reason, cause: 'machine-lost', note });
    }
    if (name === 'finishing') this.#afterFinishing();
    else this.#limits.arm();
  }

  /**
   * The machine's runner asks for its job. Answers the payload until the runner's first own call,
   * any number of times: a lost answer is asked for again. Null where there is none to give.
   */
  async offer(): Promise<Buffer | null> {
    await this.apply({ type: 'offered' });
    if (this.state.name === 'offered') return this.state.payload;
    await this.#askedAgain();
    return null;
  }

  /** Before a call of the runner for its job is passed on: false where it may not speak for it. */
  async speak(): Promise<boolean> {
    this.#spokeAt = this.#services.clock.monotonic();
    this.#lastActivityAt = this.#services.clock.now();
    if (this.state.name === 'offered') await this.apply({ type: 'own-call' });
    const state = this.state;
    // Where the last word is ours, anything of the runner's would come between our note and our update.
    return state.name === 'running' || (state.name === 'finishing' && state.owed?.kind !== 'own');
  }

  /** GitLab's answer to a trace `PATCH` told how many bytes it holds. */
  noteLogBytes(size: number): void {
    this.#logBytes = size;
    this.#services.changed(this);
  }

  /** GitLab took the runner's final update. */
  async finalTaken(outcome: JobOutcome): Promise<void> {
    await this.#services.checkpoint('final-answered');
    await this.apply({ type: 'final-taken', outcome });
  }

  /** The runner's final update, before GitLab gets it: from now on nobody overrules it. */
  finalPending(final: PendingFinal): Promise<void> {
    return this.apply({ type: 'final-pending', final });
  }

  /** GitLab told the job's status, in whatever answer. */
  noteStatus(jobStatus: JobStatus | undefined): void {
    if (jobStatus !== 'canceling' || this.#cancelingSince !== null) return;
    this.#cancelingSince = this.#services.clock.monotonic();
    this.#limits.arm();
  }

  /**
   * GitLab is out and has the whole log: the final update is ours to deliver, and the machine may go.
   * True once it is on disk; false where it could not be written, and the machine has to wait.
   */
  async finalHeld(final: PendingFinal): Promise<boolean> {
    await this.apply({ type: 'final-held', final });
    return this.state.name === 'finishing' && this.state.owed?.kind === 'repeat';
  }

  /** Whether GitLab is known to hold a log of so many bytes. */
  hasLog(bytes: unknown): boolean {
    return typeof bytes === 'number' && this.#logBytes >= bytes;
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
        this.noteStatus(answer.jobStatus);
        if (answer.jobStatus === 'canceling' && this.state.name !== 'running') {
          await this.#cancel();
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
  giveUp(
    reason: string,
    cause: EndCause,
    wanted: FailureReason = 'runner_system_failure',
  ): Promise<void> {
    return this.#giveUp('system_failure', reason, cause, wanted);
  }

  /** Its runner has taken up this job and asks for another: one that was canceled just then it drops without a word. */
  async #askedAgain(): Promise<void> {
    if (this.state.name === 'finishing') this.#machine?.stop('its job is over');
    if (this.state.name !== 'running' || this.#cancelingSince === null) return;
    await this.#cancel();
  }

  /** Stops all timers and tries of this process; the journal keeps the lease. Resolves when nothing is under way. */
  leave(): Promise<void> {
    this.#stopped.abort();
    this.#heartbeat.stop();
    this.#limits.stop();
    return this.#journaled.leave();
  }

  /** What the host shows of it. */
  row(): JobRow {
    return toRow(this.#journaled.record, {
      bootedAt: this.#machine?.bootedAt ?? null,
      logBytes: this.#logBytes,
      lastActivityAt: this.#lastActivityAt,
    });
  }

  /** Applies one event after those before it: journal first, then what follows from the new state. */
  apply(event: LeaseEvent): Promise<void> {
    return this.#journaled.apply(event);
  }

  /** What follows from having entered a state. */
  #onEntered(before: LeaseState, event: LeaseEvent['type']): void {
    const { name } = this.state;
    this.#lastActivityAt = this.#services.clock.now();
    this.#limits.arm();
    switch (name) {
      case 'claimed':
        this.#machine = null;
        this.#limitReached = null;
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
        if (before.name !== 'finishing') this.#afterFinishing(before, event);
        break;
      case 'ended':
        void this.leave();
        this.#services.ended(this);
        break;
      default:
        name satisfies never;
    }
    this.#services.changed(this);
  }

  #afterFinishing(before?: LeaseState, event?: LeaseEvent['type']): void {
    const { state } = this;
    if (state.name !== 'finishing') return;
    this.#heartbeat.stop();
    this.#limits.arm();
    this.#nextRoom.forgo();
    this.#machine?.report('done');
    const { owed, reason, cause } = state;
    if (owed !== null) void this.#deliver(state, owed);
    const ranItself =
      event === 'final-held' ||
      (owed === null && cause === null && (before === undefined || before.name === 'running'));
    // A runner that is told of the end winds up and powers off by itself; any other has nothing to do.
    if (!ranItself) this.#machine?.stop(reason ?? 'its job is over');
  }

  async #deliver(end: Finishing, owed: Owed): Promise<void> {
    const delivered = await deliver(
      this.facts,
      { end, owed, since: this.#journaled.record.entered.at, logBytes: this.#logBytes },
      {
        ...this.#services,
        log: this.#log,
        signal: this.#stopped.signal,
        placeNote: (at) => this.apply({ type: 'note-placed', at }),
        setAside: () => this.#journaled.setAside(),
      },
    );
    if (delivered !== null) await this.apply({ type: 'delivered', ...delivered });
  }

  /** In the queue of events, so that no other one can come between the machine and its state. */
  #boot(place: Place): Promise<void> {
    return this.#journaled.run(async () => {
      if (this.state.name !== 'claimed' || this.#stopped.signal.aborted) {
        place.release();
        return;
      }
      const machine = this.#machineIn(place);
      this.#machine = machine;
      this.#watch(machine);
      this.#tellPersist(machine);
      await this.#services.checkpoint(isReady(place) ? 'warm-bound' : 'machine-requested');
      await this.#journaled.advance({ type: 'booting' });
    });
  }

  /** Where there cannot be one, the room is free again. */
  #machineIn(place: Place): Machine {
    if (isReady(place)) return place.take();
    try {
      return place.boot(this.#services.bootSpec(this));
    } catch (error) {
      place.release();
      throw error;
    }
  }

  #tellPersist(machine: Machine): void {
    machine.allowPersist(this.#services.mayPersist(this)).catch((error: unknown) => {
      this.#log.warn('whether the disk may be kept could not be told', { error });
    });
  }

  #watch(machine: Machine): void {
    void machine.ended.then((outcome) => this.#onMachineEnded(machine, outcome));
  }

  async #onMachineEnded(machine: Machine, outcome: MachineOutcome): Promise<void> {
    if (machine !== this.#machine || this.#stopped.signal.aborted) return;
    const reason = `the machine ended before the job did: ${outcome.detail}`;
    const event = {
      type: 'machine-ended',
      reason,
      cause: this.#limitReached ?? `machine-${outcome.cause}`,
      note: this.#note(reason, outcome.consoleTail),
      bootedAt: machine.bootedAt,
    } as const;
    if (transition(this.state, event)?.name === 'claimed') this.#nextRoom.ask();
    await this.#services.checkpoint('machine-gone');
    await this.apply(event);
    if (this.state.name !== 'claimed') this.#nextRoom.forgo();
  }

  /** Nothing has run: the job gets one more machine. */
  async #bootAgain(): Promise<void> {
    this.#log.warn(`job ${this.facts.id} gets a machine of its own: nothing of it has run yet`);
    try {
      await this.#boot(await this.#nextRoom.take());
    } catch (error) {
      if (this.#stopped.signal.aborted || this.state.name !== 'claimed') return;
      await this.giveUp(`no machine could be had for it: ${describeError(error)}`, 'no-machine');
    }
  }

  #cancel(): Promise<void> {
    return this.#giveUp('canceled', 'canceled before it began', null, 'unknown_failure');
  }

  #giveUp(
    outcome: JobOutcome,
    reason: string,
    cause: EndCause | null,
    wanted: FailureReason,
  ): Promise<void> {
    return this.apply({
      type: 'give-up',
      outcome,
      reason,
      cause,
      failureReason: failureReasonOf(wanted, this.facts.failureReasons),
      note: this.#note(reason, null),
    });
  }

  #note(reason: string, consoleTail: Uint8Array | null): string {
    return composeNote({
      reason,
      runnerName: this.runnerName,
      console: this.#services.consoleTail ? consoleTail : null,
      secrets: this.#secrets,
      now: this.#services.clock.now(),
    });
  }

  #onLimit({ reason, cause, ends }: TimeLimit): void {
    this.#limitReached = cause;
    if (ends === null) this.#machine?.stop(reason);
    else void this.#giveUp(ends.outcome, reason, cause, ends.failureReason);
  }
}
