/**
 * A GitHub simulator and the GitHub provider on a host of the test's own: a pool that grants when the
 * test says so, and machines that do nothing by themselves or run the stand-in for GitHub's runner.
 */

import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TestContext } from 'node:test';
import { getRequestListener } from '@hono/node-server';
import type {
  Finding,
  JobRow,
  Provider,
  ProviderHost,
  Reservation,
  RoomRequest,
  RunnerRow,
} from 'forrest-gitlab/contract';
import {
  type GithubSimulator,
  type JobSpec,
  type RunSpec,
  type SimJob,
  type SimulatorOptions,
  startGithubSimulator,
} from '../../fixtures/github/index.ts';
import { createGithubPlugin, type GithubConfig } from '../../fixtures/host/src/github/index.ts';
import { recordLog } from '../../fixtures/testing/record.ts';
import { eventually } from './deadline.ts';
import { writePrivate } from './files.ts';
import { createMachine, roomOf, type TestMachine } from './github-machine.ts';

export const SECRET = 'the-webhook-secret';

/** Short enough for tests, long enough for a busy machine. */
const TIMINGS = {
  callTimeoutMs: 2000,
  retries: 1,
  retryMs: 10,
  writeGapMs: 0,
  collectMs: 30,
  startLimitMs: 60_000,
  finishGraceMs: 60_000,
  sweepMs: 60_000,
  watchMs: 100,
  backoffMs: 50,
  backoffCapMs: 1000,
  removeRetryMs: 100,
  listsLagMs: 500,
  stopLimitMs: 2000,
};

export interface GithubRigOptions {
  readonly simulator?: SimulatorOptions;
  readonly timings?: Readonly<Record<string, number>>;
  /** More keys of the `github` section. */
  readonly section?: Readonly<Record<string, unknown>>;
  /** Default: `{ lab: { demo: { machines: { small: {} } } } }`. */
  readonly repositories?: Readonly<Record<string, unknown>>;
  /** Whether machines run the stand-in; default: they wait for the test. */
  readonly standIn?: boolean;
  /** Whether room is there at once; default: yes. */
  readonly room?: boolean;
  /** For calls to GitHub. */
  readonly fetch?: typeof globalThis.fetch;
  /** Default: true. False: the provider learns of jobs by asking only. */
  readonly webhooks?: boolean;
}

export interface GithubRig {
  readonly github: GithubSimulator;
  readonly directory: string;
  readonly log: readonly string[];
  readonly provider: Provider<GithubConfig>;
  /** All that were ever booted, in order. */
  readonly machines: readonly TestMachine[];
  /** Rows of jobs that have ended. */
  readonly history: readonly JobRow[];
  /** Requests that wait for room. */
  readonly waiting: readonly RoomRequest[];
  readonly webhookUrl: string;
  start(): Promise<void>;
  /** Another provider on the same state and machines, as after a restart of the host. */
  restart(): Promise<void>;
  /** Grants the oldest waiting request. */
  grant(): void;
  queue(spec?: Partial<JobSpec & RunSpec>): SimJob;
  /** The n-th machine, once it is there. */
  machine(n?: number): Promise<TestMachine>;
  row(type?: string): RunnerRow;
  /** Sends a body as GitHub would, but for what is said. */
  post(body: string, headers?: Readonly<Record<string, string>>, at?: string): Promise<Response>;
  parse(section: Readonly<Record<string, unknown>>): Promise<GithubConfig>;
  /** What the host's `check` would find. */
  check(section?: Readonly<Record<string, unknown>>): Promise<Finding[]>;
}

export async function createGithubRig(
  t: TestContext,
  options: GithubRigOptions = {},
): Promise<GithubRig> {
  const directory = await mkdtemp(path.join(tmpdir(), 'forrest-github-'));
  const stateDir = path.join(directory, 'state');
  await mkdir(stateDir);
  const github = await startGithubSimulator(options.simulator);
  github.createRepository('lab/demo');
  const keyFile = await writePrivate(path.join(directory, 'app.pem'), github.app.privateKey);
  const repositories = options.repositories ?? { lab: { demo: { machines: { small: {} } } } };
  const plugin = createGithubPlugin(options);

  const log: string[] = [];
  const history: JobRow[] = [];
  const machines: TestMachine[] = [];
  const waiting: { request: RoomRequest; grant: () => void }[] = [];
  let hasRoom = options.room ?? true;
  let provider: Provider<GithubConfig> | undefined;

  const reserve = (request: RoomRequest): Promise<Reservation> =>
    new Promise((resolve, reject) => {
      const grant = (): void => {
        waiting.splice(waiting.indexOf(entry), 1);
        resolve(reservationOf(request.machineType));
      };
      const entry = { request, grant };
      waiting.push(entry);
      request.signal.addEventListener('abort', () => {
        if (!waiting.includes(entry)) return;
        waiting.splice(waiting.indexOf(entry), 1);
        reject(Object.assign(new Error('the request was taken back'), { code: 'aborted' }));
      });
      if (hasRoom) grant();
      else request.onWaiting?.('needs 1 GiB, 0 free');
    });
  const reservationOf = (machineType: string): Reservation => ({
    ...roomOf(machineType),
    release: () => undefined,
    boot(spec) {
      const { url } = github;
      const standIn = options.standIn ?? false;
      const machine = createMachine(spec, machineType, { url, directory, standIn });
      machines.push(machine);
      return machine;
    },
  });

  const host: ProviderHost = {
    hostName: 'test',
    stateDir,
    pool: {
      machineTypes: () => new Map(),
      reserve,
      expectJob: () => undefined,
      machines: () => machines,
    },
    log: createTestLog(log),
    metrics: {
      counter: () => ({ add: () => undefined }),
      gauge: () => ({ set: () => undefined }),
      observedGauge: () => undefined,
      histogram: () => ({ observe: () => undefined }),
    },
    proxyEnv: {},
    listen: () => Promise.reject(new Error('the provider needs no listener')),
    changed: () => undefined,
    jobEnded: (row) => void history.push(row),
  };

  const parse = async (section: Readonly<Record<string, unknown>>): Promise<GithubConfig> => {
    const parsed = await plugin.parseConfig(
      {
        github: {
          app_id: github.app.id,
          jwt_key_file: keyFile,
          webhook_secret: SECRET,
          base_url: github.url,
          ...section,
          timings: { ...TIMINGS, ...options.timings },
        },
        repositories,
      },
      { file: path.join(directory, 'config.yaml'), machineType: () => undefined },
    );
    if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
    return parsed.config;
  };

  const listener = getRequestListener(
    (request) => provider?.routes?.(request) ?? new Response(null, { status: 502 }),
    { overrideGlobalObjects: false },
  );
  const server = http.createServer((incoming, outgoing) => void listener(incoming, outgoing));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const webhookUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/webhook`;
  if (options.webhooks !== false) github.setWebhook({ url: webhookUrl, secret: SECRET });

  t.after(async () => {
    hasRoom = false;
    await provider?.stop('end');
    for (const machine of machines) machine.end();
    server.closeAllConnections();
    server.close();
    await github.close();
    await rm(directory, { recursive: true, force: true });
  });

  const rig: GithubRig = {
    github,
    directory,
    log,
    machines,
    history,
    webhookUrl,
    get waiting() {
      return waiting.map(({ request }) => request);
    },
    get provider() {
      if (provider === undefined) throw new Error('the provider was not started');
      return provider;
    },
    async start() {
      provider = plugin.create(host, await parse(options.section ?? {}));
      await provider.start();
    },
    async restart() {
      await rig.provider.stop('leave');
      await rig.start();
    },
    grant() {
      const [oldest] = waiting;
      if (oldest === undefined) throw new Error('nothing waits for room');
      oldest.grant();
    },
    queue: (spec = {}) =>
      github.queueJob({
        repository: 'lab/demo',
        name: 'build',
        labels: ['self-hosted', 'forrest', 'small'],
        ...spec,
      }),
    machine: (n = 1) => eventually(`machine ${n} to be booted`, () => machines[n - 1]),
    row(type = 'lab/demo/small') {
      const found = rig.provider.status().runners.find((row) => row.name === type);
      if (found === undefined) throw new Error(`no row of ${type}`);
      return found;
    },
    post: (body, headers = {}, at = webhookUrl) => fetch(at, { method: 'POST', body, headers }),
    parse,
    async check(section = {}) {
      const found: Finding[] = [];
      const context = {
        signal: new AbortController().signal,
        hostName: 'test',
        stateDir: directory,
        proxyEnv: {},
        canListen: async () => null,
      };
      for await (const one of plugin.check(await parse(section), context)) found.push(one);
      return found;
    },
  };
  return rig;
}

/** A rig whose provider runs and has asked GitHub once. */
export async function startGithubRig(
  t: TestContext,
  options: GithubRigOptions = {},
): Promise<GithubRig> {
  const rig = await createGithubRig(t, options);
  await rig.start();
  await eventually('the first poll', () =>
    rig.provider.status().runners.every((row) => (row.lastAnswer ?? '').endsWith('jobs queued')),
  );
  return rig;
}

export function createTestLog(lines: string[]): ProviderHost['log'] {
  const write =
    (level: string) =>
    (message: string, fields: unknown = {}): void => {
      const line = `${level} ${message} ${JSON.stringify(fields)}`;
      lines.push(line);
      recordLog(line);
    };
  const log: ProviderHost['log'] = {
    debug: write('debug'),
    info: write('info'),
    warn: write('warn'),
    error: write('error'),
    child: () => log,
  };
  return log;
}
