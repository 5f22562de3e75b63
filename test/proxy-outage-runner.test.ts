/** Real runners in machines while GitLab is out, at each of their calls: every job ends as its script did. */

import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import type { FaultAction, InjectedFault, RouteName, SimJob } from '../fixtures/gitlab/index.ts';
import { eventually } from './support/deadline.ts';
import { BUILD, endedAsScripted, queueTwo, RUNNERS } from './support/outage-jobs.ts';
import { createRig } from './support/rig.ts';

const TIMINGS = {
  callTimeoutMs: 1000,
  updateTimeoutMs: 1000,
  downloadTimeoutMs: 1000,
  forwardTimeoutMs: 2000,
  stallMs: 2000,
  repeatMs: 50,
  repeatCapMs: 200,
  retryAfterCapMs: 500,
  probeMs: 50,
  probeCapMs: 100,
};

const HTML = { contentType: 'text/html', body: '<html><h1>no backend</h1></html>' };

const FAULTS: Readonly<Record<string, FaultAction>> = {
  '500': { status: 500 },
  '502': { status: 502, ...HTML },
  '522': { status: 522, ...HTML },
  '429': { status: 429, headers: { 'retry-after': '1' } },
  'a 404 of a box in between': { status: 404, ...HTML },
  hanging: { hang: true },
  'cut off before the body': { cutBeforeAnswer: true },
  'cut off within the body': { cutAfterBytes: 500_000 },
};

const LIMIT_MS = 150_000;

suite('real runners, with GitLab out', { concurrency: 3 }, () => {
  for (const { name, skip, options } of RUNNERS) {
    test(`${name}: at the first calls of each kind`, { skip, timeout: LIMIT_MS }, async (t) => {
      const rig = await createRig(t, { ...(await options()), timings: TIMINGS });
      const pipelines = Object.entries(FAULTS).map(([fault, action]) => {
        const jobs = queueTwo(rig, fault, BUILD);
        const strike = (job: SimJob, route: RouteName): InjectedFault =>
          rig.gitlab.inject({ match: { route, jobId: job.id, times: 2 }, do: action });
        const [build] = jobs;
        const injected = jobs.flatMap((job) => [strike(job, 'job-update'), strike(job, 'trace')]);
        injected.push(strike(build, 'artifacts-upload'));
        // A 404 for a download is GitLab's own: there is no such artifact.
        if (!fault.includes('404')) injected.push(strike(build, 'artifacts-download'));
        return { fault, jobs, injected };
      });
      await rig.start();
      await Promise.all(
        pipelines.map(({ fault, jobs, injected }) =>
          t.test(fault, { timeout: LIMIT_MS }, async () => {
            await endedAsScripted(rig, jobs, LIMIT_MS);
            assert.ok(injected.every(({ hits }) => hits > 0));
          }),
        ),
      );
    });

    const title = `${name}: refusing connections in the middle of a job, and before a download`;
    test(title, { skip, timeout: LIMIT_MS }, async (t) => {
      const rig = await createRig(t, { ...(await options()), timings: TIMINGS });
      const jobs = queueTwo(rig, 'down', [...BUILD, 'sleep 2']);
      const [build, check] = jobs;
      await rig.start();
      const outage = async (): Promise<void> => {
        await rig.gitlab.takeDown();
        await new Promise((resolve) => setTimeout(resolve, 4000));
        await rig.gitlab.bringBack();
      };
      await eventually('the first line', () => build.log.includes('first line'), 60_000);
      await outage();
      await eventually('the second job', () => check.status === 'running', 60_000);
      await outage();
      await endedAsScripted(rig, jobs, LIMIT_MS);
    });
  }
});
