/**
 * A real runner in each machine, started by the shell template: the stand-in always, the official
 * gitlab-runner where GITLAB_RUNNER names one.
 */

import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { suite, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import type { JobSpec, SimJob } from '../fixtures/gitlab/index.ts';
import { sessionMembers } from '../fixtures/host/src/drivers/proc.ts';
import { plainLog } from '../fixtures/main-job/log-lines.ts';
import { findGuestRunner } from '../fixtures/main-job/runner.ts';
import { eventually } from './support/deadline.ts';
import { createRig, type Rig, type RigOptions } from './support/rig.ts';

const TEMPLATE = path.join(import.meta.dirname, '../fixtures/guest/templates/gitlab-shell');
const OFFICIAL = process.env['GITLAB_RUNNER'];

const scripted = (name: string, script: string): JobSpec => ({
  project: 'lab/demo',
  name,
  script: [script],
});

const ended = (rig: Rig, job: SimJob): Promise<unknown> =>
  eventually(
    `job ${job.name} to have ended`,
    () => rig.status().history.find((row) => row.id === String(job.id)),
    40_000,
  );

for (const kind of ['stand-in', 'official'] as const) {
  const skip = kind === 'official' && !OFFICIAL ? 'set GITLAB_RUNNER to a gitlab-runner' : false;

  suite(`the ${kind} runner in a machine`, { skip, concurrency: 2 }, () => {
    const withRunner = async (): Promise<RigOptions> => {
      const { command } = await findGuestRunner(kind === 'official' ? OFFICIAL : undefined);
      const parameters = { GITLAB_RUNNER: command, BOOT_GATE: '' };
      return { template: { path: TEMPLATE, parameters } };
    };

    test('clones, builds, uploads; the next stage downloads; the log is whole', async (t) => {
      const rig = await createRig(t, await withRunner());
      const spec = { project: 'lab/demo' };
      const [build, check, none] = rig.gitlab.queuePipeline({
        stages: [
          [
            {
              ...spec,
              name: 'build',
              script: ['cat README.md > out.txt', 'echo "token is $CI_JOB_TOKEN"'],
              artifacts: [{ paths: ['out.txt'] }],
            },
          ],
          [{ ...spec, name: 'check', dependencies: ['build'], script: ['grep demo out.txt'] }],
          [{ ...spec, name: 'none', dependencies: [], script: ['test ! -e out.txt'] }],
        ],
      }) as [SimJob, SimJob, SimJob];
      await rig.start();
      await ended(rig, none);
      for (const job of [build, check, none]) {
        assert.deepEqual([job.name, job.status], [job.name, 'success'], job.log.toString());
        assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
      }
      assert.match(build.log.toString(), /token is \[MASKED\]/);
    });

    test('downloads straight from object storage, where GitLab sends it there', async (t) => {
      const rig = await createRig(t, {
        ...(await withRunner()),
        simulator: { objectStorage: true },
      });
      const [, check] = rig.gitlab.queuePipeline({
        stages: [
          [{ ...scripted('build', 'echo built > out.txt'), artifacts: [{ paths: ['out.txt'] }] }],
          [{ ...scripted('check', 'grep built out.txt'), dependencies: ['build'] }],
        ],
      }) as [SimJob, SimJob];
      await rig.start();
      await ended(rig, check);
      assert.equal(check.status, 'success', check.log.toString());
      const gets = rig.gitlab.requests.filter(({ route }) => route === 'artifacts-download');
      assert.ok(gets.length > 0);
      for (const { target } of gets) assert.match(target, /direct_download=true/);
      const stored = rig.gitlab.requests.filter(({ route }) => route === 'object-storage');
      assert.deepEqual(
        stored.map(({ status }) => status),
        [200],
      );
    });

    test('uploads a report of very many small files, which it compresses one by one', async (t) => {
      const rig = await createRig(t, await withRunner());
      const job = rig.queue({
        name: 'reports',
        script: ['mkdir r', 'for i in $(seq 1500); do echo "<a/>" > r/$i.xml; done'],
        artifacts: [{ paths: ['r/*.xml'], type: 'junit', format: 'gzip' }],
      });
      await rig.start();
      await ended(rig, job);
      assert.equal(job.status, 'success', job.log.toString());
      const report = job.artifacts.find(({ type }) => type === 'junit');
      assert.ok(report);
      assert.equal(gunzipSync(await readFile(report.path)).toString(), '<a/>\n'.repeat(1500));
    });

    test('a script that fails, with its exit code', async (t) => {
      const rig = await createRig(t, await withRunner());
      const job = rig.queue({ name: 'fails', script: ['exit 7'] });
      await rig.start();
      await ended(rig, job);
      assert.deepEqual(
        [job.status, job.failureReason, job.exitCode],
        ['failed', 'script_failure', 7],
      );
      assert.equal(job.verdict().logIntact, true);
    });

    test('the real runner token is nowhere that the machine can see', async (t) => {
      const rig = await createRig(t, await withRunner());
      const job = rig.queue({
        name: 'looks',
        script: [
          'env > seen.txt; cat /proc/$PPID/environ /proc/$PPID/cmdline >> seen.txt',
          'echo look now; while [ ! -e done.txt ]; do sleep 0.1; done',
        ],
        artifacts: [{ paths: ['seen.txt'] }],
      });
      await rig.start();
      await eventually('the job to look', () => /^look now/m.test(plainLog(job.log)), 30_000);
      const machine = rig.status().machines[0];
      assert.ok(machine?.pid);
      // Its first nine characters are its public short token, and part of the machine's own.
      const secret = rig.runner.token.slice('glrt-'.length + 9);
      const places: Array<readonly [string, string]> = [];
      for (const file of await readdir(machine.runDir, { recursive: true, withFileTypes: true })) {
        if (!file.isFile()) continue;
        const at = path.join(file.parentPath, file.name);
        places.push([at, await readFile(at, 'latin1')]);
      }
      for (const pid of sessionMembers(machine.pid)) {
        for (const name of ['cmdline', 'environ']) {
          const at = `/proc/${pid}/${name}`;
          places.push([at, await readFile(at, 'latin1').catch(() => '')]);
        }
      }
      assert.ok(places.length > 10);
      const vmToken = /glrt-[\w-]+/.exec(
        places.find(([at]) => at.endsWith('runner.env'))?.[1] ?? '',
      )?.[0];
      assert.ok(vmToken && vmToken !== rig.runner.token);
      // What the proxy sent it: the payload, and every answer, is what GitLab sent for this job.
      places.push(['the payload', job.payload?.toString('latin1') ?? '']);
      for (const [at, content] of places) {
        assert.ok(!content.includes(secret), `${at} holds the runner token`);
        if (at.endsWith('cmdline')) {
          assert.ok(!content.includes(vmToken), `${at} holds the VM token`);
        }
      }
      const asks = rig.gitlab.requests.filter((one) => one.target.includes(`/jobs/${job.id}`));
      for (const ask of asks) assert.ok(!JSON.stringify(ask.headers).includes(secret));
    });

    test('in a warm machine it waits for its job, is told now and then that there is none, and asks again', async (t) => {
      const { template } = await withRunner();
      assert.ok(template);
      const { GITLAB_RUNNER = '' } = template.parameters;
      const parameters = {
        ...template.parameters,
        GITLAB_RUNNER: `env LOG_LEVEL=debug ${GITLAB_RUNNER}`,
      };
      const rig = await createRig(t, {
        template: { ...template, parameters },
        runner: { warm: 1 },
        timings: { warmHoldMs: 500 },
      });
      await rig.start();
      const isReady = () => rig.status().providers[0]?.status.runners[0]?.warm?.ready === 1;
      await eventually('the warm machine', isReady, 40_000);
      const machine = rig.status().machines[0];
      assert.ok(machine);
      // Only the official runner tells that it was answered.
      const told = async (): Promise<boolean> =>
        kind !== 'official' ||
        /Checking for jobs\.\.\. *(nothing|no content)/.test(
          await readFile(path.join(machine.runDir, 'log.txt'), 'utf8'),
        );
      await eventually('it to be told that there is none', told, 20_000);
      const job = rig.queue({ script: ['cat README.md'] });
      await ended(rig, job);
      assert.equal(job.status, 'success', job.log.toString());
      assert.equal(rig.row(job)?.machine, machine.runnerName);
      assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
    });

    test('what a job leaves running ends with its machine', async (t) => {
      const rig = await createRig(t, await withRunner());
      const job = rig.queue({ script: ['sleep 300 > /dev/null 2>&1 & echo started'] });
      await rig.start();
      const machine = await eventually('its machine', () =>
        rig.status().machines.find((one) => one.pid),
      );
      await ended(rig, job);
      assert.equal(job.status, 'success', job.log.toString());
      assert.deepEqual(sessionMembers(machine.pid ?? 0), []);
    });
  });
}
