/** The ways to the upstream: straight, through nginx, through us. */

import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { eventually, within } from '../../support/deadline.ts';
import { writePrivate } from '../../support/files.ts';
import { type Job, readMachines, takeJob, writeSleeperTemplate } from '../sleepers.ts';
import type { Vm } from './load.ts';
import type { UpstreamReady, UpstreamSettings } from './upstream.ts';
import { childrenOf } from './usage.ts';

export interface Contender {
  readonly name: 'direct' | 'nginx' | 'ours';
  readonly vms: readonly Vm[];
  /** The process that passes the calls on; null where there is none. */
  readonly pid: number | null;
  end(): Promise<void>;
}

export interface Upstream {
  readonly port: number;
  set(settings: UpstreamSettings): Promise<void>;
  end(): void;
}

const START_LIMIT_MS = 60_000;

export async function startUpstream(): Promise<Upstream> {
  const child = fork(path.join(import.meta.dirname, 'upstream.ts'));
  const [ready] = (await within('the upstream', once(child, 'message'), START_LIMIT_MS)) as [
    UpstreamReady,
  ];
  return {
    port: ready.port,
    async set(settings) {
      const set = once(child, 'message');
      child.send(settings);
      await within('the upstream to be set', set, START_LIMIT_MS);
    },
    end: () => void child.kill('SIGKILL'),
  };
}

/** Jobs as the upstream assigns them, called at it directly or at something that passes all on. */
export function plainVms(port: number, jobs: readonly Job[]): Vm[] {
  return jobs.map(({ id, token }) => ({ port, path: `/api/v4/jobs/${id}`, token, logBytes: 0 }));
}

export async function startNginx(
  directory: string,
  upstreamPort: number,
  jobs: readonly Job[],
): Promise<Contender> {
  await mkdir(directory, { recursive: true });
  const port = await freePort();
  const root = process.getuid?.() === 0;
  // `keepalive_requests`: by default nginx closes a connection after 1,000 of them.
  const config = `
daemon off;
${root ? 'user root;' : ''}
worker_processes 1;
pid nginx.pid;
error_log error.log;
events { worker_connections 4096; }
http {
  access_log access.log;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_max_body_size 0;
  upstream gitlab {
    server 127.0.0.1:${upstreamPort};
    keepalive 256;
    keepalive_requests 1000000000;
  }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    keepalive_requests 1000000000;
    location / {
      proxy_pass http://gitlab;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 600s;
      proxy_send_timeout 600s;
    }
  }
}
`;
  const file = path.join(directory, 'nginx.conf');
  await writeFile(file, config);
  // Debian has it where only root's PATH leads.
  const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` };
  const master = spawn('nginx', ['-p', `${directory}/`, '-c', file, '-e', 'error.log'], {
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const said = text(master.stderr);
  const ended = once(master, 'exit').then(async () => {
    throw new Error(`nginx ended: ${await said}`);
  });
  ended.catch(() => undefined);
  try {
    await once(master, 'spawn');
  } catch (error) {
    throw new Error("nginx cannot be run: this benchmark compares with it (Debian's nginx-light)", {
      cause: error,
    });
  }
  const masterPid = master.pid ?? 0;
  const [pid = 0] = await Promise.race([
    eventually(
      "nginx's worker",
      async () => {
        const workers = await childrenOf(masterPid).catch(() => []);
        return workers.length > 0 && (await answers(port)) && workers;
      },
      START_LIMIT_MS,
    ),
    ended,
  ]);
  return {
    name: 'nginx',
    vms: plainVms(port, jobs),
    pid,
    end: () => stop(master, 'SIGTERM'),
  };
}

/** The reference host as a person starts it, with a machine of the process driver for each job. */
export async function startOurs(
  directory: string,
  upstreamPort: number,
  jobs: number,
  progress: (line: string) => void,
): Promise<{ readonly contender: Contender; readonly jobs: Job[] }> {
  const called = path.join(directory, 'machines');
  await mkdir(called, { recursive: true });
  const configFile = await writeConfig(directory, called, upstreamPort, jobs);
  const logFile = path.join(directory, 'host.log');
  const log = openSync(logFile, 'w', 0o600);
  const cli = path.join(import.meta.dirname, '../../../fixtures/host/src/cli.ts');
  const supervisor = spawn(
    process.execPath,
    ['--conditions=forrest-gitlab-source', cli, 'run', '--config', configFile],
    { stdio: ['ignore', 'pipe', log] },
  );
  const ended = once(supervisor, 'exit').then(async () => {
    throw new Error(`forrest-host ended: ${(await readFile(logFile, 'utf8')).slice(-2000)}`);
  });
  ended.catch(() => undefined);
  const end = (): Promise<void> => stop(supervisor, 'SIGINT');
  try {
    await Promise.race([
      within('forrest-host to be ready', said(supervisor, 'forrest-host ready'), START_LIMIT_MS),
      ended,
    ]);
    progress(`ours: booting ${jobs} machines`);
    const machines = await Promise.race([readMachines(called, jobs), ended]);
    const running = await Promise.all(machines.map(takeJob));
    const [pid = 0] = await childrenOf(supervisor.pid ?? 0);
    const vms = running.map((one) => one.vm).toSorted((a, b) => a.path.localeCompare(b.path));
    return { contender: { name: 'ours', vms, pid, end }, jobs: running.map((one) => one.job) };
  } catch (error) {
    await end();
    throw error;
  }
}

async function said(child: ChildProcess, words: string): Promise<void> {
  let all = '';
  for await (const chunk of child.stdout ?? []) {
    all += String(chunk);
    if (all.includes(words)) return;
  }
}

async function writeConfig(
  directory: string,
  called: string,
  upstreamPort: number,
  jobs: number,
): Promise<string> {
  await writeSleeperTemplate(path.join(directory, 'template'), called);
  const config = {
    host: { base_dir: path.join(directory, 'base'), ram: `${jobs * 16}M`, driver: 'process' },
    plugins: ['forrest-gitlab'],
    machines: {
      small: { setup_template: { path: 'template' }, cpus: 1, ram: '16M', disk: '16M' },
    },
    gitlab: {
      url: `http://127.0.0.1:${upstreamPort}`,
      listen: '127.0.0.1:0',
      runners: [
        {
          name: 'bench',
          machine: 'small',
          limit: jobs,
          token_file: await writePrivate(
            path.join(directory, 'runner.token'),
            'glrt-benchmarkbenchmark1\n',
          ),
        },
      ],
    },
  };
  return writePrivate(path.join(directory, 'config.yaml'), JSON.stringify(config, null, 2));
}

const SIGNAL_AGAIN_MS = 300;

/** Signals again and again: forrest-host drains at the first SIGINT, and ends its machines at the second. */
async function stop(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill(signal);
  const again = setInterval(() => child.kill(signal), SIGNAL_AGAIN_MS);
  try {
    await exited;
  } finally {
    clearInterval(again);
  }
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

async function answers(port: number): Promise<boolean> {
  const socket = net.connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
