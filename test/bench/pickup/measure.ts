/** Queues the jobs of a schedule, and tells from GitLab's own times how each was taken up. */

import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from '../../support/deadline.ts';
import type { GitlabProcess } from '../gitlab-process.ts';
import { type Schedule, timesOf } from './schedule.ts';

/** As the simulator's control API shows a job. */
interface Job {
  readonly id: number;
  readonly status: string;
  readonly queuedAt: number;
  readonly startedAt: number | null;
  readonly firstLogAt: number | null;
  readonly finishedAt: number | null;
}

/** Milliseconds, one for each job. */
export interface Pickup {
  readonly claimed: readonly number[];
  readonly firstLog: readonly number[];
  readonly final: readonly number[];
  readonly requestsPerJob: number;
}

/** For the last job to end, after it was queued. */
const LIMIT_MS = 120_000;

/** `before` is awaited before the jobs of each moment, where that is to wait for something. */
export async function measurePickup(
  gitlab: GitlabProcess,
  schedule: Schedule,
  before?: () => Promise<void>,
): Promise<Pickup> {
  const since = Date.now();
  const begin = performance.now();
  let last = -1;
  for (const [index, time] of timesOf(schedule).entries()) {
    await sleep(Math.max(0, begin + time - performance.now()));
    if (time !== last) await before?.();
    last = time;
    await gitlab.post('jobs', {
      project: 'lab/demo',
      name: `job-${index}`,
      script: ['echo this is all'],
      variables: [{ key: 'GIT_STRATEGY', value: 'none' }],
    });
  }
  const jobs = await eventually(
    'all jobs to have ended',
    async () => {
      const found = await gitlab.get<Job[]>('jobs');
      // Each look is a long answer, and its writer is what is measured.
      if (found.some(({ finishedAt }) => finishedAt === null)) await sleep(500);
      else return found;
      return undefined;
    },
    LIMIT_MS,
  );
  const wrong = jobs.find(({ status }) => status !== 'success');
  if (wrong !== undefined) throw new Error(`job ${wrong.id} ended as ${wrong.status}`);
  const requests = await gitlab.get<object[]>(`requests?since=${since}`);
  const from = (a: keyof Job, b: keyof Job): number[] =>
    jobs.map((job) => Number(job[b]) - Number(job[a]));
  return {
    claimed: from('queuedAt', 'startedAt'),
    firstLog: from('startedAt', 'firstLogAt'),
    final: from('queuedAt', 'finishedAt'),
    requestsPerJob: requests.length / jobs.length,
  };
}
