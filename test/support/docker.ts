/**
 * A docker of the test's own: dockerd with its own socket, directories and bridge. It touches neither
 * the machine's docker nor its firewall, and nothing of it is left.
 */

import { execFile, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { isInstalled } from '../../fixtures/host/src/drivers/qemu/index.ts';
import { eventually, within } from './deadline.ts';

export interface Docker {
  readonly directory: string;
  /** For DOCKER_HOST. */
  readonly socket: string;
  /** This machine as containers see it. */
  readonly hostAddress: string;
  /** Runs docker's command line; its output. */
  run(...args: readonly string[]): Promise<string>;
  stop(): Promise<void>;
}

/** Why there can be none here; false: there can. */
export function whyNoDocker(): string | false {
  if (process.getuid?.() !== 0) return 'dockerd needs root';
  if (!isInstalled('dockerd', 'docker', 'ip', 'umount')) {
    return 'dockerd is not installed: apt-get install docker.io iproute2';
  }
  return false;
}

const START_MS = 30_000;

export async function startDocker(): Promise<Docker> {
  const directory = await mkdtemp(path.join(tmpdir(), 'forrest-docker-'));
  const bridge = `frst${process.pid}`;
  const hostAddress = `10.213.${process.pid % 256}.1`;
  const socket = `unix://${directory}/docker.sock`;
  await exec('ip', ['link', 'add', bridge, 'type', 'bridge']);
  await exec('ip', ['address', 'add', `${hostAddress}/24`, 'dev', bridge]);
  await exec('ip', ['link', 'set', bridge, 'up']);
  const config = path.join(directory, 'daemon.json');
  await writeFile(config, '{}');
  const logFile = path.join(directory, 'log');
  const log = openSync(logFile, 'w');
  const daemon = spawn(
    'dockerd',
    [
      ...['--host', socket, '--pidfile', `${directory}/pid`, '--config-file', config],
      ...['--data-root', `${directory}/data`, '--exec-root', `${directory}/exec`],
      ...['--bridge', bridge, '--iptables=false', '--ip6tables=false', '--ip-forward=false'],
      ...['--ip-masq=false'],
    ],
    { stdio: ['ignore', log, log], detached: true },
  );
  closeSync(log);
  let over = false;
  const exited = new Promise<void>((resolve) => {
    const end = (): void => {
      over = true;
      resolve();
    };
    daemon.once('exit', end);
    daemon.once('error', end);
  });
  const docker: Docker = {
    directory,
    socket,
    hostAddress,
    run: (...args) => exec('docker', ['--host', socket, ...args]),
    async stop() {
      daemon.kill('SIGTERM');
      await within('dockerd to end', exited, START_MS);
      await unmountBelow(directory);
      await exec('ip', ['link', 'delete', bridge]);
      await rm(directory, { recursive: true, force: true });
    },
  };
  try {
    await eventually(
      'dockerd to answer',
      async () => {
        if (!over) return await docker.run('version').catch(() => undefined);
        throw new Error(`dockerd does not run here:\n${await readFile(logFile, 'utf8')}`);
      },
      START_MS,
    );
  } catch (error) {
    await docker.stop();
    throw error;
  }
  return docker;
}

async function exec(file: string, args: readonly string[]): Promise<string> {
  return (await promisify(execFile)(file, [...args])).stdout;
}

/** What a container that was killed may have left. */
async function unmountBelow(directory: string): Promise<void> {
  const mounts = (await readFile('/proc/self/mounts', 'utf8'))
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((mount) => mount.startsWith(`${directory}/`));
  for (const mount of mounts.toReversed()) await exec('umount', ['--lazy', mount]);
}
