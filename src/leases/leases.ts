/** All live leases: where claimer and proxy meet. */

import type { Reservation, VmPool } from '../contract/index.ts';
import type { Features, JobFacts, JobSecrets, ReadPayload } from '../gitlab/index.ts';
import { describeError } from '../lib/errors.ts';
import { Lease, type LeaseServices } from './lease.ts';
import { sameToken, tokenKey } from './vm-token.ts';

/** What a 201 gave us. */
export interface ClaimedJob {
  readonly payload: Buffer;
  readonly facts: JobFacts;
  readonly secrets: JobSecrets;
  readonly requestId: string | undefined;
}

export interface LeasesServices extends Omit<LeaseServices, 'changed' | 'ended'> {
  readPayload(payload: Buffer): ReadPayload;
  changed(): void;
  ended(lease: Lease): void;
}

export class Leases {
  readonly #services: LeasesServices;
  readonly #byJob = new Map<number, Lease>();
  readonly #byToken = new Map<string, Lease>();
  /** The key under which each lease stands in `#byToken`; a second boot changes it. */
  readonly #keys = new Map<Lease, string>();
  readonly #tokens = new Map<Lease, string>();
  readonly #learned = new Map<string, Features>();
  readonly #emptied = new Set<() => void>();

  constructor(services: LeasesServices) {
    this.#services = services;
  }

  /** Every live lease. */
  all(): Lease[] {
    return [...this.#byJob.values()];
  }

  /** How many jobs of a runner count against its limit. */
  countOf(runner: string): number {
    return this.all().filter((lease) => lease.runner === runner && lease.holdsRoom).length;
  }

  /** The lease that a VM token opens. */
  byVmToken(token: string): Lease | undefined {
    const lease = this.#byToken.get(tokenKey(token));
    return lease !== undefined && sameToken(lease.vmToken, token) ? lease : undefined;
  }

  /** Takes over a job that GitLab has just assigned, and boots its machine in the room held for it. */
  async claim(runner: string, job: ClaimedJob, reservation: Reservation): Promise<Lease> {
    const identity = await this.#services.newIdentity(runner);
    const known = this.#byJob.get(job.facts.id);
    if (known !== undefined) {
      this.#services.log.warn(`GitLab's answer with job ${job.facts.id} came twice: it runs once`);
      reservation.release();
      return known;
    }
    const lease = this.#track(
      new Lease(
        {
          facts: job.facts,
          runner,
          ...identity,
          requestId: job.requestId ?? null,
          stages: [{ name: 'claimed', at: this.#services.clock.now() }],
          state: { name: 'claimed', payload: job.payload, boots: 0 },
        },
        job.secrets,
        this.#leaseServices(),
      ),
    );
    try {
      await lease.begin(reservation);
    } catch (error) {
      // The job is running in GitLab: whatever went wrong here, it must be ended there.
      reservation.release();
      await lease.giveUp(`no machine could be started for it: ${describeError(error)}`);
    }
    return lease;
  }

  /** Brings back what an earlier run left. Everything is known again when it resolves. */
  async recover(machines: ReturnType<VmPool['machines']>): Promise<void> {
    const records = await this.#services.journal.load();
    const leases = records.map((record) => {
      const read =
        'payload' in record.state ? this.#services.readPayload(record.state.payload) : undefined;
      const secrets = read?.ok === true ? read.secrets : null;
      return this.#track(new Lease(record, secrets, this.#leaseServices()));
    });
    for (const lease of leases) {
      lease.resume(machines.find((machine) => machine.runnerName === lease.runnerName));
    }
    for (const machine of machines) {
      if (!leases.some((lease) => lease.runnerName === machine.runnerName)) {
        machine.stop('no job is known for it');
      }
    }
  }

  /** What the runner in a guest can do, told by a machine's first request before it had a job. */
  learnFeatures(runner: string, features: Features): void {
    this.#learned.set(runner, features);
  }

  learnedFeatures(runner: string): Features | undefined {
    return this.#learned.get(runner);
  }

  /** Resolves when no lease is left. */
  whenEmpty(): Promise<void> {
    if (this.#byJob.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#emptied.add(resolve));
  }

  /** Forgets them in this process; the journal keeps them for the next. */
  leaveAll(): void {
    for (const lease of this.all()) lease.leave();
  }

  #leaseServices(): LeaseServices {
    return {
      ...this.#services,
      changed: (lease) => {
        const tracked = this.#tokens.get(lease);
        if (tracked !== undefined && tracked !== lease.vmToken) this.#track(lease);
        this.#services.changed();
      },
      ended: (lease) => this.#forget(lease),
    };
  }

  /** Also after a second boot: the old machine's token is dead at once. */
  #track(lease: Lease): Lease {
    const key = tokenKey(lease.vmToken);
    const before = this.#keys.get(lease);
    if (before !== undefined && before !== key) this.#byToken.delete(before);
    this.#keys.set(lease, key);
    this.#tokens.set(lease, lease.vmToken);
    this.#byToken.set(key, lease);
    this.#byJob.set(lease.facts.id, lease);
    return lease;
  }

  #forget(lease: Lease): void {
    this.#byToken.delete(this.#keys.get(lease) ?? '');
    this.#keys.delete(lease);
    this.#tokens.delete(lease);
    this.#byJob.delete(lease.facts.id);
    this.#services.ended(lease);
    if (this.#byJob.size > 0) return;
    for (const resolve of this.#emptied) resolve();
    this.#emptied.clear();
  }
}
