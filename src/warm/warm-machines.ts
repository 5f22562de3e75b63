/**
 * The warm machines of all runners: how many there are to be, which of them goes, who gets one. Each `look` brings
 * what is there to what is wanted; whatever may change that calls it.
 */

import type { Machine, MachineOutcome, MachineState } from '../contract/index.ts';
import { isVmTokenOf, type ReadyMachine, tokenKey } from '../leases/index.ts';
import type { Timer } from '../lib/clock.ts';
import { Boots } from './boots.ts';
import { readMetadata, type WarmFacts } from './metadata.ts';
import type { WarmServices, Wish } from './services.ts';
import { type WarmCause, WarmMachine } from './warm-machine.ts';

/** A machine's memory becomes free just after its end; only then it is known who still waits. */
const SETTLE_MS = 100;

/** What a machine is before it has a job. */
const WAITING: ReadonlySet<MachineState> = new Set([
  'requested',
  'registering',
  'registered',
  'starting',
  'waiting',
]);

const GAVE_UP = 'its runner has given up waiting (does its template say --wait-timeout?)';

export class WarmMachines {
  readonly #services: WarmServices;
  readonly #all = new Set<WarmMachine>();
  readonly #byToken = new Map<string, WarmMachine>();
  readonly #boots: Boots;
  /** Machines that were told to end, and have not. */
  readonly #ending = new Set<Machine>();
  readonly #emptied = new Set<() => void>();
  #isYielding = false;
  /** What there is to be is not known before. */
  #hasBegun = false;
  #timer: Timer | null = null;

  constructor(services: WarmServices) {
    this.#services = services;
    this.#boots = new Boots(
      services,
      (machine, facts) => this.#add(machine, facts, false),
      () => this.look(),
    );
  }

  /** Those that wait for a job, or will. */
  of(runner: string): readonly WarmMachine[] {
    return [...this.#all].filter((one) => one.facts.runner === runner);
  }

  byVmToken(token: string): WarmMachine | undefined {
    const found = this.#byToken.get(tokenKey(token));
    // Found by its digest, it is that token: how long this takes tells nothing to anybody else.
    return found?.facts.vmToken === token ? found : undefined;
  }

  /** Knows again those that an earlier run left; resolves with the machines that are none. */
  load(machines: readonly Machine[]): Machine[] {
    return machines.filter((machine) => {
      const facts = readMetadata(machine.metadata);
      // Once it was firm it had a job, whatever has become of that job's entry: it may have run it.
      if (facts === null || machine.firm || !WAITING.has(machine.state)) return true;
      this.#add(machine, facts, machine.state === 'waiting');
      return false;
    });
  }

  /** From where warm machines of an earlier run were told to clone. */
  get knownCloneUrl(): string | null {
    return [...this.#all][0]?.facts.cloneUrl ?? null;
  }

  /**
   * A machine for a claimer that is about to ask GitLab; null: there is none that nobody else waits for. It is
   * given back by `release`, or taken for the job that was found. At most one of a runner is pinned.
   */
  pin(runner: string, runnerToken: string): ReadyMachine | null {
    if (this.#all.size === 0) return null;
    this.look();
    for (const one of this.of(runner)) {
      if (!one.isPinned && !isVmTokenOf(one.facts.vmToken, runnerToken)) {
        this.#end(one, 'retired', 'its runner has another token now');
      }
    }
    const free = this.of(runner).filter(
      ({ isPinned, machine }) => !isPinned && machine.wanted === 'no' && !machine.outdated,
    );
    const [best] = free.toSorted((a, b) => b.readiness - a.readiness);
    if (best === undefined) return null;
    best.isPinned = true;
    return this.#readyMachine(best);
  }

  /** From now on there are as many as are wished for. */
  begin(): void {
    this.#hasBegun = true;
    this.look();
  }

  /** Call it whenever something has changed that may change which warm machines there are to be. */
  look(): void {
    if (!this.#hasBegun) return;
    const { clock } = this.#services;
    const now = clock.monotonic();
    for (const one of this.#all) if (!one.isPinned) this.#endIfDue(one, now);
    this.#yieldOne();
    this.#boots.abort((runner) => this.#wishFor(runner) === undefined);
    for (const wish of this.#services.wishes()) this.#adjust(wish);
    this.#arm(now);
  }

  /** Waits for no more room. Those that are there stay. */
  leave(): void {
    this.#hasBegun = false;
    this.#timer?.cancel();
    this.#boots.abort();
  }

  /** Ends those that no job pins; resolves when none is left. */
  async end(reason: string): Promise<void> {
    this.leave();
    for (const one of this.#all) this.#end(one, 'retired', reason);
    if (this.#ending.size === 0) return;
    await new Promise<void>((resolve) => this.#emptied.add(resolve));
  }

  #wishFor(runner: string): Wish | undefined {
    return this.#services.wishes().find((wish) => wish.runner.name === runner);
  }

  #endIfDue(one: WarmMachine, now: number): void {
    const { runner, settings } = one.facts;
    const wish = this.#wishFor(runner);
    if (wish === undefined) {
      this.#end(one, 'retired', 'its runner is not configured any more');
    } else if (this.#services.settings(wish.runner).settings !== settings) {
      this.#end(one, 'retired', 'its runner is configured otherwise now');
    } else if (one.machine.outdated) {
      this.#end(one, 'retired', 'machines of its type are booted from something else now');
    } else if (now >= one.retireAt) {
      this.#boots.rest(runner).forget();
      this.#end(one, 'retired', 'it has waited long enough');
    } else if (now >= one.silentAt) {
      this.#fail(one, one.isReady ? 'its runner has stopped asking' : 'its runner did not ask');
    }
  }

  /** One at a time: others may need no more than its room. */
  #yieldOne(): void {
    if (this.#isYielding) return;
    const [first] = [...this.#all]
      .filter(({ isPinned, machine }) => !isPinned && machine.wanted !== 'no')
      .toSorted((a, b) => a.readiness - b.readiness);
    if (first === undefined) return;
    this.#isYielding = true;
    const { clock } = this.#services;
    this.#boots.rest(first.facts.runner).begin(clock.monotonic());
    void first.machine.ended.then(() =>
      clock.after(SETTLE_MS, () => {
        this.#isYielding = false;
        this.look();
      }),
    );
    this.#end(first, 'yielded', 'its room is needed');
  }

  #adjust(wish: Wish): void {
    // One with a job that is being journaled counts as that job's.
    const own = this.of(wish.runner.name).filter(({ machine }) => !machine.firm);
    const surplus = own
      .filter(({ isPinned }) => !isPinned)
      .toSorted((a, b) => a.readiness - b.readiness)
      .slice(0, Math.max(0, own.length - wish.count));
    for (const one of surplus) this.#end(one, 'surplus', 'there are more than are wanted');
    // One after the other: many that boot at once slow down each other, and the jobs.
    const isBooting = own.some(({ isReady }) => !isReady);
    this.#boots.adjust(isBooting ? { ...wish, count: 0 } : wish, own.length);
  }

  #add(machine: Machine, facts: WarmFacts, hasAsked: boolean): void {
    const { clock, timings, changed } = this.#services;
    const one = new WarmMachine(machine, facts, hasAsked, clock, timings);
    this.#all.add(one);
    this.#byToken.set(tokenKey(facts.vmToken), one);
    const unwatch = machine.onWanted(() => this.look());
    void machine.ended.then((outcome) => {
      unwatch();
      this.#onEnded(one, outcome);
    });
    changed();
  }

  #onEnded(one: WarmMachine, { cause, detail }: MachineOutcome): void {
    if (this.#ending.delete(one.machine) && this.#ending.size === 0) {
      for (const resolve of this.#emptied) resolve();
      this.#emptied.clear();
    }
    // One that has a job, or was told to end, is none of ours any more.
    if (this.#all.has(one)) {
      // A job that is being asked for with it gets room of its own.
      one.isPinned = false;
      const gaveUp = one.isReady && cause === 'powered-off';
      this.#fail(one, gaveUp ? `${detail}, ${GAVE_UP}` : detail);
    }
    this.look();
  }

  #fail(one: WarmMachine, reason: string): void {
    const { clock, log } = this.#services;
    const { runner } = one.facts;
    const restMs = this.#boots.rest(runner).begin(clock.monotonic());
    log.warn(
      `a warm machine of runner ${runner} was of no use: ${reason}; the next one is booted after ${Math.round(restMs / 1000)} s`,
      { machine: one.machine.runnerName },
    );
    this.#end(one, 'failed', reason);
  }

  /** Its token is dead at once. */
  #end(one: WarmMachine, cause: WarmCause, reason: string): void {
    if (one.isPinned || !this.#forget(one, cause)) return;
    this.#services.log.debug(`a warm machine of runner ${one.facts.runner} goes: ${reason}`, {
      machine: one.machine.runnerName,
    });
    this.#services.closed(one.facts.vmToken);
    one.settle();
    this.#stop(one.machine, reason);
  }

  #stop(machine: Machine, reason: string): void {
    if (machine.state !== 'stopped') this.#ending.add(machine);
    machine.stop(reason);
  }

  #forget(one: WarmMachine, cause: WarmCause): boolean {
    if (!this.#all.delete(one)) return false;
    this.#byToken.delete(tokenKey(one.facts.vmToken));
    this.#services.ended(one.facts.runner, cause);
    this.#services.changed();
    return true;
  }

  #readyMachine(one: WarmMachine): ReadyMachine {
    const { machine, facts } = one;
    return {
      runnerName: machine.runnerName,
      vmToken: facts.vmToken,
      suits: (job) => this.#all.has(one) && this.#services.cloneUrlOf(job) === facts.cloneUrl,
      makeFirm: () => machine.makeFirm(),
      take: () => {
        const { clock, timings } = this.#services;
        if (this.#forget(one, 'bound')) {
          this.#boots.rest(facts.runner).forget(clock.monotonic() + timings.warmRefillMs);
        }
        one.isPinned = false;
        one.settle();
        return machine;
      },
      release: () => {
        one.isPinned = false;
        if (machine.firm) this.#end(one, 'retired', 'it was of no use to the job that was found');
        this.look();
      },
    };
  }

  /** For the next moment at which time alone changes something. */
  #arm(now: number): void {
    this.#timer?.cancel();
    const times = [...this.#all].flatMap(({ retireAt, silentAt }) => [retireAt, silentAt]);
    times.push(...this.#boots.restsUntil.filter((until) => until > now));
    if (times.length === 0) return;
    const { clock, timings } = this.#services;
    const delayMs = Math.min(timings.warmLookMs, Math.max(1, Math.min(...times) - now));
    this.#timer = clock.after(delayMs, () => this.look());
  }
}
