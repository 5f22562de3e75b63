/** A host with the plugin and a GitLab, under fire out of one of its machines. */

import { readdirSync } from 'node:fs';
import type { SimJob, SimRequest } from '../../fixtures/gitlab/index.ts';
import { eventually } from '../support/deadline.ts';
import type { Guest } from '../support/guest.ts';
import { heapMib } from '../support/heap.ts';
import { startVictims } from '../support/victims.ts';
import { converse } from './converse.ts';
import { exchangesOf, type Speaker } from './exchanges.ts';
import { type Foreign, mutate } from './mutate.ts';
import { Chance } from './random.ts';
import { offenceOf } from './rules.ts';
import { shoot } from './shoot.ts';

export interface FuzzOptions {
  readonly seed: number;
  readonly seconds: number;
}

export interface FuzzReport {
  readonly seed: number;
  readonly seconds: number;
  readonly cases: number;
  /** How many cases were answered so; 0: not at all. */
  readonly answers: Readonly<Record<string, number>>;
  /** Calls that GitLab has seen, each within the lease. */
  readonly upstream: number;
  readonly jobs: number;
  readonly heapGrowthMib: number;
  readonly descriptorGrowth: number;
  readonly violations: readonly string[];
}

/** Cases under way at once. */
const SHOOTERS = 24;
/** Cases between two looks at what GitLab has seen. */
const BATCH = 480;
/** Batches until a machine ends in the middle of it all, and its token with it. */
const MACHINE_LIFE = 5;
/** Beyond what a garbage collector leaves lying about, and what the first calls compile. */
const MAX_HEAP_GROWTH_MIB = 48;
/** Idle connections to GitLab come and go. */
const MAX_DESCRIPTOR_GROWTH = 32;
/** Above what the shooters reach, so that all of it gets as far as it can. */
const LIMITS = {
  callsPerSecond: 1e6,
  callBurst: 1e6,
  connectionsPerSecond: 1e6,
  connectionBurst: 1e6,
};

/** A log or an update that does not end its job. */
const USUAL = /^P(?:ATCH|UT) (?![\s\S]*"state":"(?:success|failed)")/;

export async function fuzz({ seed, seconds }: FuzzOptions): Promise<FuzzReport> {
  const hooks: (() => unknown)[] = [];
  const violations: string[] = [];
  const onError = (error: unknown): void => {
    violations.push(`not caught: ${error instanceof Error ? error.stack : String(error)}`);
  };
  process.on('uncaughtException', onError).on('unhandledRejection', onError);
  try {
    const after = (hook?: unknown): void => void hooks.unshift(hook as () => unknown);
    const run = new Run(
      await startVictims({ after }, { seams: { limits: LIMITS } }),
      seed,
      violations,
    );
    return { seed, seconds, ...(await run.fire(seconds)), violations };
  } finally {
    for (const hook of hooks) await hook();
    process.off('uncaughtException', onError).off('unhandledRejection', onError);
  }
}

type World = Awaited<ReturnType<typeof startVictims>>;

class Run {
  readonly #world: World;
  readonly #seed: number;
  readonly #violations: string[];
  readonly #answers: Record<string, number> = {};
  readonly #speakers: Speaker[] = [];
  #guest: Guest;
  #job: SimJob;
  #cases = 0;
  #upstream = 0;

  constructor(world: World, seed: number, violations: string[]) {
    this.#world = world;
    this.#seed = seed;
    this.#violations = violations;
    this.#guest = world.guest;
    this.#job = world.job;
    this.#speakers.push(this.#speaker());
  }

  async fire(seconds: number): Promise<Omit<FuzzReport, 'seed' | 'seconds' | 'violations'>> {
    this.#forget();
    // What is compiled and opened once is no leak.
    await this.#batch();
    const before = { heap: await heapMib(), descriptors: descriptors() };
    const until = performance.now() + seconds * 1000;
    while (performance.now() < until && this.#violations.length === 0) await this.#batch();
    await this.#checkOther();
    const growth = await this.#settle(before);
    return {
      cases: this.#cases,
      answers: this.#answers,
      upstream: this.#upstream,
      jobs: this.#speakers.length,
      ...growth,
    };
  }

  /** So many cases, then a look at what came of them. */
  async #batch(): Promise<void> {
    const first = this.#cases;
    const shooter = async (): Promise<void> => {
      while (this.#cases < first + BATCH) await this.#case(this.#cases++);
    };
    await Promise.all(Array.from({ length: SHOOTERS }, shooter));
    this.#checkUpstream(`cases ${first} to ${this.#cases - 1}`);
    this.#checkLog();
    await this.#checkOther();
    await this.#renewJob();
  }

  async #case(number: number): Promise<void> {
    const chance = new Chance(this.#seed, number);
    const speaker = this.#speaker();
    if (chance.is(0.1)) return this.#conversation(number, chance, speaker);
    const answer = await shoot(this.#world.port, this.#bytes(chance, speaker), chance);
    const status = /^HTTP\/1\.1 (\d{3}) /.exec(answer)?.[1] ?? '0';
    this.#answers[status] = (this.#answers[status] ?? 0) + 1;
    if (answer !== '' && status === '0')
      this.#violation(number, 'an answer that is no HTTP', answer);
    if (status === '500' || status === '502') this.#violation(number, 'the proxy failed', answer);
  }

  /** Logs and updates, each of which has its answer; sometimes one that is mutated, which may end it all. */
  async #conversation(number: number, chance: Chance, speaker: Speaker): Promise<void> {
    const usual = exchangesOf(speaker).filter((request) => USUAL.test(request));
    const isPlain = chance.is(0.7);
    const calls = Array.from({ length: 2 + chance.below(8) }, () => {
      const call = chance.pick(usual);
      const isMutated = !isPlain && chance.is(0.5);
      return Buffer.from(
        isMutated ? mutate(call, chance, this.#foreign(), speaker) : call,
        'latin1',
      );
    });
    const patienceMs = isPlain ? 20_000 : 1000;
    const { statuses, rest, isWhole } = await converse(this.#world.port, calls, chance, patienceMs);
    for (const status of statuses) this.#answers[status] = (this.#answers[status] ?? 0) + 1;
    const isCutOff = isPlain && !isWhole && this.#job.status === 'running';
    if (isCutOff) this.#violation(number, `answered ${statuses}, then not any more`, rest);
    if (rest !== '' && !'HTTP/1.1 '.startsWith(rest.slice(0, 9)))
      this.#violation(number, 'something between answers', rest);
    if (statuses.some((status) => status === 500 || status === 502))
      this.#violation(number, 'the proxy failed', '');
  }

  #bytes(chance: Chance, speaker: Speaker): Buffer {
    if (chance.is(0.1)) return chance.bytes(1 + chance.below(2000));
    const foreign = this.#foreign();
    const exchanges = exchangesOf(speaker);
    const request = mutate(chance.pick(exchanges), chance, foreign, speaker);
    const next = chance.is(0.1) ? mutate(chance.pick(exchanges), chance, foreign, speaker) : '';
    return Buffer.from(request + next, 'latin1');
  }

  #foreign(): Foreign {
    const { other, older, rig } = this.#world;
    return {
      tokens: [other.job.token, older.job.token, older.guest.token, rig.runner.token],
      jobIds: [other.job.id, older.job.id, 1, 999_999],
    };
  }

  /** Only calls for the jobs that were the speaker's; what was looked at is forgotten, or it would look like a leak. */
  #checkUpstream(when: string): void {
    for (const request of this.#forget()) {
      if (request.route === 'jobs-request') continue;
      this.#upstream += 1;
      const offence =
        request.aborted && request.body.length === 0
          ? undefined
          : offenceOf(request, this.#speakers);
      if (offence === undefined) continue;
      this.#violations.push(
        `${when}: GitLab has seen ${offence}: ${request.method} ${request.target} ${JSON.stringify(request.headers)}`,
      );
    }
  }

  #forget(): SimRequest[] {
    return (this.#world.rig.gitlab.requests as SimRequest[]).splice(0);
  }

  #checkLog(): void {
    const lines = (this.#world.rig.log as string[]).splice(0);
    const errors = lines.filter((line) => /"level":"error"/i.test(line));
    this.#violations.push(...errors.map((line) => `logged as an error: ${line}`));
  }

  /** A final update is a case like any other: then the next machine speaks. */
  async #renewJob(): Promise<void> {
    const isOver =
      this.#job.status !== 'running' || this.#world.rig.row(this.#job)?.state !== 'running';
    if (!isOver && this.#cases % (MACHINE_LIFE * BATCH) !== 0) return;
    await this.#guest.powerOff();
    const { job, guest } = await this.#world.rig.running();
    this.#job = job;
    this.#guest = guest;
    this.#speakers.push(this.#speaker());
  }

  /** Another machine's job has seen nothing of all that. */
  async #checkOther(): Promise<void> {
    const { job, guest } = this.#world.other;
    const { status } = await guest.log('unimpressed');
    if (status !== 202 || job.status !== 'running') {
      const reason = this.#world.rig.row(job)?.reason;
      this.#violations.push(
        `the other machine is answered ${status}, its job is ${job.status}: ${reason}`,
      );
    }
    this.#forget();
  }

  async #settle(before: { heap: number; descriptors: number }) {
    const few = (): boolean => descriptors() - before.descriptors <= MAX_DESCRIPTOR_GROWTH;
    await eventually('connections to be closed', few, 20_000).catch(() => undefined);
    const descriptorGrowth = descriptors() - before.descriptors;
    const heapGrowthMib = Math.round((await heapMib()) - before.heap);
    if (!few()) this.#violations.push(`${descriptorGrowth} descriptors more than before`);
    if (heapGrowthMib > MAX_HEAP_GROWTH_MIB) {
      this.#violations.push(`the heap has grown by ${heapGrowthMib} MiB`);
    }
    return { heapGrowthMib, descriptorGrowth };
  }

  #violation(number: number, what: string, answer: string): void {
    this.#violations.push(`case ${number}: ${what}: ${JSON.stringify(answer.slice(0, 300))}`);
  }

  #speaker(): Speaker {
    return { vmToken: this.#guest.token, jobId: this.#job.id, jobToken: this.#job.token };
  }
}

function descriptors(): number {
  return readdirSync('/proc/self/fd').length;
}
