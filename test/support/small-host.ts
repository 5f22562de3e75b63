/** The smallest host that runs jobs; `docs/writing-a-host.md` shows its parts. Keeps nothing over a restart. */

import { type ChildProcess, spawn } from 'node:child_process';
import net from 'node:net';
import type {
  BootSpec,
  ListenTarget,
  Logger,
  Machine,
  MachineOutcome,
  MachineType,
  Metrics,
  Provider,
  ProviderHost,
  ProviderPlugin,
  Reservation,
  Room,
  RoomRequest,
  VmPool,
} from 'forrest-gitlab/contract';

/** Makes what the machine is to run; it ends with its job. */
export type Spawn = (spec: BootSpec) => ChildProcess;

export class SmallPool implements VmPool {
  readonly #types: ReadonlyMap<string, MachineType>;
  readonly #spawn: Spawn;
  readonly #machines = new Set<Machine>();
  readonly #waiting: (() => void)[] = [];
  #freeBytes: number;

  constructor(ramBytes: number, types: readonly MachineType[], spawnMachine: Spawn) {
    this.#freeBytes = ramBytes;
    this.#types = new Map(types.map((type) => [type.name, type]));
    this.#spawn = spawnMachine;
  }

  machineTypes(): ReadonlyMap<string, MachineType> {
    return this.#types;
  }

  machines(): readonly Machine[] {
    return [...this.#machines];
  }

  expectJob(): void {}

  // #region reserve
  async reserve(request: RoomRequest): Promise<Reservation> {
    const type = this.#types.get(request.machineType);
    if (type === undefined) {
      throw Object.assign(new Error('no such machine type'), { code: 'unknown_machine_type' });
    }
    while (this.#freeBytes < type.ramBytes) {
      request.onWaiting?.(`needs ${type.ramBytes} bytes, ${this.#freeBytes} free`);
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
        request.signal.addEventListener('abort', () => resolve(), { once: true });
      });
      if (request.signal.aborted) {
        throw Object.assign(new Error('taken back'), { code: 'aborted' });
      }
    }
    this.#freeBytes -= type.ramBytes;
    return this.#reservation(type, request.firm);
  }
  // #endregion

  #release(type: MachineType): void {
    this.#freeBytes += type.ramBytes;
    for (const wake of this.#waiting.splice(0)) wake();
  }

  // #region reservation
  #reservation(machineType: MachineType, firm: boolean): Reservation {
    let state: 'held' | 'used' | 'released' = 'held';
    const room: Room = {
      ...{ machineType, firm, wanted: 'no' },
      onWanted: () => () => undefined,
      makeFirm: () => undefined,
    };
    return {
      ...room,
      release: () => {
        if (state === 'held') this.#release(machineType);
        state = state === 'used' ? 'used' : 'released';
      },
      boot: (spec) => {
        if (state !== 'held') throw new Error('this room has ended');
        state = 'used';
        return this.#boot(room, spec);
      },
    };
  }
  // #endregion

  // #region boot
  #boot(room: Room, spec: BootSpec): Machine {
    const { promise: ended, resolve } = Promise.withResolvers<MachineOutcome>();
    const child = this.#spawn(spec);
    let state: Machine['state'] = 'starting';
    let stopped: string | null = null;
    const machine: Machine = {
      ...room,
      ...{ runnerName: spec.runnerName, metadata: spec.metadata, bootedAt: Date.now(), ended },
      get state() {
        return state;
      },
      report(event) {
        state = ({ online: 'waiting', busy: 'running', done: 'stopping' } as const)[event];
      },
      allowPersist: async () => undefined,
      stop(reason) {
        stopped ??= reason;
        child.kill('SIGKILL');
      },
    };
    const end = (exitCode: number | null, crash: string): void => {
      state = 'stopped';
      this.#machines.delete(machine);
      resolve({
        cause: stopped === null ? (exitCode === 0 ? 'powered-off' : 'crashed') : 'stopped',
        detail: stopped ?? (exitCode === 0 ? 'it powered off' : crash),
        ...{ exitCode, consoleTail: new Uint8Array(), persisted: false },
      });
      this.#release(room.machineType);
    };
    child.once('error', (error) => end(null, error.message));
    child.once('exit', (code) => end(code, `it ended with code ${code}`));
    this.#machines.add(machine);
    return machine;
  }
  // #endregion
}

// #region host
export function createSmallHost(pool: VmPool, stateDir: string, log: Logger): ProviderHost {
  return {
    ...{ hostName: 'small', stateDir, pool, log, metrics: NO_METRICS, proxyEnv: {}, listen },
    changed: () => undefined,
    jobEnded: ({ name, outcome }) => log.info('job ended', { name, outcome }),
  };
}

async function listen(_name: string, address: string): Promise<ListenTarget> {
  const { hostname, port } = new URL(`tcp://${address}`);
  const server = net.createServer({ pauseOnConnect: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(Number(port), hostname, resolve);
  });
  const bound = (server.address() as net.AddressInfo).port;
  return {
    ...{ address: `${hostname}:${bound}`, port: bound },
    accept: (onConnection) => void server.on('connection', onConnection),
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}
// #endregion

const NO_METRICS: Metrics = {
  counter: () => ({ add: () => undefined }),
  gauge: () => ({ set: () => undefined }),
  histogram: () => ({ observe: () => undefined }),
  observedGauge: () => undefined,
};

// #region start
export async function startProvider<C>(
  plugin: ProviderPlugin<C>,
  section: unknown,
  { host, file }: { host: ProviderHost; file: string },
): Promise<Provider<C>> {
  const machineType = (name: string) => host.pool.machineTypes().get(name);
  const parsed = await plugin.parseConfig(section, { file, machineType });
  if (!parsed.ok) {
    throw new Error(parsed.problems.map(({ path, message }) => `${path}: ${message}`).join('\n'));
  }
  const provider = plugin.create(host, parsed.config);
  await provider.start();
  return provider;
}
// #endregion

/** Runs a command; what is substituted in a template elsewhere is its environment here. */
export const spawnWithEnvironment =
  (command: readonly string[], env: NodeJS.ProcessEnv): Spawn =>
  ({ substitutions }) => {
    const values = Object.entries(substitutions).map(([name, value]) => [
      name,
      typeof value === 'string' ? value : value.reveal(),
    ]);
    const [program = '', ...args] = command;
    return spawn(program, args, {
      env: { ...env, ...Object.fromEntries(values) },
      stdio: 'ignore',
      detached: true,
    });
  };
