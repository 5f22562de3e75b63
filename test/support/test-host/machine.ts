/** Machines that do nothing by themselves, and what each run of a provider has of them. */

import type {
  BootSpec,
  Machine,
  MachineOutcome,
  MachineState,
  MachineType,
} from 'forrest-gitlab/contract';
import { outcomeOf } from '../machine-outcome.ts';

export const TYPE: MachineType = {
  name: 'small',
  ramBytes: 1024 ** 3,
  architecture: 'amd64',
  hostAddress: '127.0.0.1',
};

/** Of a provider that is dead: nothing goes on. */
export const NEVER: Promise<never> = new Promise<never>(() => undefined);

/** A machine as the test sees it; it does nothing by itself. */
export interface TestMachine {
  readonly runnerName: string;
  readonly spec: BootSpec;
  /** What providers reported, `stop` included. */
  readonly reports: readonly string[];
  readonly stopReason: string | null;
  readonly isUp: boolean;
  end(outcome?: Partial<MachineOutcome>): void;
}

export interface WorldMachine extends TestMachine {
  reports: string[];
  stopReason: string | null;
  state: MachineState;
  /** A job is bound to it, as far as providers have said so. */
  firm: boolean;
  /** Its end has not been told to any provider. */
  untold: boolean;
  readonly ended: Promise<MachineOutcome>;
}

export function createMachine(spec: BootSpec): WorldMachine {
  const { promise: ended, resolve } = Promise.withResolvers<MachineOutcome>();
  const machine: WorldMachine = {
    runnerName: spec.runnerName,
    spec,
    reports: [],
    stopReason: null,
    state: 'starting',
    firm: jobOf({ spec }) !== undefined,
    untold: true,
    ended,
    get isUp() {
      return machine.state !== 'stopped';
    },
    end(outcome) {
      machine.state = 'stopped';
      resolve(outcomeOf(outcome));
    },
  };
  return machine;
}

/** What one run of a provider has of a machine. */
export function viewOf(
  machine: WorldMachine,
  life: { readonly isDead: boolean },
  host: { readonly ignoreStop: boolean },
): Machine {
  return {
    ...roomOf(),
    get firm() {
      return machine.firm;
    },
    makeFirm() {
      if (!life.isDead) machine.firm = true;
    },
    runnerName: machine.runnerName,
    metadata: machine.spec.metadata,
    bootedAt: null,
    get state() {
      return machine.state;
    },
    report(event) {
      machine.reports.push(event);
      if (event === 'online' && machine.isUp) machine.state = 'waiting';
    },
    allowPersist: async () => undefined,
    stop(reason) {
      if (life.isDead) return;
      machine.stopReason ??= reason;
      if (!host.ignoreStop) machine.end({ cause: 'stopped', detail: reason, exitCode: null });
    },
    ended: machine.ended.then((outcome) => {
      if (life.isDead) return NEVER;
      machine.untold = false;
      return outcome;
    }),
  };
}

/** Room that nobody else ever wants. */
export function roomOf(): Pick<
  Machine,
  'machineType' | 'firm' | 'wanted' | 'onWanted' | 'makeFirm'
> {
  return {
    machineType: TYPE,
    firm: true,
    wanted: 'no',
    onWanted: () => () => undefined,
    makeFirm: () => undefined,
  };
}

/** The id of the job that a machine was booted for; null: none. */
export function jobOf({ spec: { metadata } }: Pick<TestMachine, 'spec'>): unknown {
  return typeof metadata === 'object' && metadata !== null ? Reflect.get(metadata, 'job') : null;
}
