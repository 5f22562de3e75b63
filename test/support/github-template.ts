/** One GitHub job by the template `github-shell`, in a machine of a driver. */

import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { TestContext } from 'node:test';
import { type SimJob, startGithubSimulator } from '../../fixtures/github/index.ts';
import type { MachineConfig } from '../../fixtures/host/src/config/index.ts';
import { placeholderType } from '../../fixtures/host/src/config/machine-types.ts';
import type { Driver, StartSpec } from '../../fixtures/host/src/drivers/index.ts';
import { within } from './deadline.ts';
import { temporaryDirectory } from './files.ts';

const TEMPLATE = path.join(import.meta.dirname, '../../fixtures/guest/templates/github-shell');
const LABELS = ['self-hosted', 'forrest', 'small'];

export interface TemplateRun {
  readonly driver: Driver;
  /** The stand-in as the guest finds it. */
  readonly runner: string;
  /** This machine as the guest sees it. */
  readonly guestHost: string;
  readonly kernel: MachineConfig['kernel'];
  readonly steps: readonly string[];
  readonly timeoutMs: number;
}

export interface TemplateResult {
  readonly job: SimJob;
  readonly console: string;
  /** The secret that no output may hold. */
  readonly jitConfig: string;
}

export async function runTemplate(t: TestContext, run: TemplateRun): Promise<TemplateResult> {
  const runDir = await temporaryDirectory(t);
  const github = await startGithubSimulator({ guestHost: run.guestHost });
  t.after(() => github.close());
  github.createRepository('lab/demo');
  const { credential } = github.addRunner('lab/demo', 'forrest-small-x', LABELS);
  const url = `http://${run.guestHost}:${new URL(github.url).port}/_guest`;
  const jitConfig = Buffer.from(JSON.stringify({ url, credential })).toString('base64');
  const { steps } = run;
  const job = github.queueJob({ repository: 'lab/demo', name: 'job', labels: LABELS, steps });
  const spec: StartSpec = {
    runnerName: 'forrest-small-x',
    runDir,
    machine: {
      ...placeholderType('lab/demo/small'),
      ramBytes: 1024 ** 3,
      hostAddress: run.guestHost,
      diskBytes: 1024 ** 3,
      kernel: run.kernel,
      template: { path: TEMPLATE, parameters: { GITHUB_RUNNER: run.runner, BOOT_GATE: '' } },
    },
    substitutions: { JITCONFIG: jitConfig, RUN_TOKEN: 'a-run-token' },
    spawned: async () => undefined,
  };
  const machine = await run.driver.start(spec, AbortSignal.timeout(run.timeoutMs));
  t.after(() => machine.kill());
  await within('the machine to end', machine.exited, run.timeoutMs);
  const console = await readFile(path.join(runDir, run.driver.consoleFile), 'utf8');
  return { job, console, jitConfig };
}
