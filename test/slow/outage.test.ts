/** A real outage of 90 s with the clocks of production, while a job uploads and another waits for it. */

import { suite, test } from 'node:test';
import { eventually } from '../support/deadline.ts';
import { BUILD, endedAsScripted, queueTwo, RUNNERS } from '../support/outage-jobs.ts';
import { createRig } from '../support/rig.ts';

const OUTAGE_MS = 90_000;
const LIMIT_MS = 240_000;

suite('GitLab is away for 90 s', { concurrency: true }, () => {
  for (const { name, skip, options } of RUNNERS) {
    test(name, { skip, timeout: LIMIT_MS + OUTAGE_MS }, async (t) => {
      const rig = await createRig(t, await options());
      const jobs = queueTwo(rig, 'long', [...BUILD, 'sleep 5']);
      await rig.start();
      const [build] = jobs;
      await eventually('the first line', () => build.log.includes('first line'), 60_000);
      await rig.gitlab.takeDown();
      await new Promise((resolve) => setTimeout(resolve, OUTAGE_MS));
      await rig.gitlab.bringBack();
      await endedAsScripted(rig, jobs, LIMIT_MS);
    });
  }
});
