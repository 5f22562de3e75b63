/** A host that is killed, stopped or upgraded while eight jobs run: all of them end as their scripts do. */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import {
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type GitlabSimulator,
  type SimJob,
  startGitlabSimulator,
} from '../../fixtures/gitlab/index.ts';
import type { HostStatus } from '../../fixtures/host/src/index.ts';
import { getJson } from '../../fixtures/host/src/testing/get-json.ts';
import { plainLog } from '../../fixtures/main-job/log-lines.ts';
import { findGuestRunner } from '../../fixtures/main-job/runner.ts';
import { eventually } from '../support/deadline.ts';
import { writePrivate } from '../support/files.ts';

const ROOT = path.join(import.meta.dirname, '../..');
const TEMPLATE = path.join(ROOT, 'fixtures/guest/templates/gitlab-shell');
const STAND_IN_SYSTEMD = path.join(ROOT, 'fixtures/host/src/testing/systemd.py');

/** A busy machine is slow, and the official runner rests between its tries. */
const LIMIT_MS = 150_000;
const JOBS = 8;

const given = process.env['GITLAB_RUNNER'] || undefined;

interface Site {
  readonly directory: string;
  readonly gitlab: GitlabSimulator;
  readonly jobs: readonly SimJob[];
  /** The package that a host is started from; what it points at may change. */
  upgrade(): Promise<void>;
  run(args: readonly string[], wrapper?: readonly string[]): ChildProcess;
  status(): Promise<HostStatus>;
  log(): string;
  /** Of the host itself, not of its supervisor. */
  hostPid(): Promise<number>;
  /** Lets the jobs end, and checks each. */
  conclude(restarts: number): Promise<void>;
}

async function prepare(t: TestContext, runner: string | undefined): Promise<Site> {
  const directory = await mkdtemp(path.join(tmpdir(), 'forrest-restart-'));
  const gitlab = await startGitlabSimulator({ relativeUrl: '/gitlab' });
  const children: ChildProcess[] = [];
  let log = '';
  t.after(async () => {
    for (const child of children) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      // Twice: its jobs end, too.
      child.kill('SIGINT');
      await sleep(500);
      child.kill('SIGINT');
      await Promise.race([new Promise((resolve) => child.once('exit', resolve)), sleep(10_000)]);
      child.kill('SIGKILL');
    }
    await gitlab.close();
    await rm(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  });
  await gitlab.createProject({ path: 'lab/demo', files: { 'README.md': 'demo\n' } });
  const { kind, version, command } = await findGuestRunner(runner);
  t.diagnostic(`guest runner: ${kind} ${version}`);
  const configFile = await writePrivate(
    path.join(directory, 'config.yaml'),
    JSON.stringify({
      host: { base_dir: 'base', ram: `${JOBS}G`, driver: 'process', guest_api: 'off' },
      plugins: ['forrest-gitlab'],
      machines: {
        shell: {
          setup_template: {
            path: TEMPLATE,
            parameters: { GITLAB_RUNNER: command, BOOT_GATE: '' },
          },
          cpus: 1,
          ram: '1G',
          disk: '1G',
        },
      },
      gitlab: {
        url: gitlab.url,
        listen: '127.0.0.1:0',
        check_interval: '1s',
        runners: [
          {
            name: 'build',
            machine: 'shell',
            limit: JOBS,
            token_file: await writePrivate(
              path.join(directory, 'build.token'),
              `${gitlab.createRunner().token}\n`,
            ),
          },
        ],
      },
    }),
  );
  const packages = await twoVersions(directory);
  const cli = path.join(directory, 'current/fixtures/host/src/cli.ts');
  const run: Site['run'] = (args, wrapper = []) => {
    const node = [process.execPath, '--conditions=forrest-gitlab-source', cli];
    const [program = '', ...rest] = [...wrapper, ...node, 'run', '--config', configFile, ...args];
    const child = spawn(program, rest, { stdio: ['pipe', 'pipe', 'pipe'] });
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        log += chunk.toString();
      });
    }
    children.push(child);
    return child;
  };
  const jobs: SimJob[] = [];
  const site: Site = {
    directory,
    gitlab,
    jobs,
    run,
    log: () => log,
    async upgrade() {
      await symlink(packages.next, path.join(directory, 'upgraded'));
      await rename(path.join(directory, 'upgraded'), path.join(directory, 'current'));
    },
    status: () => getJson(path.join(directory, 'base/control.sock'), '/status'),
    async hostPid() {
      // The lock says so; a host that is just being started has it not yet.
      return Number(await readFile(path.join(directory, 'base/state/lock'), 'utf8'));
    },
    async conclude(restarts) {
      await writeFile(path.join(directory, 'release'), '');
      await eventually('all jobs to be over', () => jobs.every(isOver), LIMIT_MS).catch(
        (error: Error) => {
          const states = jobs.map((job) => `${job.name} ${job.status}`).join(', ');
          throw new Error(`${error.message}: ${states}\n${log.slice(-6000)}`);
        },
      );
      for (const job of jobs) {
        const text = job.log.toString();
        assert.equal(job.status, 'success', `${job.name}: ${text}\n${log.slice(-3000)}`);
        const verdict = { handedOut: 1, ended: 1, logIntact: true, anomalies: [] };
        assert.deepEqual(job.verdict(), verdict, job.name);
        checkLines(job.name, plainLog(job.log));
      }
      await eventually(
        'all machines to be gone',
        async () => {
          const { machines, history } = await site.status();
          return (
            machines.length === 0 &&
            history.filter(({ outcome }) => outcome === 'success').length > 0
          );
        },
        LIMIT_MS,
      );
      assert.equal(
        log.split('"took over the machine of an earlier run').length > restarts,
        true,
        log,
      );
      assert.doesNotMatch(log, /system_failure/);
    },
  };
  return site;
}

/** Eight at once: six that print, one that downloads what another has uploaded before, one that uploads. */
async function begin({ gitlab, jobs, directory }: Site): Promise<void> {
  const queued = jobs as SimJob[];
  const queue = (spec: Parameters<GitlabSimulator['queueJob']>[0]): SimJob => gitlab.queueJob(spec);
  const variables = [{ key: 'GIT_STRATEGY', value: 'none' }];
  const base = { project: 'lab/demo', variables };
  const lines = `n=1; echo "line $n."; until [ -e ${directory}/release ]; do n=$((n+1)); echo "line $n."; sleep 0.2; done; echo "lines $n."`;
  for (let index = 0; index < JOBS - 2; index += 1) {
    queued.push(queue({ ...base, name: `lines ${index}`, script: [lines] }));
  }
  const print = (): boolean => queued.every((job) => job.log.toString().includes('line 1.'));
  await eventually('the first six to print', print, LIMIT_MS);
  const [, download] = gitlab.queuePipeline({
    stages: [
      [
        {
          ...base,
          name: 'source',
          script: ['head -c 5000000 /dev/urandom > data', 'sha256sum data > data.sum'],
          artifacts: [{ paths: ['data', 'data.sum'] }],
        },
      ],
      [{ ...base, name: 'download', script: ['sha256sum -c data.sum', lines] }],
    ],
  });
  const upload = queue({
    ...base,
    name: 'upload',
    script: [
      `until [ -e ${directory}/upload ]; do sleep 0.2; done`,
      'n=1; head -c 20000000 /dev/urandom > result; echo "line $n."; echo "lines $n."',
    ],
    artifacts: [{ paths: ['result'] }],
  });
  assert.ok(download);
  queued.push(download, upload);
  // Held by GitLab for so long that the host is killed while they are on their way.
  for (const [route, jobId] of [
    ['artifacts-upload', upload.id],
    ['artifacts-download', undefined],
  ] as const) {
    const match = { route, times: 1, ...(jobId !== undefined && { jobId }) };
    gitlab.inject({ match, do: { delayMs: 30_000 } });
  }
  const before = gitlab.requests.length;
  const isOnItsWay = (route: string): boolean =>
    gitlab.requests.slice(before).some((one) => one.route === route && one.status === null);
  await eventually('a download on its way', () => isOnItsWay('artifacts-download'), LIMIT_MS);
  await writeFile(path.join(directory, 'upload'), '');
  await eventually(
    'an upload and a download on their way',
    () => isOnItsWay('artifacts-upload') && isOnItsWay('artifacts-download'),
    LIMIT_MS,
  );
}

/** Whoever prints goes on doing so: its host is there again. */
async function untilTheyGoOn({ jobs }: Site): Promise<void> {
  const printing = jobs.filter((job) => job.name.startsWith('lines'));
  const before = printing.map((job) => job.log.length);
  await eventually(
    'all jobs to print more',
    () => printing.every((job, index) => job.log.length > (before[index] ?? 0)),
    LIMIT_MS,
  );
}

const isOver = (job: SimJob): boolean => !['created', 'pending', 'running'].includes(job.status);

/** Each once, in order, and none missing. */
function checkLines(name: string, text: string): void {
  const count = Number(/^lines (\d+)\.$/m.exec(text)?.[1]);
  assert.ok(count > 0, `${name}: ${text}`);
  const seen = [...text.matchAll(/^line (\d+)\.$/gm)].map((match) => Number(match[1]));
  const expected = Array.from({ length: count }, (_, index) => index + 1);
  assert.deepEqual(seen, expected, name);
}

/** The package twice, at two versions; `current` is the first. */
async function twoVersions(directory: string): Promise<{ readonly next: string }> {
  const copies = ['0.1.0', '0.2.0'].map(async (version) => {
    const home = path.join(directory, `forrest-${version}`);
    for (const part of [
      'package.json',
      'plugin.json',
      'src',
      'fixtures/host/src',
      'fixtures/host/package.json',
    ]) {
      await cp(path.join(ROOT, part), path.join(home, part), { recursive: true });
    }
    const file = path.join(home, 'fixtures/host/package.json');
    const manifest = JSON.parse(await readFile(file, 'utf8'));
    await writeFile(file, JSON.stringify({ ...manifest, version }));
    const modules = path.join(ROOT, 'node_modules');
    await mkdir(path.join(home, 'node_modules'));
    for (const name of await readdir(modules)) {
      const target = name === 'forrest-gitlab' ? home : path.join(modules, name);
      if (name !== 'forrest-host') await symlink(target, path.join(home, 'node_modules', name));
    }
    return home;
  });
  const [first = '', next = ''] = await Promise.all(copies);
  await symlink(first, path.join(directory, 'current'));
  return { next };
}

const untilUp = ({ status, log }: Site): Promise<HostStatus> =>
  eventually('the host to answer', () => status().catch(() => undefined), LIMIT_MS).catch(
    (error: Error) => {
      throw new Error(`${error.message}\n${log().slice(-4000)}`);
    },
  );

/** Kills the host process; resolves when another one answers. */
async function killAndWait(site: Site): Promise<void> {
  const pid = await site.hostPid();
  process.kill(pid, 'SIGKILL');
  await eventually(
    'another host to answer',
    async () =>
      (await site.hostPid()) !== pid &&
      (await site.status().then(
        () => true,
        () => false,
      )),
    LIMIT_MS,
  );
  await untilTheyGoOn(site);
}

suite('while eight jobs run', { concurrency: true }, () => {
  test('the host is killed and comes back after 20 s, three times', async (t) => {
    const site = await prepare(t, undefined);
    site.run(['--log-format', 'json', '--restart-delay', '20000']);
    await untilUp(site);
    await begin(site);
    for (let round = 0; round < 3; round += 1) await killAndWait(site);
    await site.conclude(3 * (JOBS - 2));
  });

  test('the same with the official runner', {
    skip: given === undefined && 'GITLAB_RUNNER names no gitlab-runner',
  }, async (t) => {
    const site = await prepare(t, given);
    site.run(['--log-format', 'json', '--restart-delay', '3000']);
    await untilUp(site);
    await begin(site);
    for (let round = 0; round < 3; round += 1) await killAndWait(site);
    await site.conclude(3 * (JOBS - 2));
  });

  test('the package is upgraded, and its supervisor told to start the host again', async (t) => {
    const site = await prepare(t, undefined);
    const supervisor = site.run(['--log-format', 'json', '--restart-delay', '1000']);
    assert.equal((await untilUp(site)).host.version, '0.1.0');
    await begin(site);
    await site.upgrade();
    for (let round = 0; round < 3; round += 1) {
      const pid = await site.hostPid();
      supervisor.kill('SIGUSR2');
      await eventually(
        'the next host to answer',
        async () =>
          (await site.hostPid()) !== pid &&
          (await site.status().then(
            ({ host }) => host.version === '0.2.0',
            () => false,
          )),
        LIMIT_MS,
      );
      await untilTheyGoOn(site);
    }
    await site.conclude(3 * (JOBS - 2));
  });

  test('systemd, which holds the sockets, stops and starts the host, once at another version', async (t) => {
    const site = await prepare(t, undefined);
    const sockets = JSON.stringify([['gitlab.guests', '127.0.0.1:0']]);
    const manager = site.run(['--log-format', 'json'], ['python3', STAND_IN_SYSTEMD, sockets]);
    const count = (word: string): number => site.log().split(`["${word}"`).length - 1;
    const start = async (): Promise<void> => {
      const before = count('started');
      manager.stdin?.write('\n');
      await eventually('the host to be started', () => count('started') > before, LIMIT_MS);
      await untilUp(site);
    };
    await start();
    await begin(site);
    for (const signal of ['SIGTERM', 'SIGKILL', 'SIGTERM'] as const) {
      const ended = count('ended');
      process.kill(await site.hostPid(), signal);
      await eventually('the host to be gone', () => count('ended') > ended, LIMIT_MS);
      if (signal === 'SIGKILL') await site.upgrade();
      await sleep(2000);
      await start();
      await untilTheyGoOn(site);
    }
    assert.equal((await site.status()).host.version, '0.2.0');
    await site.conclude(3 * (JOBS - 2));
    process.kill(await site.hostPid(), 'SIGTERM');
    manager.stdin?.end();
    await new Promise((resolve) => manager.once('close', resolve));
  });
});
