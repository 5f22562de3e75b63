/** Real runners through an outage: their jobs, and what must have become of them. */

import assert from 'node:assert/strict';
import path from 'node:path';
import type { SimJob } from '../../fixtures/gitlab/index.ts';
import { findGuestRunner } from '../../fixtures/main-job/runner.ts';
import { eventually } from './deadline.ts';
import type { Rig, RigOptions } from './rig.ts';

const TEMPLATE = path.join(import.meta.dirname, '../../fixtures/guest/templates/gitlab-shell');

/** A runner that a machine starts: the official one where it is given, or the stand-in in some version. */
export interface OutageRunner {
  readonly name: string;
  readonly skip: string | false;
  options(): Promise<RigOptions>;
}

export const RUNNERS: readonly OutageRunner[] = [
  standIn('15.11'),
  standIn('19.4'),
  {
    name: 'the official runner',
    skip: process.env['GITLAB_RUNNER'] ? false : 'set GITLAB_RUNNER to a gitlab-runner',
    options: async () => templateOf((await findGuestRunner(process.env['GITLAB_RUNNER'])).command),
  },
];

function standIn(version: string): OutageRunner {
  return {
    name: `the stand-in as ${version}`,
    skip: false,
    async options() {
      const { command } = await findGuestRunner(undefined);
      // Its seconds are shorter: what waits here is the runner, and not what is tested.
      return templateOf(`env STAND_IN_VERSION=${version} STAND_IN_SECOND_MS=300 ${command}`);
    },
  };
}

function templateOf(command: string): RigOptions {
  const parameters = { GITLAB_RUNNER: command, BOOT_GATE: '' };
  return { ram: '32G', runner: { limit: 16 }, template: { path: TEMPLATE, parameters } };
}

/** A job that builds and uploads, and one that downloads and checks; nothing but our proxy needs GitLab. */
export function queueTwo(rig: Rig, name: string, script: readonly string[]): [SimJob, SimJob] {
  const spec = { project: 'lab/demo', variables: [{ key: 'GIT_STRATEGY', value: 'none' }] };
  return rig.gitlab.queuePipeline({
    stages: [
      [{ ...spec, name: `${name}: build`, script, artifacts: [{ paths: ['out.bin'] }] }],
      [
        {
          ...spec,
          name: `${name}: check`,
          dependencies: [`${name}: build`],
          script: ['sha256sum out.bin', 'test $(stat -c %s out.bin) = 3000000', 'exit 7'],
        },
      ],
    ],
  }) as [SimJob, SimJob];
}

/** Noise that no archive makes smaller. */
export const BUILD: readonly string[] = [
  'echo first line',
  'head -c 3000000 /dev/urandom > out.bin',
  'echo last line',
];

/** The first succeeded and the second failed by its script, as they would have with a GitLab that is up. */
export async function endedAsScripted(
  rig: Rig,
  jobs: [SimJob, SimJob],
  timeoutMs: number,
): Promise<void> {
  for (const job of jobs) {
    await eventually(
      `job ${job.name} to have ended`,
      () => rig.status().history.find((row) => row.id === String(job.id)),
      timeoutMs,
    );
    assert.deepEqual(
      job.verdict(),
      { handedOut: 1, ended: 1, logIntact: true, anomalies: [] },
      `${job.name}:\n${job.log}`,
    );
  }
  const [build, check] = jobs;
  assert.equal(build.status, 'success', build.log.toString());
  assert.match(build.log.toString(), /first line\n(.*\n)*?(.* )?last line\n/);
  assert.deepEqual(
    [check.status, check.failureReason, check.exitCode],
    ['failed', 'script_failure', 7],
    check.log.toString(),
  );
}
