/** Both executors of the official runner in full Debian machines: `npm start -- --guest debian`. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { test } from 'node:test';
import { isInstalled, QEMU } from '../../fixtures/host/src/drivers/qemu/index.ts';
import type { Report } from '../../fixtures/main-job/report.ts';
import { within } from '../support/deadline.ts';

const { GITLAB_RUNNER, GITLAB_RUNNER_HELPER } = process.env;
const programs = [QEMU, 'mformat', 'mmdebstrap', 'mke2fs'];
const missing = programs.filter((program) => !isInstalled(program));
const skip =
  GITLAB_RUNNER === undefined || GITLAB_RUNNER_HELPER === undefined
    ? 'set GITLAB_RUNNER and GITLAB_RUNNER_HELPER to a gitlab-runner and its helper'
    : missing.length > 0 && `${missing.join(', ')} not installed`;

/** Without KVM; the image is made the first time. */
const LIMIT_MS = 20 * 60_000;

test('docker with a service and an artifact, shell with a submodule, in a Debian machine each', {
  skip,
  timeout: LIMIT_MS,
}, async (t) => {
  const cli = path.join(import.meta.dirname, '../../fixtures/main-job/cli.ts');
  const child = spawn(
    process.execPath,
    ['--conditions=forrest-gitlab-source', cli, '--guest', 'debian', '--json'],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  t.after(() => child.kill('SIGINT'));
  const [output, [code]] = await within(
    'both jobs',
    Promise.all([child.stdout.toArray(), once(child, 'exit')]),
    LIMIT_MS,
  );
  const report = JSON.parse(Buffer.concat(output).toString()) as Report;
  assert.deepEqual(
    report.jobs.map(({ name, state, logIntact }) => [name, state, logIntact]),
    [
      ['docker', 'success', true],
      ['shell', 'success', true],
    ],
  );
  assert.equal(report.runner.kind, 'official');
  assert.equal(code, 0);
});
