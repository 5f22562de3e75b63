/** A host with two running jobs and one that is over, for who attacks out of the first one's machine. */

import assert from 'node:assert/strict';
import type { SimJob } from '../../fixtures/gitlab/index.ts';
import type { Guest } from './guest.ts';
import { type Cleanup, type Rig, type RigOptions, startRig } from './rig.ts';

export interface Victims {
  readonly rig: Rig;
  readonly port: number;
  /** The attacker's own. */
  readonly job: SimJob;
  readonly guest: Guest;
  /** Another machine's. */
  readonly other: { readonly job: SimJob; readonly guest: Guest };
  /** Of a job that has ended, machine and all. */
  readonly older: { readonly job: SimJob; readonly guest: Guest };
  /** `/<vm token>/api/v4` of the attacker. */
  readonly api: string;
  /** Fails where anything but the claimers' own asking has reached GitLab since the last look. */
  assertUntouched(what: string): void;
}

export async function startVictims(t: Cleanup, options: RigOptions = {}): Promise<Victims> {
  const rig = await startRig(t, options);
  const older = await rig.running();
  await older.guest.finish('success');
  await older.guest.powerOff();
  await rig.ended(older.job);
  const other = await rig.running();
  const { job, guest } = await rig.running();
  const calls = (): string[] =>
    rig.gitlab.requests
      .filter((request) => request.route !== 'jobs-request')
      .map((request) => `${request.method} ${request.target}`);
  let before = calls().length;
  return {
    rig,
    port: Number(new URL(guest.url).port),
    job,
    guest,
    other,
    older,
    api: `/${guest.token}/api/v4`,
    assertUntouched(what) {
      const since = calls().slice(before);
      before += since.length;
      assert.deepEqual(since, [], `${what}: nothing may reach GitLab`);
    },
  };
}
