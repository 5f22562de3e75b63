/**
 * A GitLab simulator and a real host with the plugin (process driver). Its machines do nothing by
 * themselves: the test speaks for the runner in each, over the proxy, and decides when it powers off.
 */

import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TestContext } from 'node:test';
import { createPlugin, type Seams } from 'forrest-gitlab';
import type { JobRow } from 'forrest-gitlab/contract';
import {
  type GitlabSimulator,
  type JobSpec,
  type SimJob,
  type SimRunner,
  type SimulatorOptions,
  startGitlabSimulator,
} from '../../fixtures/gitlab/index.ts';
import {
  createLog,
  type HostStatus,
  type RunningHost,
  startHost,
} from '../../fixtures/host/src/index.ts';
import { recordLog } from '../../fixtures/testing/record.ts';
import { eventually } from './deadline.ts';
import { writePrivate } from './files.ts';
import { createGuest, type Guest } from './guest.ts';

/** Whatever runs its hooks at the end. */
export type Cleanup = Pick<TestContext, 'after'>;

export interface RigOptions {
  readonly simulator?: SimulatorOptions;
  readonly seams?: Seams;
  /** On top of short ones. */
  readonly timings?: Readonly<Record<string, number>>;
  /** More keys of the `gitlab` section. */
  readonly section?: Readonly<Record<string, unknown>>;
  /** More keys of the one runner `build`. */
  readonly runner?: Readonly<Record<string, unknown>>;
  /** More runners, each with a token of its own. */
  readonly moreRunners?: ReadonlyArray<Readonly<Record<string, unknown>>>;
  readonly ram?: string;
  /** Default: `process`. */
  readonly driver?: 'process' | 'qemu';
  /** More keys of the one machine type. */
  readonly machine?: Readonly<Record<string, unknown>>;
  /** More keys of the `host` section. */
  readonly host?: Readonly<Record<string, unknown>>;
  /** More sections of the configuration. */
  readonly sections?: Readonly<Record<string, unknown>>;
  /** The machine's script, before it waits to be powered off. */
  readonly script?: string;
  /** Another template, with its parameters, in place of all that. */
  readonly template?: {
    readonly path: string;
    readonly parameters: Readonly<Record<string, string>>;
  };
}

export interface Rig {
  readonly gitlab: GitlabSimulator;
  /** GitLab's side of the runner `build`. */
  readonly runner: SimRunner;
  readonly directory: string;
  /** Everything that the host has logged, a line each. */
  readonly log: readonly string[];
  readonly host: RunningHost;
  start(): Promise<void>;
  queue(spec?: Partial<JobSpec>): SimJob;
  /** The machine of a job once it runs; the second one where `boot` is 2. */
  guest(job: SimJob, boot?: number): Promise<Guest>;
  /** The job's row, live or ended. */
  row(job: SimJob): JobRow | undefined;
  status(): HostStatus;
  /** The row of a job that has ended on the host. */
  ended(job: SimJob): Promise<JobRow>;
  /** Runs a job up to its first own call. */
  running(spec?: Partial<JobSpec>): Promise<{ job: SimJob; guest: Guest }>;
}

/** Short enough for tests, long enough for a busy machine. */
const TIMINGS = {
  heartbeatMs: 100,
  backoffMs: 100,
  backoffCapMs: 500,
  conflictDelayMs: 100,
  unhealthyIntervalMs: 60_000,
  deliveryBackoffMs: 50,
  deliveryBackoffCapMs: 200,
  stopLimitMs: 2000,
};

/** A machine that its host has left ends with its directory. */
const SCRIPT =
  'while [ -e log.txt ] && [ ! -e poweroff ]; do sleep 0.02; done\nexit $(cat poweroff)\n';

export async function createRig(t: Cleanup, options: RigOptions = {}): Promise<Rig> {
  const directory = await mkdtemp(path.join(tmpdir(), 'forrest-test-'));
  const gitlab = await startGitlabSimulator({ relativeUrl: '/gitlab', ...options.simulator });
  gitlab.createProject({ path: 'lab/demo', files: { 'README.md': 'demo\n' } });
  const runner = gitlab.createRunner();
  const configFile = await writeConfig(directory, gitlab, runner, options);
  const log: string[] = [];
  let host: RunningHost | undefined;
  t.after(async () => {
    await host?.stop('end');
    await gitlab.close();
    await rm(directory, { recursive: true, force: true });
  });

  const rig: Rig = {
    gitlab,
    runner,
    directory,
    log,
    get host() {
      if (host === undefined) throw new Error('the host was not started');
      return host;
    },
    async start() {
      host = await startHost({
        configFile,
        powerDownMs: 300,
        plugins: { 'forrest-gitlab': createPlugin(options.seams) },
        log: createLog({
          level: 'debug',
          format: 'json',
          write: (line) => {
            log.push(line);
            recordLog(line);
          },
        }),
      });
    },
    queue: (spec = {}) =>
      gitlab.queueJob({ project: 'lab/demo', name: 'job', script: ['true'], ...spec }),
    guest: (job, boot = 1) =>
      eventually(`machine ${boot} of job ${job.id}`, async () => {
        const row = rig.row(job);
        const machine = rig.status().machines.find((one) => one.runnerName === row?.machine);
        if (row === undefined || machine === undefined || machine.pid === null) return undefined;
        seen.set(job, new Set([...(seen.get(job) ?? []), machine.runnerName]));
        if ((seen.get(job)?.size ?? 0) < boot) return undefined;
        return await createGuest(machine, job).catch(() => undefined);
      }),
    row(job) {
      const status = rig.status();
      const rows = [...status.providers.flatMap((one) => one.status.jobs), ...status.history];
      return rows.find((row) => row.id === String(job.id));
    },
    status: () => rig.host.status(),
    ended: (job) =>
      eventually(`job ${job.id} to have ended on the host`, () =>
        rig.status().history.find((row) => row.id === String(job.id)),
      ),
    async running(spec) {
      const job = rig.queue(spec);
      const guest = await rig.guest(job);
      await guest.takeJob();
      return { job, guest };
    },
  };
  const seen = new Map<SimJob, Set<string>>();
  return rig;
}

/** A rig whose host runs. */
export async function startRig(t: Cleanup, options: RigOptions = {}): Promise<Rig> {
  const rig = await createRig(t, options);
  await rig.start();
  return rig;
}

/** The journal's entries, as they are on disk. */
export async function journalOf(rig: Rig): Promise<string[]> {
  const dir = path.join(rig.directory, 'base/state/gitlab/leases');
  const names = await readdir(dir).catch(() => []);
  // One may go while we look.
  const texts = names.map((name) => readFile(path.join(dir, name), 'utf8').catch(() => null));
  return (await Promise.all(texts)).filter((text) => text !== null);
}

async function writeConfig(
  directory: string,
  gitlab: GitlabSimulator,
  runner: SimRunner,
  options: RigOptions,
): Promise<string> {
  const jobConfig = path.join(directory, 'template/job-config');
  await mkdir(jobConfig, { recursive: true });
  await writeFile(
    path.join(jobConfig, 'runner.json'),
    '{"url":"<GITLAB_RUNNER_URL>","token":"<GITLAB_RUNNER_TOKEN>"}\n',
  );
  await writeFile(path.join(jobConfig, 'job.sh'), `#!/bin/sh\n${options.script ?? ''}\n${SCRIPT}`);
  await chmod(path.join(jobConfig, 'job.sh'), 0o755);
  const runners = [{ name: 'build', ...options.runner }, ...(options.moreRunners ?? [])];
  const tokens = runners.map((_, index) => (index === 0 ? runner : gitlab.createRunner()).token);
  const config = {
    ...options.sections,
    host: {
      base_dir: 'base',
      ram: options.ram ?? '8G',
      driver: options.driver ?? 'process',
      ...options.host,
    },
    plugins: ['forrest-gitlab'],
    machines: {
      small: {
        setup_template: options.template ?? { path: 'template' },
        cpus: 1,
        ram: '1G',
        disk: '1G',
        ...options.machine,
      },
    },
    gitlab: {
      url: gitlab.url,
      listen: '127.0.0.1:0',
      check_interval: '1s',
      timings: { ...TIMINGS, ...options.timings },
      ...options.section,
      runners: await Promise.all(
        runners.map(async (one, index) => ({
          machine: 'small',
          limit: 4,
          token_file: await writePrivate(
            path.join(directory, `runner-${index}.token`),
            `${tokens[index]}\n`,
          ),
          ...one,
        })),
      ),
    },
  };
  return writePrivate(path.join(directory, 'config.yaml'), JSON.stringify(config, null, 2));
}
