/** Machines of a test's own: they wait for the test, or run the stand-in for GitHub's runner. */

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import type {
  BootSpec,
  Machine,
  MachineOutcome,
  MachineState,
  MachineType,
  Room,
} from 'forrest-gitlab/contract';
import { ask } from '../../fixtures/testing/ask.ts';
import { writePrivate } from './files.ts';
import { outcomeOf } from './machine-outcome.ts';

const STAND_IN = path.join(import.meta.dirname, '../../fixtures/guest/github-runner/run.sh');

/** A machine as a test drives it. */
export interface TestMachine extends Machine {
  readonly spec: BootSpec;
  readonly reports: readonly string[];
  readonly stopReason: string | null;
  /** What the runner in it is given. */
  readonly jitConfig: string;
  end(outcome?: Partial<MachineOutcome>): void;
  /** Speaks for the runner in it: `path` of the simulator's guest protocol. */
  guest(path: string, rest?: string): Promise<string>;
}

export interface MachineOptions {
  /** The simulator's. */
  readonly url: string;
  readonly directory: string;
  readonly standIn: boolean;
}

/** Room of a machine type, firm. */
export function roomOf(name: string): Room {
  const machineType: MachineType = {
    name,
    ramBytes: 1024 ** 3,
    architecture: 'amd64',
    hostAddress: '127.0.0.1',
  };
  return {
    machineType,
    firm: true,
    wanted: 'no' as const,
    onWanted: () => () => undefined,
    makeFirm: () => undefined,
  };
}

export function createMachine(
  spec: BootSpec,
  machineType: string,
  { url, directory, standIn }: MachineOptions,
): TestMachine {
  const { promise: ended, resolve } = Promise.withResolvers<MachineOutcome>();
  const reports: string[] = [];
  let state: MachineState = 'starting';
  let stopReason: string | null = null;
  let child: ChildProcess | undefined;
  const jit = spec.substitutions['JITCONFIG'];
  const jitConfig = typeof jit === 'object' ? jit.reveal() : '';
  const end = (outcome: Partial<MachineOutcome> = {}): void => {
    if (state === 'stopped') return;
    state = 'stopped';
    child?.kill('SIGKILL');
    resolve(outcomeOf(outcome));
  };
  if (standIn) {
    void runStandIn(spec.runnerName, jitConfig, directory).then((started) => {
      child = started;
      started.once('exit', (code) => end({ exitCode: code }));
    });
  }
  return {
    ...roomOf(machineType),
    spec,
    runnerName: spec.runnerName,
    metadata: spec.metadata,
    bootedAt: Date.now(),
    reports,
    jitConfig,
    ended,
    end,
    get state() {
      return state;
    },
    get stopReason() {
      return stopReason;
    },
    report(event) {
      reports.push(event);
      state = event === 'online' ? 'waiting' : event === 'busy' ? 'running' : 'stopping';
    },
    allowPersist: () => Promise.resolve(),
    stop(reason) {
      stopReason ??= reason;
      end({ cause: 'stopped', detail: reason, exitCode: null });
    },
    async guest(target, rest = '') {
      const { credential } = JSON.parse(Buffer.from(jitConfig, 'base64').toString()) as {
        credential: string;
      };
      return await post(new URL(`/_guest/${target}`, url), `${credential}\n${rest}`);
    },
  };
}

async function runStandIn(
  name: string,
  jitConfig: string,
  directory: string,
): Promise<ChildProcess> {
  const runDir = path.join(directory, name);
  await mkdir(runDir);
  const file = await writePrivate(path.join(runDir, 'jit-config'), jitConfig);
  return spawn(STAND_IN, [file, path.join(runDir, 'work')], {
    cwd: runDir,
    stdio: 'ignore',
    env: { PATH: process.env['PATH'], TMPDIR: runDir },
  });
}

async function post({ port, pathname }: URL, body: string): Promise<string> {
  return (await ask({ port, path: pathname, method: 'POST' }, body)).text.trim();
}
