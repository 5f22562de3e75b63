/**
 * A host of the test's own, for the plugin alone: its machines, sockets and state directory outlive each
 * provider, as those of a real host outlive its process. A provider can be killed in the midst of a step.
 */

import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TestContext } from 'node:test';
import { createPlugin, type Seams } from 'forrest-gitlab';
import type {
  BootSpec,
  JobRow,
  Labels,
  Machine,
  Provider,
  ProviderHost,
} from 'forrest-gitlab/contract';
import {
  type GitlabSimulator,
  type JobSpec,
  type SimJob,
  type SimRunner,
  type SimulatorOptions,
  startGitlabSimulator,
} from '../../../fixtures/gitlab/index.ts';
import { eventually } from '../deadline.ts';
import { writePrivate } from '../files.ts';
import { createTestLog } from '../github-rig.ts';
import { type Guest, speakFor } from '../guest.ts';
import { openDoor } from './door.ts';
import {
  createMachine,
  jobOf,
  NEVER,
  type TestMachine,
  TYPE,
  viewOf,
  type WorldMachine,
} from './machine.ts';
import { createPool } from './pool.ts';

export type { TestMachine } from './machine.ts';

type Checkpoint = Parameters<NonNullable<Seams['checkpoint']>>[0];

export interface TestHostOptions {
  readonly simulator?: SimulatorOptions;
  readonly timings?: Readonly<Record<string, number>>;
  /** More keys of the `gitlab` section. */
  readonly section?: Readonly<Record<string, unknown>>;
  /** More keys of the one runner `build`. */
  readonly configured?: Readonly<Record<string, unknown>>;
  /** How many machines fit; default: 4. */
  readonly rooms?: number;
  /** Default: a new one. */
  readonly stateDir?: string;
  /** Another host's, to share GitLab and runner with it. */
  readonly with?: TestHost;
  readonly hostName?: string;
}

export interface TestHost {
  readonly gitlab: GitlabSimulator;
  readonly runner: SimRunner;
  readonly stateDir: string;
  readonly log: readonly string[];
  /** All that were ever booted, in order. */
  readonly machines: readonly TestMachine[];
  readonly history: readonly JobRow[];
  readonly provider: Provider<unknown>;
  /** Of the counter `jobs_ended_total`. */
  readonly endedLabels: readonly Labels[];
  /** Moves the provider's wall clock. */
  jumpClock(byMs: number): void;
  /** So much time has passed, by every clock: best while the provider is dead. */
  passTime(byMs: number): void;
  /** Somebody else holds one room, or gives it back. */
  holdRoom(isHeld: boolean): void;
  /** Machines that do not end when they are told to. */
  ignoreStop: boolean;
  start(): Promise<void>;
  /** Ends this provider as `kill -9` ends a process: nothing of it goes on. */
  kill(): void;
  /** Kills the provider in that gap, the n-th time that it comes there; resolves when it is dead. */
  killAt(checkpoint: Checkpoint, nth?: number): Promise<void>;
  /** A power cut: with the provider, its machines and all knowledge of them. */
  losePower(): void;
  queue(spec?: Partial<JobSpec>): SimJob;
  /** A machine of that name is there, as if an earlier provider had booted it. */
  leaveMachine(runnerName: string): void;
  /** The n-th machine that was booted for a job. */
  machine(job: SimJob, boot?: number): Promise<TestMachine>;
  guest(job: SimJob, boot?: number): Promise<Guest>;
  /** The runner in that machine, which may have or get that job. */
  guestIn(machine: TestMachine, job: SimJob): Guest;
  /** Runs a job up to its first own call. */
  running(spec?: Partial<JobSpec>): Promise<{ job: SimJob; guest: Guest; machine: TestMachine }>;
  row(job: SimJob): JobRow | undefined;
  ended(job: SimJob): Promise<JobRow>;
  /** Names of the files in the journal. */
  journal(): Promise<string[]>;
}

/** One run of a provider. */
interface Life {
  isDead: boolean;
  readonly sockets: Set<Socket>;
  readonly timers: Set<NodeJS.Timeout>;
  readonly provider: Provider<unknown>;
}

/** Short enough for tests, long enough for a busy machine. */
const TIMINGS = {
  heartbeatMs: 100,
  backoffMs: 100,
  backoffCapMs: 500,
  conflictDelayMs: 100,
  deliveryBackoffMs: 50,
  deliveryBackoffCapMs: 200,
  journalRetryMs: 50,
  stopLimitMs: 2000,
};

export async function createTestHost(
  t: Pick<TestContext, 'after'>,
  options: TestHostOptions = {},
): Promise<TestHost> {
  const directory = await mkdtemp(path.join(tmpdir(), 'forrest-lease-'));
  const stateDir = options.stateDir ?? path.join(directory, 'state');
  await mkdir(stateDir, { recursive: true });
  const gitlab =
    options.with?.gitlab ??
    (await startGitlabSimulator({ relativeUrl: '/gitlab', ...options.simulator }));
  if (options.with === undefined) gitlab.createProject({ path: 'lab/demo', files: { a: 'b\n' } });
  const runner = options.with?.runner ?? gitlab.createRunner();
  const tokenFile = await writePrivate(path.join(directory, 'runner.token'), `${runner.token}\n`);

  const log: string[] = [];
  const history: JobRow[] = [];
  const endedLabels: Labels[] = [];
  const machines: WorldMachine[] = [];
  const door = await openDoor();
  let known: WorldMachine[] = [];
  let life: Life | undefined;
  let pool: ReturnType<typeof createPool> | undefined;
  let clockOffset = 0;
  let passedMs = 0;
  let deathAt: { name: Checkpoint; left: number; dead: () => void } | undefined;

  const host: TestHost = {
    gitlab,
    runner,
    stateDir,
    log,
    history,
    machines,
    endedLabels,
    ignoreStop: false,
    get provider() {
      if (life === undefined) throw new Error('the provider was not started');
      return life.provider;
    },
    jumpClock(byMs) {
      clockOffset += byMs;
    },
    passTime(byMs) {
      clockOffset += byMs;
      passedMs += byMs;
    },
    holdRoom: (isHeld) => pool?.hold(isHeld),
    async start() {
      const mine: Omit<Life, 'provider'> = { isDead: false, sockets: new Set(), timers: new Set() };
      const alive = <T>(value: T): T | Promise<never> => (mine.isDead ? NEVER : value);
      const plugin = createPlugin({
        clock: {
          now: () => Date.now() + clockOffset,
          monotonic: () => Number(process.hrtime.bigint()) / 1e6 + passedMs,
          after(delayMs, callback) {
            if (mine.isDead) return { cancel: () => undefined };
            const timer = setTimeout(() => {
              mine.timers.delete(timer);
              if (!mine.isDead) callback();
            }, delayMs);
            mine.timers.add(timer);
            return {
              cancel() {
                mine.timers.delete(timer);
                clearTimeout(timer);
              },
            };
          },
        },
        fetch: async (...call) => {
          await alive(undefined);
          const answer = await fetch(...call);
          return await alive(answer);
        },
        async checkpoint(name) {
          await alive(undefined);
          if (deathAt?.name !== name || --deathAt.left > 0) return;
          const { dead } = deathAt;
          deathAt = undefined;
          host.kill();
          dead();
          await NEVER;
        },
      });
      const parsed = await plugin.parseConfig(
        {
          url: gitlab.url,
          listen: '127.0.0.1:0',
          check_interval: '1s',
          ...options.section,
          timings: { ...TIMINGS, ...options.timings },
          runners: [
            {
              ...{ name: 'build', machine: 'small', limit: 4, token_file: tokenFile },
              ...options.configured,
            },
          ],
        },
        { file: path.join(directory, 'config.yaml'), machineType: () => TYPE },
      );
      if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
      const view = (machine: WorldMachine): Machine => viewOf(machine, mine, host);
      const room = createPool(options.rooms ?? 4, known, (spec) => {
        const machine = createMachine(spec);
        machines.push(machine);
        known.push(machine);
        void machine.ended.then(() => {
          if (known.includes(machine)) known.splice(known.indexOf(machine), 1);
          pool?.look();
        });
        return view(machine);
      });
      pool = room;
      const provider = plugin.create(
        {
          hostName: options.hostName ?? 'test',
          stateDir,
          pool: {
            machineTypes: () => new Map([[TYPE.name, TYPE]]),
            reserve: room.reserve,
            expectJob: () => undefined,
            machines: () => [...atStart].map(view),
          },
          log: createTestLog(log),
          metrics: {
            counter: ({ name }) => ({
              add: (_value, labels) => {
                if (name === 'jobs_ended_total' && labels !== undefined) endedLabels.push(labels);
              },
            }),
            gauge: () => ({ set: () => undefined }),
            observedGauge: () => undefined,
            histogram: () => ({ observe: () => undefined }),
          },
          proxyEnv: {},
          listen: async () => door.target(mine.sockets),
          changed: () => undefined,
          jobEnded: (row) => void history.push(row),
        } satisfies ProviderHost,
        parsed.config,
      );
      // Those that ended while nobody watched are told of once.
      const atStart = [...known, ...machines.filter((one) => !one.isUp && one.untold)];
      for (const machine of machines) machine.untold = machine.isUp;
      life = Object.assign(mine, { provider: provider as Provider<unknown> });
      await provider.start();
    },
    kill() {
      if (life === undefined) return;
      life.isDead = true;
      for (const timer of life.timers) clearTimeout(timer);
      for (const socket of life.sockets) socket.destroy();
      door.leave();
    },
    killAt: (name, nth = 1) =>
      new Promise((dead) => {
        deathAt = { name, left: nth, dead };
      }),
    losePower() {
      host.kill();
      for (const machine of machines) {
        machine.untold = false;
        machine.end();
        machine.untold = false;
      }
      known = [];
    },
    leaveMachine(runnerName) {
      const machine = createMachine({ runnerName, substitutions: {}, metadata: {} });
      machines.push(machine);
      known.push(machine);
    },
    queue: (spec = {}) =>
      gitlab.queueJob({ project: 'lab/demo', name: 'job', script: ['true'], ...spec }),
    machine: (job, boot = 1) =>
      eventually(
        `machine ${boot} of job ${job.id}`,
        () => machines.filter((one) => jobOf(one) === job.id)[boot - 1],
      ),
    guest: async (job, boot = 1) => host.guestIn(await host.machine(job, boot), job),
    guestIn(machine, job) {
      const { GITLAB_RUNNER_URL: url, GITLAB_RUNNER_TOKEN: token } = machine.spec.substitutions;
      return speakFor(
        {
          url: reveal(url),
          token: reveal(token),
          runnerName: machine.runnerName,
          runDir: '',
          powerOff: async (exitCode) => machine.end({ exitCode }),
          kill: () => machine.end({ cause: 'crashed', detail: 'it was killed', exitCode: null }),
        },
        job,
      );
    },
    async running(spec) {
      const job = host.queue(spec);
      const guest = await host.guest(job);
      await guest.takeJob();
      return { job, guest, machine: await host.machine(job) };
    },
    row: (job) => {
      const rows = [...(life?.provider.status().jobs ?? []), ...history];
      return rows.find((row) => row.id === String(job.id));
    },
    ended: (job) =>
      eventually(
        `job ${job.id} to have ended on the host`,
        () => history.find((row) => row.id === String(job.id)),
        30_000,
      ),
    journal: () => readdir(path.join(stateDir, 'leases')),
  };
  t.after(async () => {
    if (life?.isDead === false) await life.provider.stop('end');
    host.kill();
    for (const machine of machines) machine.end();
    await door.close();
    if (options.with === undefined) await gitlab.close();
    await rm(directory, { recursive: true, force: true });
  });
  return host;
}

export async function startTestHost(
  t: TestContext,
  options: TestHostOptions = {},
): Promise<TestHost> {
  const host = await createTestHost(t, options);
  await host.start();
  return host;
}

function reveal(value: BootSpec['substitutions'][string] | undefined): string {
  return typeof value === 'object' ? value.reveal() : String(value);
}
