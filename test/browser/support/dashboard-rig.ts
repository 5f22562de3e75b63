/** A real host with jobs of both forges and a dashboard, and simulators of both. */

import path from 'node:path';
import type { TestContext } from 'node:test';
import {
  type SimJob as GithubJob,
  type GithubSimulator,
  startGithubSimulator,
} from '../../../fixtures/github/index.ts';
import { stateOf } from '../../../fixtures/host/src/operator/index.ts';
import { ask } from '../../../fixtures/testing/ask.ts';
import { eventually } from '../../support/deadline.ts';
import { temporaryDirectory, writePrivate } from '../../support/files.ts';
import { type Rig, type RigOptions, startRig } from '../../support/rig.ts';

const ROOT = path.join(import.meta.dirname, '../../..');
const TEMPLATE = path.join(ROOT, 'fixtures/guest/templates/github-shell');
const RUNNER = path.join(ROOT, 'fixtures/guest/github-runner/run.sh');

export interface DashboardRig extends Rig {
  readonly github: GithubSimulator;
  /** Of the dashboard, without a slash at its end. */
  readonly origin: string;
  /** Queues a job at GitHub whose machine runs these steps. */
  queueGithub(name: string, steps: readonly string[], ref?: string): GithubJob;
  /** `POST` over the control socket. */
  call(target: string, body: unknown): Promise<void>;
  /** Until so many requests wait for room. */
  waits(atLeast: number): Promise<void>;
  /** Waits until the host shows that job in that state, or with that outcome. */
  shows(job: { readonly id: number }, state: string): Promise<void>;
}

export async function startDashboardRig(
  t: TestContext,
  options: RigOptions = {},
): Promise<DashboardRig> {
  const directory = await temporaryDirectory(t);
  const github = await startGithubSimulator();
  t.after(() => github.close());
  github.createRepository('lab/firmware');
  const rig = await startRig(t, {
    ram: '6G',
    ...options,
    host: { dashboard: { listen: '127.0.0.1:0' }, guest_api: 'off', ...options.host },
    sections: {
      github: {
        app_id: github.app.id,
        jwt_key_file: await writePrivate(path.join(directory, 'app.pem'), github.app.privateKey),
        webhook_secret: 'the-webhook-secret',
        base_url: github.url,
        timings: { writeGapMs: 1, collectMs: 50, retryMs: 10 },
      },
      repositories: { lab: { firmware: { machines: { build: githubMachine() } } } },
    },
  });
  github.setWebhook({ url: `unix:${rig.host.apiSocket}:/webhook`, secret: 'the-webhook-secret' });
  return Object.assign(Object.create(rig) as Rig, {
    github,
    origin: (rig.host.dashboardUrl ?? '').replace(/\/$/, ''),
    queueGithub: (name: string, steps: readonly string[], ref = 'main') =>
      github.queueJob({
        repository: 'lab/firmware',
        name,
        ref,
        steps,
        labels: ['self-hosted', 'forrest', 'build'],
      }),
    call: (target: string, body: unknown) => post(rig.host.controlSocket, target, body),
    waits: (atLeast: number) =>
      eventually(
        `${atLeast} requests to wait`,
        () => rig.status().pool.waiting.length >= atLeast,
        30_000,
      ).then(() => undefined),
    shows: (job: { readonly id: number }, state: string) =>
      eventually(
        `job ${job.id} to be ${state}`,
        () => {
          const { providers, history } = rig.status();
          const rows = [...providers.flatMap(({ status }) => status.jobs), ...history];
          const row = rows.find(({ id }) => id === String(job.id));
          return row !== undefined && stateOf(row) === state;
        },
        30_000,
      ).then(() => undefined),
  });
}

async function post(socketPath: string, path: string, body: unknown): Promise<void> {
  const { status } = await ask({ socketPath, path, method: 'POST' }, JSON.stringify(body));
  if (status >= 300) throw new Error(`${path} was answered ${status}`);
}

function githubMachine(): object {
  return {
    setup_template: { path: TEMPLATE, parameters: { GITHUB_RUNNER: RUNNER, BOOT_GATE: '' } },
    cpus: 1,
    ram: '2G',
    disk: '1G',
  };
}
