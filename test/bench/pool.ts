/**
 * The host's pool under load: time per decision by number of machines and of waiting requests, and the
 * way from freed room to the next `boot()`.
 */

import type { Machine, MachineType } from 'forrest-gitlab/contract';
import { createState } from '../../fixtures/host/src/pool/book.ts';
import { decide } from '../../fixtures/host/src/pool/decide.ts';
import { type HostPoolSettings, type OwnedRoom, Pool } from '../../fixtures/host/src/pool/index.ts';
import type { PoolState } from '../../fixtures/host/src/pool/state.ts';
import { type Bench, type BenchReport, type Figure, type Goal, quantile } from './bench.ts';
import { NaivePool, type NaiveRequest } from './naive-pool.ts';

const GIB = 1024 ** 3;
const MACHINES = [10, 100, 1000] as const;
const WAITING = 10_000;
const FEW_WAITING = 100;
const DECISIONS = 8000;
/** Each load is measured so often, in turns; the calmest round counts, for the machine is not ours alone. */
const ROUNDS = 5;
const PEER_DECISIONS = 60;
const BOOTS = 3000;
const BOOT_LIMIT_MS = 5;

const TYPES = [1, 2, 4, 8];

function machineType(gib: number): MachineType {
  const name = `${gib}G`;
  return { name, ramBytes: gib * GIB, architecture: 'amd64', hostAddress: '127.0.0.1' };
}

/** A host on which about so many machines run. */
function settingsFor(machines: number): HostPoolSettings {
  return {
    ramBytes: machines * 4 * GIB,
    weights: { gitlab: 2 },
    order: 'largest_first',
    machineTypes: new Map(TYPES.map((gib) => [`${gib}G`, machineType(gib)])),
    gates: new Map(),
  };
}

/** The wish with that number: two forges, four sizes, one in three firm. */
function wish(id: number): { provider: string; gib: number; firm: boolean } {
  const firm = id % 3 === 0;
  return { provider: firm ? 'github' : 'gitlab', gib: TYPES[(id * 7) % TYPES.length] ?? 1, firm };
}

interface Load {
  request(id: number): readonly number[];
  release(id: number): readonly number[];
  /** A job was found with that room; where that is a decision too. */
  find?(id: number): readonly number[];
}

/** Times in ms: a machine ends, and for each grant a job is found and another request comes. */
function timeDecisions(load: Load, held: number[], firstId: number, decisions: number): number[] {
  const times: number[] = [];
  let id = firstId;
  const timed = (decision: () => readonly number[]): readonly number[] => {
    const start = performance.now();
    const granted = decision();
    times.push(performance.now() - start);
    held.push(...granted);
    return granted;
  };
  while (times.length < decisions) {
    const index = (id * 31) % held.length;
    const ended = held[index];
    if (ended === undefined) throw new Error('no machine runs');
    held[index] = held.at(-1) ?? ended;
    held.pop();
    const granted = [...timed(() => load.release(ended))];
    for (let next = granted.pop(); next !== undefined; next = granted.pop()) {
      const found = next;
      if (load.find !== undefined) granted.push(...timed(() => load.find?.(found) ?? []));
      granted.push(...timed(() => load.request(id++)));
    }
  }
  return times;
}

function timeOurs(machines: number, waiting: number): number[] {
  const state: PoolState = createState(settingsFor(machines));
  const held: number[] = [];
  let now = 0;
  const apply = (event: Parameters<typeof decide>[1]): readonly number[] => {
    now += 10;
    return decide(state, event, now).effects.flatMap((effect) =>
      effect.type === 'grant' ? [effect.id] : [],
    );
  };
  const load: Load = {
    request(id) {
      const { provider, gib, firm } = wish(id);
      const kind = firm ? 'firm' : 'speculative';
      return apply({ type: 'request', id, provider, machineType: `${gib}G`, kind });
    },
    release: (id) => apply({ type: 'release', id }),
    find: (id) => apply({ type: 'make-firm', id }),
  };
  let id = 1;
  while (state.waiting.size < waiting) {
    const granted = load.request(id++);
    for (const found of granted) load.find?.(found);
    held.push(...granted);
  }
  // Once unmeasured, until the code is compiled.
  timeDecisions(load, held, id, 5000);
  return timeDecisions(load, held, 10_000_000, DECISIONS);
}

function timePeer(machines: number, waiting: number): number[] {
  const pool = new NaivePool(machines * 4 * GIB);
  const make = (id: number): NaiveRequest => {
    const { provider, gib, firm } = wish(id);
    return { id, provider, bytes: gib * GIB, firm, since: id };
  };
  let id = 1;
  const rooms: NaiveRequest[] = [];
  for (let free = machines * 4; free > 0; id++) {
    const room = make(id);
    if (room.bytes > free * GIB) continue;
    rooms.push(room);
    free -= room.bytes / GIB;
  }
  const requests = Array.from({ length: waiting }, () => make(id++));
  pool.fill(rooms, requests);
  const load: Load = {
    request: (next) => pool.request(make(next)),
    release: (ended) => pool.release(ended),
  };
  const held = rooms.map((room) => room.id);
  return timeDecisions(load, held, id, PEER_DECISIONS);
}

/** From `release()` of a machine's room to the `boot()` of whoever gets it, in ms. */
async function timeBoots(machines: number): Promise<number[]> {
  const pool = new Pool(settingsFor(machines), {
    log: { error: (message) => console.error(message) },
    changed: () => undefined,
  });
  const booted: OwnedRoom[] = [];
  const times: number[] = [];
  let freedAt = 0;
  let onBoot = (): void => undefined;
  const maker = {
    boot(_provider: string, room: OwnedRoom): Machine {
      times.push(performance.now() - freedAt);
      booted.push(room);
      onBoot();
      return {} as Machine;
    },
    machinesOf: () => [],
  };
  const { signal } = new AbortController();
  const view = pool.viewOf('github', maker);
  let asked = 0;
  const ask = (): void => {
    const name = `${TYPES[asked % TYPES.length]}G`;
    asked += 1;
    const spec = { runnerName: `r-${asked}`, substitutions: {}, metadata: null };
    const wanted = { machineType: name, firm: true, purpose: 'a job', signal };
    view.reserve(wanted).then(
      (reservation) => reservation.boot(spec),
      (error: unknown) => console.error(error),
    );
  };
  while (pool.waiting().length === 0 || asked < WAITING + booted.length) {
    for (let count = 0; count < 500; count++) ask();
    await new Promise((resolve) => setImmediate(resolve));
  }
  times.length = 0;
  while (times.length < BOOTS) {
    const next = Promise.withResolvers<void>();
    const before = times.length;
    onBoot = next.resolve;
    freedAt = performance.now();
    booted.shift()?.release();
    // Where too little was freed for the next, one more machine ends.
    await Promise.race([next.promise, new Promise((resolve) => setImmediate(resolve))]);
    for (let boots = times.length - before; boots > 0; boots--) ask();
  }
  return times;
}

function calmest(rounds: readonly (readonly number[])[]): readonly number[] {
  const byMedian = rounds.toSorted((a, b) => quantile(a, 0.5) - quantile(b, 0.5));
  return byMedian[0] ?? [];
}

const mean = (times: readonly number[]): number =>
  times.reduce((sum, time) => sum + time, 0) / times.length;

async function run(progress: (line: string) => void): Promise<BenchReport> {
  const figures: Figure[] = [];
  const goals: Goal[] = [];
  for (const machines of MACHINES) {
    progress(`${machines} machines: deciding`);
    const rounds = Array.from({ length: ROUNDS }, () => ({
      many: timeOurs(machines, WAITING),
      few: timeOurs(machines, FEW_WAITING),
    }));
    const many = calmest(rounds.map((round) => round.many));
    const few = calmest(rounds.map((round) => round.few));
    const peer = timePeer(machines, WAITING);
    const load = `${machines} machines, ${WAITING.toLocaleString('en')} waiting`;
    const perSecond = (times: readonly number[]): number => Math.round(1000 / mean(times));
    const micros = (ms: number): number => Number((ms * 1000).toPrecision(4));
    figures.push(
      { what: `decisions, ${load}`, unit: '/s', ours: perSecond(many), peer: perSecond(peer) },
      {
        what: `one decision p50, ${load}`,
        unit: 'µs',
        ours: micros(quantile(many, 0.5)),
        peer: micros(quantile(peer, 0.5)),
      },
      {
        what: `one decision p99, ${load}`,
        unit: 'µs',
        ours: micros(quantile(many, 0.99)),
        peer: micros(quantile(peer, 0.99)),
      },
      {
        what: `one decision p50, ${machines} machines, ${FEW_WAITING} waiting`,
        unit: 'µs',
        ours: micros(quantile(few, 0.5)),
        peer: null,
      },
    );
    const growth = quantile(many, 0.5) / quantile(few, 0.5);
    const allowed = Math.log(WAITING) / Math.log(FEW_WAITING);
    goals.push({
      what: `${machines} machines: from ${FEW_WAITING} to ${WAITING.toLocaleString('en')} waiting, time grows with their logarithm at most: × ${allowed}`,
      measured: `× ${growth.toFixed(2)}`,
      met: growth <= allowed,
    });
  }
  progress('booting in freed room');
  const boots = await timeBoots(1000);
  const p99 = quantile(boots, 0.99);
  for (const [name, share] of [['p50', 0.5] as const, ['p99', 0.99] as const]) {
    figures.push({
      what: `freed room to next boot ${name}, 1,000 machines, ${WAITING.toLocaleString('en')} waiting`,
      unit: 'ms',
      ours: Number(quantile(boots, share).toPrecision(3)),
      peer: null,
    });
  }
  goals.push({
    what: `freed room to the next boot, p99 below ${BOOT_LIMIT_MS} ms`,
    measured: `${p99.toFixed(3)} ms`,
    met: p99 < BOOT_LIMIT_MS,
  });
  return { peer: 'sorts all at each event', figures, goals };
}

export const bench: Bench = {
  summary: 'the pool: time per decision, and from freed room to the next boot',
  run,
};
