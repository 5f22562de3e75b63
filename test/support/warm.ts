/** A rig whose runner `build` keeps a warm machine; the test speaks for the runner in it. */

import type { TestContext } from 'node:test';
import type { RunnerRow } from 'forrest-gitlab/contract';
import type { MachineRow } from '../../fixtures/host/src/index.ts';
import { eventually } from './deadline.ts';
import { createGuest, type Guest, type GuestAnswer } from './guest.ts';
import { createRig, type Rig, type RigOptions } from './rig.ts';

export interface Warm {
  readonly row: MachineRow;
  /** It has no job: it can only ask for one. */
  readonly guest: Guest;
}

/** Whom there is no job for yet. */
const NOBODY = { id: 0, token: '' } as Parameters<typeof createGuest>[1];

export async function startWarm(t: TestContext, options: RigOptions = {}): Promise<Rig> {
  const rig = await createRig(t, { ...options, runner: { warm: 1, ...options.runner } });
  await rig.start();
  return rig;
}

export function runnerRow(rig: Rig, name = 'build'): RunnerRow {
  const row = rig.status().providers[0]?.status.runners.find((one) => one.name === name);
  if (row === undefined) throw new Error(`no runner ${name}`);
  return row;
}

/** The machine without a job, once it is up; none of `not`. */
export function warmMachine(rig: Rig, not: readonly Warm[] = []): Promise<Warm> {
  const isNew = ({ runnerName, pid, state }: MachineRow): boolean =>
    pid !== null && state !== 'stopping' && !not.some(({ row }) => row.runnerName === runnerName);
  return eventually('a warm machine', async () => {
    const { machines, providers } = rig.status();
    const jobs = providers.flatMap(({ status }) => status.jobs);
    const row = machines.find(
      (one) => isNew(one) && !jobs.some(({ machine }) => machine === one.runnerName),
    );
    const guest = row && (await createGuest(row, NOBODY).catch(() => undefined));
    return guest && { row, guest };
  });
}

/** Its runner has asked, and is kept waiting. */
export interface WaitingMachine extends Warm {
  readonly asked: Promise<GuestAnswer>;
}

export async function readyMachine(rig: Rig, not: readonly Warm[] = []): Promise<WaitingMachine> {
  const warm = await warmMachine(rig, not);
  const asked = warm.guest.request();
  asked.catch(() => undefined);
  await eventually('the machine to be ready', () => (runnerRow(rig).warm?.ready ?? 0) > 0);
  return { ...warm, asked };
}

export const isGone = (rig: Rig, { row }: Warm): Promise<unknown> =>
  eventually(`${row.runnerName} to be gone`, () =>
    rig.status().machines.every(({ runnerName }) => runnerName !== row.runnerName),
  );
