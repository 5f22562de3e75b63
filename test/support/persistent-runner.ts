/** A runner as persistent as the official one: what fails is tried again, what GitLab ends is left. */

import { setTimeout as wait } from 'node:timers/promises';
import type { Guest, GuestAnswer } from './guest.ts';

/** Says so much in its log. */
export const SAID = 'hello from the job\n';

/** Lives a job to its end, and powers its machine off. `isUp`: whether its machine still is. */
export async function liveJob(guest: Guest, isUp: () => boolean): Promise<void> {
  const persist = async (
    call: () => Promise<GuestAnswer>,
    until: readonly number[],
  ): Promise<boolean> => {
    while (isUp()) {
      const status = await call().then(
        (answer) => answer.status,
        () => 0,
      );
      if (until.includes(status)) return true;
      if (status === 403) return false;
      await wait(20);
    }
    return false;
  };
  const steps = [
    [() => guest.request(), [201]],
    [() => guest.keepAlive(), [200]],
    // 416: its first try arrived, and the answer was lost.
    [() => guest.log(SAID), [202, 416]],
    [() => guest.finish('success'), [200]],
  ] as const;
  for (const [call, until] of steps) if (!(await persist(call, until))) break;
  if (isUp()) await guest.powerOff();
}
