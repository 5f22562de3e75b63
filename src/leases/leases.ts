/** All live leases: where claimer and proxy meet. */

import type { Machine, VmPool } from '../contract/index.ts';
import type { BareJob, Features, JobFacts, JobSecrets, ReadPayload } from '../gitlab/index.ts';
import { describeError } from '../lib/errors.ts';
import type { Journal } from './journal.ts';
import { Lease } from './lease.ts';
import { isReady, type Place } from './ready-machine.ts';
import type { LeaseRecord, Moment } from './record.ts';
import { bareFacts, machineOf, salvagedRecord } from './salvaged.ts';
import type { LeaseServices } from './services.ts';
import { tokenKey } from './vm-token.ts';

/** What a 201 gave us. */
export interface ClaimedJob {
  readonly payload: Buffer;
  readonly facts: JobFacts;
  readonly secrets: JobSecrets;
  readonly requestId: string | undefined;
}

export interface LeasesServices extends Omit<LeaseServices, 'changed' | 'ended'> {
  readonly entries: Pick<Journal, 'load'>;
  readPayload(payload: Buffer): ReadPayload;
  changed(): void;
  ended(lease: Lease): void;
  /** A VM token opens nothing any more: its machine has ended, or another one has taken its place. */
  closed(vmToken: string): void;
}

export class Leases {
  readonly #services: LeasesServices;
  readonly #byJob = new Map<number, Lease>();
  /** By runner: jobs that are no leases yet. */
  readonly #beingClaimed = new Map<string, number>();
  readonly #byToken = new Map<string, Lease>();
  /** The token by which each lease stands in `#byToken`; a second boot changes it. */
  readonly #tokens = new Map<Lease, string>();
  /** By runner. */
  readonly #learned = new Map<string, { features: Features; executor: string | null }>();
  readonly #emptied = new Set<() => void>();
  /** Brought back, and not yet gone on with. */
  readonly #loaded: Lease[] = [];

  constructor(services: LeasesServices) {
    this.#services = services;
  }

  /** Every live lease. */
  all(): Lease[] {
    return [...this.#byJob.values()];
  }

  /** How many jobs of a runner count against its limit, those included that are just being claimed. */
  countOf(runner: string): number {
    const isOwn = (lease: Lease): boolean => lease.runner === runner && lease.holdsRoom;
    return this.all().filter(isOwn).length + (this.#beingClaimed.get(runner) ?? 0);
  }

  /** The lease of a job. */
  byJob(id: number): Lease | undefined {
    return this.#byJob.get(id);
  }

  /** The lease that a VM token opens. */
  byVmToken(token: string): Lease | undefined {
    const lease = this.#byToken.get(tokenKey(token));
    // Found by its digest, it is that token: how long this takes tells nothing to anybody else.
    return lease?.vmToken === token ? lease : undefined;
  }

  /** Takes over a job that GitLab has just assigned, and gives it the machine that the place is for. */
  async claim(runner: string, job: ClaimedJob, offered: Place): Promise<Lease> {
    let place: Place | null = offered;
    if (isReady(offered) && !offered.suits(job.facts)) {
      offered.release();
      place = null;
    }
    const lease = await this.#newLease(runner, job, place);
    if (lease === null) {
      this.#services.log.warn(`GitLab's answer with job ${job.facts.id} came twice: it runs once`);
      place?.release();
      return this.#byJob.get(job.facts.id) as Lease;
    }
    try {
      await lease.begin(place);
    } catch (error) {
      // The job is running in GitLab: whatever went wrong here, it must be ended there.
      place?.release();
      await lease.giveUp(
        `no machine could be started for it: ${describeError(error)}`,
        'no-machine',
      );
    }
    return lease;
  }

  /** Takes over a job of which too little came to run it: it is ended in GitLab, with the reason in its log. */
  async refuse(runner: string, job: BareJob, reason: string): Promise<void> {
    const claimed = {
      payload: Buffer.alloc(0),
      facts: bareFacts(job),
      secrets: { values: [job.token], prefixes: [] },
      requestId: undefined,
    };
    const lease = await this.#newLease(runner, claimed, null);
    await lease?.giveUp(reason, 'payload-unreadable');
  }

  /** Null where the job has one. */
  async #newLease(runner: string, job: ClaimedJob, place: Place | null): Promise<Lease | null> {
    this.#countClaim(runner, 1);
    try {
      const { runnerName, vmToken } =
        place !== null && isReady(place) ? place : await this.#services.newIdentity(runner);
      if (this.#byJob.has(job.facts.id)) return null;
      const record: LeaseRecord = {
        facts: job.facts,
        runner,
        runnerName,
        vmToken,
        requestId: job.requestId ?? null,
        stages: [{ name: 'claimed', at: this.#services.clock.now() }],
        state: { name: 'claimed', payload: job.payload, boots: 0 },
        entered: this.#now(),
      };
      return this.#track(new Lease(record, job.secrets, this.#leaseServices()));
    } finally {
      this.#countClaim(runner, -1);
    }
  }

  #countClaim(runner: string, change: 1 | -1): void {
    this.#beingClaimed.set(runner, (this.#beingClaimed.get(runner) ?? 0) + change);
  }

  /**
   * Knows again what an earlier run left; resolves with the machines that are no job's. Nothing may be
   * answered before it resolves.
   */
  async load(machines: ReturnType<VmPool['machines']>): Promise<Machine[]> {
    const { records, salvaged } = await this.#services.entries.load();
    for (const record of records) {
      const read =
        'payload' in record.state ? this.#services.readPayload(record.state.payload) : undefined;
      const secrets = read?.ok === true ? read.secrets : null;
      const machine = machines.find((one) => one.runnerName === record.runnerName);
      this.#bringBack(record, secrets, machine);
    }
    for (const job of salvaged) {
      const machine = machineOf(job.id, machines);
      this.#bringBack(salvagedRecord(job, machine, this.#now()), null, machine);
    }
    return machines.filter((machine) => !this.all().some((lease) => lease.machine === machine));
  }

  /** Goes on with what was loaded; what has no machine any more is ended in GitLab, in the background. */
  resume(): void {
    for (const lease of this.#loaded.splice(0)) lease.resume();
  }

  /** What the runner in a guest can do with its executor, told by a machine's first request before it had a job. */
  learnFeatures(runner: string, features: Features, executor: string | null): void {
    this.#learned.set(runner, { features, executor });
  }

  /** Nothing of what was told for another executor: a reload may have changed that. */
  learnedFeatures(runner: string, executor: string): Features | undefined {
    const learned = this.#learned.get(runner);
    return (learned?.executor ?? executor) === executor ? learned?.features : undefined;
  }

  /** Resolves when no lease is left. */
  whenEmpty(): Promise<void> {
    if (this.#byJob.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#emptied.add(resolve));
  }

  /** Forgets them in this process; the journal keeps them for the next. */
  async leaveAll(): Promise<void> {
    await Promise.all(this.all().map((lease) => lease.leave()));
  }

  #bringBack(record: LeaseRecord, secrets: JobSecrets | null, machine: Machine | undefined): void {
    const lease = this.#track(new Lease(record, secrets, this.#leaseServices()));
    if (machine !== undefined) lease.attach(machine);
    this.#loaded.push(lease);
  }

  #now(): Moment {
    const { clock } = this.#services;
    return { at: clock.now(), monotonic: clock.monotonic() };
  }

  #leaseServices(): LeaseServices {
    return {
      ...this.#services,
      changed: (lease) => {
        if (this.#byJob.has(lease.facts.id)) this.#track(lease);
        this.#services.changed();
      },
      ended: (lease) => this.#forget(lease),
    };
  }

  /** Also after a second boot, or when its machine has ended: that machine's token is dead at once. */
  #track(lease: Lease): Lease {
    const before = this.#tokens.get(lease);
    if (before !== undefined && (before !== lease.vmToken || !lease.isOpen)) this.#close(lease);
    // Of a damaged entry no token is left: nothing may be opened by the lack of one.
    if (lease.isOpen && before !== lease.vmToken && lease.vmToken !== '') {
      this.#tokens.set(lease, lease.vmToken);
      this.#byToken.set(tokenKey(lease.vmToken), lease);
    }
    this.#byJob.set(lease.facts.id, lease);
    return lease;
  }

  #close(lease: Lease): void {
    const token = this.#tokens.get(lease);
    if (token === undefined) return;
    this.#tokens.delete(lease);
    this.#byToken.delete(tokenKey(token));
    this.#services.closed(token);
  }

  #forget(lease: Lease): void {
    this.#close(lease);
    this.#byJob.delete(lease.facts.id);
    this.#services.ended(lease);
    if (this.#byJob.size > 0) return;
    for (const resolve of this.#emptied) resolve();
    this.#emptied.clear();
  }
}
