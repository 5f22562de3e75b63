/** One of the hosts: its files, its processes, and what can be done to them. */

import { mkdirSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  identityOf,
  isAlive,
  sendSignal,
  sessionMembers,
} from '../../fixtures/host/src/drivers/proc.ts';
import type { HostStatus } from '../../fixtures/host/src/index.ts';
import { type HostProcess, startHostProcess } from '../../fixtures/main-job/host-process.ts';
import { eventually, within } from '../support/deadline.ts';
import { freePort } from '../support/free-port.ts';
import { post } from './control-socket.ts';
import { type Guests, hostConfig } from './host-config.ts';
import { JournalWatch } from './journal-watch.ts';
import { machineRecords } from './leaks.ts';
import { type Relay, startRelay } from './relay.ts';

export interface HostOptions {
  readonly directory: string;
  readonly name: string;
  readonly gitlabUrl: string;
  readonly runnerToken: string;
  /** Of the events that GitLab sends to it. */
  readonly webhookSecret: string;
  readonly guests: Guests;
}

/** For a busy machine. */
const START_MS = 60_000;
const STOP_MS = 60_000;

export class ChaosHost {
  readonly name: string;
  readonly baseDir: string;
  readonly stateDir: string;
  readonly guestPort: number;
  readonly relay: Relay;
  readonly journal: JournalWatch;
  readonly #directory: string;
  readonly #configFile: string;
  #process: HostProcess | null = null;
  #starts = 0;

  static async create(options: HostOptions): Promise<ChaosHost> {
    const { directory, name, gitlabUrl, runnerToken, guests } = options;
    const relay = await startRelay(await freePort(), Number(new URL(gitlabUrl).port));
    const guestPort = await freePort();
    const baseDir = path.join(directory, name);
    const tokenFile = path.join(directory, `${name}.token`);
    await mkdir(baseDir, { recursive: true });
    await writeFile(tokenFile, `${runnerToken}\n`, { mode: 0o600 });
    const webhookSecretFile = path.join(directory, `${name}.webhook`);
    await writeFile(webhookSecretFile, `${options.webhookSecret}\n`, { mode: 0o600 });
    const config = hostConfig({
      ...{ baseDir, tokenFile, webhookSecretFile, guestPort, gitlabUrl, guests },
      relayPort: relay.port,
    });
    const configFile = path.join(directory, `${name}.yaml`);
    await writeFile(configFile, JSON.stringify(config, null, 2), { mode: 0o600 });
    return new ChaosHost(options, baseDir, configFile, guestPort, relay);
  }

  private constructor(
    options: HostOptions,
    baseDir: string,
    configFile: string,
    guestPort: number,
    relay: Relay,
  ) {
    this.name = options.name;
    this.baseDir = baseDir;
    this.stateDir = path.join(baseDir, 'state');
    this.guestPort = guestPort;
    this.relay = relay;
    this.#directory = options.directory;
    this.#configFile = configFile;
    const leases = path.join(this.stateDir, 'gitlab/leases');
    mkdirSync(leases, { recursive: true, mode: 0o700 });
    this.journal = new JournalWatch(leases);
  }

  /** Resolves once it says that it is ready. */
  async start(): Promise<void> {
    this.#starts += 1;
    const starting = startHostProcess({
      configFile: this.#configFile,
      controlSocket: path.join(this.baseDir, 'control.sock'),
      logFile: path.join(this.#directory, `${this.name}-${this.#starts}.log`),
    });
    this.#process = await within(`${this.name} to be ready`, starting, START_MS);
  }

  /** Who it is to GitLab; null before it has ever run. */
  get systemId(): string | null {
    try {
      const text = readFileSync(path.join(this.stateDir, 'gitlab/system-id'), 'utf8');
      return text.split('\n')[0] ?? null;
    } catch {
      return null;
    }
  }

  get supervisorPid(): number {
    const pid = this.#process?.pid;
    if (pid === undefined) throw new Error(`${this.name} was not started`);
    return pid;
  }

  /** Of the host itself; there is none for a moment after it was killed. */
  childPid(): Promise<number> {
    return eventually(`${this.name} to run`, () => childOf(this.supervisorPid), START_MS);
  }

  status(): Promise<HostStatus> {
    if (this.#process === null) throw new Error(`${this.name} was not started`);
    return this.#process.status();
  }

  /** Its supervisor lives, and starts it again. */
  async killChild(): Promise<void> {
    sendSignal(await this.childPid(), 'SIGKILL');
  }

  /** At once, as a power cut does; its machines live on. */
  async killAll(): Promise<void> {
    const { supervisorPid } = this;
    // Stopped first, so that it starts no other one.
    sendSignal(supervisorPid, 'SIGSTOP');
    const pid = childOf(supervisorPid);
    const child = pid === undefined ? undefined : identityOf(pid);
    if (pid !== undefined) sendSignal(pid, 'SIGKILL');
    sendSignal(supervisorPid, 'SIGKILL');
    await within(`${this.name} to be gone`, this.#process?.died ?? Promise.resolve(''), STOP_MS);
    this.#process = null;
    if (child === undefined) return;
    await eventually(`the process of ${this.name} to be gone`, () => !isAlive(child), STOP_MS);
  }

  /** Takes nothing new, and stays up. */
  async drain(): Promise<void> {
    await post(path.join(this.baseDir, 'control.sock'), '/drain');
  }

  /** Asks it to drain and end; yields its exit code. */
  async stop(): Promise<number | null> {
    const code = await within(
      `${this.name} to stop`,
      this.#process?.drain() ?? Promise.resolve(null),
      STOP_MS,
    );
    this.#process = null;
    return code;
  }

  /** The process that is a machine; undefined while there is none. */
  machinePid(runnerName: string): number | undefined {
    const file = path.join(this.stateDir, 'host/machines', `${runnerName}.json`);
    try {
      const record = JSON.parse(readFileSync(file, 'utf8')) as { process: { pid: number } | null };
      return record.process?.pid;
    } catch {
      return undefined;
    }
  }

  /** Everything of it that may still run. For the end, whatever has happened. */
  async killEverything(): Promise<void> {
    // Those that wait for a job are in no journal.
    const machines = machineRecords(this.baseDir).map((file) =>
      this.machinePid(path.basename(file, '.json')),
    );
    if (this.#process !== null) await this.killAll().catch(() => undefined);
    for (const pid of machines) {
      if (pid === undefined) continue;
      for (const member of sessionMembers(pid)) sendSignal(member, 'SIGKILL');
    }
    this.journal.close();
    await this.relay.close();
  }
}

/** The host under a supervisor; undefined while there is none. */
function childOf(supervisor: number): number | undefined {
  try {
    const children = readFileSync(`/proc/${supervisor}/task/${supervisor}/children`, 'utf8');
    const pids = children.trim().split(' ').filter(Boolean).map(Number);
    return pids.find((pid) => isAlive(identityOf(pid)));
  } catch {
    return undefined;
  }
}
