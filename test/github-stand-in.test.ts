/** The stand-in for GitHub's runner, with whatever there is to send with. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import {
  type GithubSimulator,
  type SimJob,
  startGithubSimulator,
} from '../fixtures/github/index.ts';
import { createProcessDriver } from '../fixtures/host/src/drivers/index.ts';
import { temporaryDirectory } from './support/files.ts';
import { runTemplate } from './support/github-template.ts';

const RUN = path.join(import.meta.dirname, '../fixtures/guest/github-runner/run.sh');
const LABELS = ['self-hosted', 'forrest', 'small'];
/** What every client needs besides itself. */
const TOOLS = [
  'sh',
  'base64',
  'cat',
  'chmod',
  'cp',
  'dirname',
  'grep',
  'head',
  'mkdir',
  'mktemp',
  'rm',
  'sed',
  'sleep',
  'tail',
  'wc',
];

interface Ended {
  readonly code: number | string | null | undefined;
  readonly output: string;
}

interface Rig {
  readonly github: GithubSimulator;
  readonly directory: string;
  queue(steps: readonly string[]): SimJob;
  /** Runs the stand-in with just these programs in its PATH. */
  run(programs: Readonly<Record<string, string>>, shell?: readonly string[]): Promise<Ended>;
}

async function startRig(t: TestContext): Promise<Rig> {
  const directory = await temporaryDirectory(t);
  const github = await startGithubSimulator();
  t.after(() => github.close());
  github.createRepository('lab/demo');
  const runner = github.addRunner('lab/demo', 'runner', LABELS);
  const config = JSON.stringify({ url: `${github.url}/_guest`, credential: runner.credential });
  const file = path.join(directory, 'jit-config');
  await writeFile(file, Buffer.from(config).toString('base64'), { mode: 0o600 });
  return {
    github,
    directory,
    queue: (steps) =>
      github.queueJob({ repository: 'lab/demo', name: 'job', labels: LABELS, steps }),
    async run(programs, shell = ['/bin/sh']) {
      const bin = path.join(directory, 'bin');
      await mkdir(bin);
      for (const [name, target] of Object.entries(programs)) {
        await symlink(target, path.join(bin, name));
      }
      const [program = '', ...before] = shell;
      return await new Promise((resolve) => {
        execFile(
          program,
          [...before, RUN, file, path.join(directory, 'work')],
          { env: { PATH: bin, TMPDIR: directory, HOME: directory } },
          (error, stdout, stderr) => resolve({ code: error?.code ?? 0, output: stdout + stderr }),
        );
      });
    },
  };
}

function find(name: string): string | undefined {
  return ['/bin', '/usr/bin'].map((dir) => path.join(dir, name)).find((file) => existsSync(file));
}

function tools(...more: string[]): Record<string, string> {
  return Object.fromEntries([...TOOLS, ...more].map((name) => [name, find(name) ?? name]));
}

const CLIENTS: readonly [name: string, programs: Record<string, string> | undefined][] = [
  ['busybox', find('busybox') === undefined ? undefined : tools('busybox')],
  ['curl', find('curl') === undefined ? undefined : tools('curl')],
  ['wget', find('wget') === undefined ? undefined : tools('wget')],
  ['node', { ...tools(), node: process.execPath }],
];

describe('the stand-in runner', () => {
  for (const [name, programs] of CLIENTS) {
    it(`runs a job with ${name}`, { skip: programs === undefined && `no ${name}` }, async (t) => {
      const rig = await startRig(t);
      const job = rig.queue(['echo one; echo zwölf', 'echo two']);
      const { code, output } = await rig.run(programs ?? {});
      assert.equal(code, 0, output);
      assert.equal(job.conclusion, 'success', output);
      assert.equal(job.log.toString(), 'one\nzwölf\ntwo\n');
      assert.deepEqual(rig.github.runners(), []);
      assert.deepEqual((await readdir(rig.directory)).toSorted(), ['bin', 'jit-config', 'work']);
    });
  }

  it('runs with nothing but busybox', { skip: !find('busybox') && 'no busybox' }, async (t) => {
    const rig = await startRig(t);
    const job = rig.queue(['echo hello', 'exit 4']);
    const busybox = find('busybox') ?? '';
    const programs = Object.fromEntries([...TOOLS, 'busybox'].map((name) => [name, busybox]));
    const { code, output } = await rig.run(programs, [busybox, 'sh']);
    assert.equal(code, 0, output);
    assert.equal(job.conclusion, 'failure');
    assert.equal(job.log.toString(), 'hello\nError: Process completed with exit code 4.\n');
  });

  it('sends what is logged while a step still runs, and ends it where it is canceled', async (t) => {
    const rig = await startRig(t);
    const job = rig.queue(['echo begun; sleep 30', 'echo never']);
    const running = rig.run({ ...tools(), node: process.execPath });
    await rig.github.waitFor('the log', () => job.log.length > 0);
    rig.github.cancel(job);
    assert.equal((await running).code, 0);
    assert.equal(job.conclusion, 'cancelled');
    assert.equal(job.log.toString(), 'begun\n');
  });

  it('runs its job by the template, in the process driver', async (t) => {
    const { job, console, jitConfig } = await runTemplate(t, {
      driver: createProcessDriver(),
      runner: RUN,
      guestHost: '127.0.0.1',
      kernel: null,
      steps: [
        'cat "$FORREST_RUN_TOKEN_FILE"; echo; cat /proc/[0-9]*/cmdline | tr "\\0" "\\n" || true',
      ],
      timeoutMs: 20_000,
    });
    assert.equal(job.conclusion, 'success', console);
    assert.match(job.log.toString(), /^a-run-token\n/);
    // On no command line, not even of the runner itself.
    assert.ok(!`${console}${job.log}`.includes(jitConfig));
    assert.match(console, /job \d+: success/);
  });

  it('says so where its runner was deleted, or its configuration is none', async (t) => {
    const rig = await startRig(t);
    for (const { id } of rig.github.runners()) {
      rig.github.deleteRunner(id);
    }
    const { code, output } = await rig.run({ ...tools(), node: process.execPath });
    assert.equal(code, 3);
    assert.match(output, /does not know this runner any more/);
    const bad = path.join(rig.directory, 'bad');
    await writeFile(bad, 'not a configuration');
    await chmod(bad, 0o600);
    const failed = await new Promise<Ended>((resolve) => {
      execFile(RUN, [bad, rig.directory], (error, stdout) =>
        resolve({ code: error?.code, output: stdout }),
      );
    });
    assert.equal(failed.code, 2);
  });
});
