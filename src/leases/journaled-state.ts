/** A lease's record as events change it: one after the other, each journaled before anything follows from it. */

import type { Logger } from '../contract/index.ts';
import { Serial } from '../lib/serial.ts';
import { checkpointAfter } from './checkpoints.ts';
import type { LeaseRecord } from './record.ts';
import type { LeaseServices } from './services.ts';
import { stagesOf } from './stages.ts';
import { type LeaseEvent, type LeaseState, transition } from './state.ts';

type Services = Pick<LeaseServices, 'clock' | 'journal' | 'checkpoint' | 'newIdentity'>;

/** Told what an event has changed; the new state is in the record. */
type Follow = (before: LeaseState, event: LeaseEvent['type']) => void;

export class JournaledState {
  readonly #services: Services;
  readonly #log: Logger;
  readonly #follow: Follow;
  readonly #events = new Serial();
  #record: LeaseRecord;
  #isLeft = false;

  constructor(record: LeaseRecord, services: Services, log: Logger, follow: Follow) {
    const { at, monotonic } = record.entered;
    const { clock } = services;
    // Never in the future: the host was booted anew since, or its clock was set back.
    const entered = {
      at: Math.min(at, clock.now()),
      monotonic: Math.min(monotonic, clock.monotonic()),
    };
    this.#record = { ...record, entered };
    this.#services = services;
    this.#log = log;
    this.#follow = follow;
  }

  get record(): LeaseRecord {
    return this.#record;
  }

  apply(event: LeaseEvent): Promise<void> {
    return this.run(() => this.advance(event));
  }

  /** No event comes between the parts of such a step. */
  run<T>(step: () => Promise<T>): Promise<T> {
    return this.#events.run(step);
  }

  /** As `apply`, within a step. */
  async advance(event: LeaseEvent): Promise<void> {
    const before = this.#record.state;
    const next = transition(before, event);
    if (next === null || this.#isLeft) return;
    const { clock, checkpoint } = this.#services;
    const at = clock.now();
    const isNew = next.name !== before.name;
    if (next.name === 'claimed') await this.#renewIdentity();
    const hadNone = before.name === 'claimed' && next.name !== 'booting';
    const record: LeaseRecord = {
      ...this.#record,
      // A machine that never was is not to be looked for.
      ...(hadNone ? { runnerName: '' } : {}),
      stages: [...this.#record.stages, ...stagesOf(before, next, event, at)],
      state: next,
      entered: isNew ? { at, monotonic: clock.monotonic() } : this.#record.entered,
    };
    const isOnDisk = await this.#put(record);
    // Its machine still has it: only what would survive us may be taken from there.
    if (event.type === 'final-held' && !isOnDisk) {
      await this.#put(this.#record);
      return;
    }
    await checkpoint(checkpointAfter(before, next, event));
    this.#record = record;
    const { facts, runnerName } = record;
    this.#log[isNew ? 'info' : 'debug'](`job ${facts.id}: ${before.name} -> ${next.name}`, {
      event: event.type,
      machine: runnerName,
    });
    this.#follow(before, event.type);
  }

  /** Journals it as it is. Whether it is on disk. */
  put(): Promise<boolean> {
    return this.run(() => this.#put(this.#record));
  }

  /** Of what GitLab could not be told, people may still want to know. */
  setAside(): Promise<void> {
    return this.run(() => this.#services.journal.setAside(this.#record.facts.id));
  }

  /** For the job's next machine. */
  renewIdentity(): Promise<void> {
    return this.run(() => this.#renewIdentity());
  }

  /** No event counts any more; the journal keeps the record. Resolves when nothing is under way. */
  leave(): Promise<void> {
    this.#isLeft = true;
    return this.run(async () => undefined);
  }

  async #renewIdentity(): Promise<void> {
    const { runnerName, vmToken } = await this.#services.newIdentity(this.#record.runner);
    this.#record = { ...this.#record, runnerName, vmToken };
  }

  async #put(record: LeaseRecord): Promise<boolean> {
    const { journal } = this.#services;
    return record.state.name === 'ended'
      ? await journal.remove(record.facts.id)
      : await journal.put(record);
  }
}
