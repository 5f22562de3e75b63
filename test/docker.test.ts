/** Jobs of the docker executor with the official runner, in docker on this machine: no virtual machine. */

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, suite, test } from 'node:test';
import type { SimJob } from '../fixtures/gitlab/index.ts';
import {
  HELPER_IMAGE,
  JOB_IMAGE,
  makeHelperImage,
  makeJobImage,
  makeServiceImage,
  SERVICE_IMAGE,
  SERVICE_TEXT,
} from '../fixtures/guest/docker-images/index.ts';
import { plainLog } from '../fixtures/main-job/log-lines.ts';
import { eventually } from './support/deadline.ts';
import { type Docker, startDocker, whyNoDocker } from './support/docker.ts';
import { createRig, type Rig, type RigOptions } from './support/rig.ts';

const TEMPLATE = path.join(import.meta.dirname, '../fixtures/guest/templates/gitlab-docker');
const RUNNER = process.env['GITLAB_RUNNER'] ?? '';
const HELPER = process.env['GITLAB_RUNNER_HELPER'] ?? '';

const JOB_MS = 45_000;

const skip =
  RUNNER === '' || HELPER === ''
    ? 'set GITLAB_RUNNER and GITLAB_RUNNER_HELPER to a gitlab-runner and its helper'
    : whyNoDocker();

const ended = (rig: Rig, job: SimJob) =>
  eventually(
    `job ${job.name} to have ended`,
    () => rig.status().history.find((row) => row.id === String(job.id)),
    JOB_MS,
  );

suite('the docker executor', { skip }, () => {
  let docker: Docker;

  before(async () => {
    docker = await startDocker();
    const archive = path.join(docker.directory, 'image.tar');
    for (const make of [
      makeJobImage,
      makeServiceImage,
      (file: string) => makeHelperImage(file, HELPER),
    ]) {
      await make(archive);
      await docker.run('load', '--quiet', '--input', archive);
    }
  });
  after(() => docker.stop());

  const inDocker = (runner: object = {}): RigOptions => ({
    // A log once looked at stays so: a runner learns of a cancel with the log that it sends.
    simulator: { host: docker.hostAddress, timings: { watchedMs: 600_000 } },
    section: { listen: `${docker.hostAddress}:0` },
    runner: {
      executor: 'docker',
      docker_image: JOB_IMAGE,
      docker_helper_image: HELPER_IMAGE,
      docker_pull_policy: 'never',
      ...runner,
    },
    template: {
      path: TEMPLATE,
      parameters: {
        GITLAB_RUNNER: path.resolve(RUNNER),
        DOCKER_SOCKET: docker.socket,
        DOCKER_NETWORK: '',
        HOST_ADDRESS: docker.hostAddress,
      },
    },
  });

  test('clones and uploads from the helper, and reaches its service', async (t) => {
    const rig = await createRig(t, inDocker());
    const [build, check] = rig.gitlab.queuePipeline({
      stages: [
        [
          {
            project: 'lab/demo',
            name: 'build',
            services: [{ name: SERVICE_IMAGE, alias: 'web' }],
            script: [
              'test -e /.dockerenv',
              'cat README.md > out.txt',
              'wget -qO- http://web/ >> out.txt',
            ],
            artifacts: [{ paths: ['out.txt'] }],
          },
        ],
        [
          {
            project: 'lab/demo',
            name: 'check',
            image: JOB_IMAGE,
            dependencies: ['build'],
            script: ['grep demo out.txt', `grep '${SERVICE_TEXT}' out.txt`],
          },
        ],
      ],
    }) as [SimJob, SimJob];
    await rig.start();
    await ended(rig, check);
    for (const job of [build, check]) {
      assert.deepEqual([job.name, job.status], [job.name, 'success'], job.log.toString());
      assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
    }
    assert.doesNotMatch(build.log.toString(), /probably didn't start properly/);
    assert.equal(await containers(docker), '');
  });

  test('tells the exit code of a script that fails', async (t) => {
    const rig = await createRig(t, inDocker());
    const job = rig.queue({ name: 'fails', script: ['exit 7'] });
    await rig.start();
    await ended(rig, job);
    assert.deepEqual(
      [job.status, job.failureReason, job.exitCode],
      ['failed', 'script_failure', 7],
      job.log.toString(),
    );
  });

  test('leaves no container where a job is canceled', async (t) => {
    const rig = await createRig(t, inDocker());
    const job = rig.queue({
      name: 'canceled',
      services: [{ name: SERVICE_IMAGE, alias: 'web' }],
      script: ['echo waiting now', 'while sleep 1; do echo still; done'],
    });
    // It sends that each 3 s then, else once a minute.
    rig.gitlab.watchLog(job.id);
    await rig.start();
    await eventually('the script to run', () => /^waiting now/m.test(plainLog(job.log)), JOB_MS);
    assert.notEqual(await containers(docker), '');
    rig.gitlab.cancel(job.id);
    assert.equal((await ended(rig, job)).outcome, 'canceled');
    assert.equal(job.status, 'canceled');
    assert.equal(await containers(docker), '');
  });

  test('lets a job choose among the configured pull policies', async (t) => {
    const rig = await createRig(t, inDocker({ docker_pull_policy: ['never', 'if-not-present'] }));
    const image = { name: JOB_IMAGE, pull_policy: ['if-not-present'] };
    const job = rig.queue({ name: 'chooses', extra: { image } });
    await rig.start();
    await ended(rig, job);
    assert.equal(job.status, 'success', job.log.toString());
  });
});

async function containers(docker: Docker): Promise<string> {
  return await docker.run('ps', '--all', '--quiet');
}
