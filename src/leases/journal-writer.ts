/** The journal, written whatever the disk does: what cannot be written now is written when it can be. */

import type { Timings } from '../config/index.ts';
import type { Logger } from '../contract/index.ts';
import { type Clock, sleep } from '../lib/clock.ts';
import { describeError } from '../lib/errors.ts';
import { Serial } from '../lib/serial.ts';
import type { Journal } from './journal.ts';
import type { LeaseRecord } from './record.ts';

export interface JournalWriterServices {
  readonly clock: Clock;
  readonly timings: Timings;
  readonly log: Logger;
  /** Whether the journal can be written has changed. */
  changed(): void;
}

/** Never rejects: a job that GitLab already runs goes on, and no new one is taken meanwhile (`problem`). */
export class JournalWriter {
  readonly #journal: Journal;
  readonly #services: JournalWriterServices;
  readonly #stopped = new AbortController();
  readonly #writes = new Map<number, Serial>();
  /** What is not on disk as it should be; null: an entry that should be gone. */
  readonly #unwritten = new Map<number, LeaseRecord | null>();
  #problem: string | null = null;
  #retrying: Promise<void> | null = null;

  constructor(journal: Journal, services: JournalWriterServices) {
    this.#journal = journal;
    this.#services = services;
  }

  /** Why no new job may be taken: its entry could not be written. Null: it can. */
  get problem(): string | null {
    return this.#problem;
  }

  /** Resolves after one try, with whether it is on disk. */
  put(record: LeaseRecord): Promise<boolean> {
    return this.#change(record.facts.id, record);
  }

  async remove(jobId: number): Promise<boolean> {
    const isGone = await this.#change(jobId, null);
    this.#writes.delete(jobId);
    return isGone;
  }

  /** Sets aside what GitLab could not be told. */
  async setAside(jobId: number): Promise<void> {
    try {
      await this.#serialOf(jobId).run(() => this.#journal.setAside(jobId));
    } catch (error) {
      this.#services.log.error(`the journal entry of job ${jobId} could not be set aside`, {
        error,
      });
    }
  }

  /** Whether there is room for another job's entry; looked at before the first job is asked for. */
  async check(): Promise<void> {
    try {
      await this.#journal.keepSpare();
    } catch (error) {
      this.#onFailed(error, 'no new job is taken');
    }
  }

  /** Ends the retries of this process. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#retrying;
    await Promise.all(
      [...this.#writes.values()].map((serial) => serial.run(async () => undefined)),
    );
  }

  async #change(jobId: number, record: LeaseRecord | null): Promise<boolean> {
    this.#unwritten.set(jobId, record);
    try {
      await this.#write(jobId);
    } catch (error) {
      this.#onFailed(error, `a crash now would lose job ${jobId}`);
      return false;
    }
    // The spare may have been what it was written with.
    if (record?.state.name === 'claimed') await this.check();
    return true;
  }

  #write(jobId: number): Promise<void> {
    return this.#serialOf(jobId).run(async () => {
      const record = this.#unwritten.get(jobId);
      if (record === undefined) return;
      if (record === null) await this.#journal.remove(jobId);
      else await this.#journal.put(record);
      if (this.#unwritten.get(jobId) === record) this.#unwritten.delete(jobId);
    });
  }

  #serialOf(jobId: number): Serial {
    const serial = this.#writes.get(jobId) ?? new Serial();
    this.#writes.set(jobId, serial);
    return serial;
  }

  #onFailed(error: unknown, consequence: string): void {
    const problem = `the journal cannot be written: ${describeError(error)}`;
    if (this.#problem !== problem || consequence.startsWith('a crash')) {
      this.#services.log.error(`${problem}; ${consequence}`, { error });
    }
    this.#problem = problem;
    this.#services.changed();
    this.#retrying ??= this.#retry().finally(() => {
      this.#retrying = null;
    });
  }

  async #retry(): Promise<void> {
    const { clock, timings, log, changed } = this.#services;
    while (!this.#stopped.signal.aborted) {
      await sleep(clock, timings.journalRetryMs, this.#stopped.signal);
      if (this.#stopped.signal.aborted) return;
      try {
        for (const jobId of [...this.#unwritten.keys()]) await this.#write(jobId);
        await this.#journal.keepSpare();
      } catch (error) {
        log.debug('the journal still cannot be written', { error });
        continue;
      }
      if (this.#unwritten.size > 0) continue;
      this.#problem = null;
      log.info('the journal can be written again');
      changed();
      return;
    }
  }
}
