/** The host of `docs/writing-a-host.md`: the page shows it as it is, and it runs a job. */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { it } from 'node:test';
import { createPlugin } from 'forrest-gitlab';
import type { Logger } from 'forrest-gitlab/contract';
import { startGitlabSimulator } from '../fixtures/gitlab/index.ts';
import { findGuestRunner } from '../fixtures/main-job/runner.ts';
import { recordSecret } from '../fixtures/testing/record.ts';
import { eventually } from './support/deadline.ts';
import { temporaryDirectory, writePrivate } from './support/files.ts';
import {
  createSmallHost,
  SmallPool,
  spawnWithEnvironment,
  startProvider,
} from './support/small-host.ts';

const JOB = `
export CI_SERVER_URL="$GITLAB_RUNNER_URL" CI_SERVER_TOKEN="$GITLAB_RUNNER_TOKEN" RUNNER_EXECUTOR=shell
export RUNNER_SHELL=bash RUNNER_BUILDS_DIR="$HOME/builds" RUNNER_CACHE_DIR="$HOME/cache"
exec $RUNNER run-single --max-builds 1 --wait-timeout 60`;

it('writing-a-host.md shows the parts of the smallest host as they are', async () => {
  const read = (file: string) => readFile(path.join(import.meta.dirname, file), 'utf8');
  const source = await read('support/small-host.ts');
  const parts = [...source.matchAll(/\/\/ #region \w+\n([\s\S]*?)^ *\/\/ #endregion/gm)].map(
    ([, text = '']) => text,
  );
  const page = await read('../docs/writing-a-host.md');
  const shown = [...page.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, text = '']) => text);
  assert.deepEqual(shown.toSorted(), parts.map(dedent).toSorted());
});

it('the smallest host runs a job with the plugin', { timeout: 90_000 }, async (t) => {
  const directory = await temporaryDirectory(t);
  const gitlab = await startGitlabSimulator();
  t.after(() => gitlab.close());
  gitlab.createProject({ path: 'lab/demo', files: { 'README.md': 'demo\n' } });
  const { token } = gitlab.createRunner();
  recordSecret(token);
  await writePrivate(path.join(directory, 'token'), token);
  const { command } = await findGuestRunner(process.env['GITLAB_RUNNER']);
  const type = { name: 'small', ramBytes: 1, architecture: 'amd64', hostAddress: '127.0.0.1' };
  const env = { PATH: process.env['PATH'], HOME: directory, RUNNER: command };
  const pool = new SmallPool(1, [type], spawnWithEnvironment(['sh', '-c', JOB], env));
  const section = {
    ...{ url: gitlab.url, listen: '127.0.0.1:0' },
    runners: [{ name: 'build', token_file: 'token', machine: 'small' }],
  };
  const provider = await startProvider(createPlugin(), section, {
    host: createSmallHost(pool, directory, SILENT),
    file: path.join(directory, 'config.yaml'),
  });
  t.after(() => provider.stop('end'));

  const jobs = ['one', 'two'].map((name) =>
    gitlab.queueJob({ project: 'lab/demo', name, script: ['cat README.md'] }),
  );
  await gitlab.waitFor('both jobs to end', () => jobs.every((job) => job.isFinal), 60_000);
  for (const job of jobs) assert.equal(job.status, 'success', job.log.toString());
  await eventually('its machines to be gone', () => pool.machines().length === 0, 30_000);
});

const SILENT: Logger = {
  ...{ debug() {}, info() {}, warn() {}, error() {} },
  child: () => SILENT,
};

/** By the spaces of its first line. */
function dedent(text: string): string {
  const indent = /^ */.exec(text)?.[0].length ?? 0;
  return text.replace(new RegExp(`^ {${indent}}`, 'gm'), '');
}
