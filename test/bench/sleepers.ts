/** Machines that cost nothing: each writes down its address and sleeps. What it would say, the benchmark says. */

import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { eventually } from '../support/deadline.ts';
import type { Vm } from './proxy/load.ts';

export interface Job {
  readonly id: number;
  readonly token: string;
}

/** For hundreds of machines, one after the other. */
const BOOT_LIMIT_MS = 300_000;

/** `called`: the directory in which each machine leaves its address, by its name. */
export async function writeSleeperTemplate(template: string, called: string): Promise<void> {
  const jobConfig = path.join(template, 'job-config');
  await mkdir(jobConfig, { recursive: true });
  await writeFile(path.join(jobConfig, 'url'), '<GITLAB_RUNNER_URL>');
  await writeFile(
    path.join(jobConfig, 'job.sh'),
    `#!/bin/sh\ncp job-config/url '${called}'/$RUNNER_NAME.new\nmv '${called}'/$RUNNER_NAME.new '${called}'/$RUNNER_NAME\nexec sleep 100000\n`,
  );
  await chmod(path.join(jobConfig, 'job.sh'), 0o755);
}

/** The address of each machine's route. */
export async function readMachines(called: string, jobs: number): Promise<URL[]> {
  const names = await eventually(
    `${jobs} machines`,
    async () => {
      const found = (await readdir(called)).filter((name) => !name.endsWith('.new'));
      return found.length === jobs && found;
    },
    BOOT_LIMIT_MS,
  );
  return Promise.all(
    names.map(async (name) => new URL(await readFile(path.join(called, name), 'utf8'))),
  );
}

/** What the runner in the machine does first. */
export async function takeJob(url: URL): Promise<{ vm: Vm; job: Job }> {
  const vmToken = url.pathname.slice(1);
  const offer = await fetch(`${url.href}/api/v4/jobs/request`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ token: vmToken }),
  });
  if (offer.status !== 201) throw new Error(`jobs/request: ${offer.status}`);
  const { id, token } = (await offer.json()) as Job;
  const update = await fetch(`${url.href}/api/v4/jobs/${id}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json', 'job-token': token },
    body: JSON.stringify({ token, state: 'running' }),
  });
  await update.arrayBuffer();
  if (update.status !== 200) throw new Error(`PUT state=running: ${update.status}`);
  const vm = {
    port: Number(url.port),
    path: `${url.pathname}/api/v4/jobs/${id}`,
    token,
    logBytes: 0,
  };
  return { vm, job: { id, token } };
}
