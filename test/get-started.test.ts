/** `docs/get-started.md`, followed literally against the GitLab simulator: its commands are run as they stand there. */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { it, type TestContext } from 'node:test';
import { parse } from 'yaml';
import { startGitlabSimulator } from '../fixtures/gitlab/index.ts';
import { findGuestRunner } from '../fixtures/main-job/runner.ts';
import { recordSecret } from '../fixtures/testing/record.ts';
import { eventually } from './support/deadline.ts';
import { temporaryDirectory } from './support/files.ts';

const ROOT = path.join(import.meta.dirname, '..');
const HOST = `${process.execPath} --conditions=forrest-gitlab-source ${ROOT}/fixtures/host/src/cli.ts`;
const WAIT_MS = 50_000;

/**
 * What a newcomer does that this test does not, by what is in the command: it would change this checkout or this
 * system, or takes minutes. `test/vm` and `npm run bench -- boot` make and boot that image.
 */
const NOT_RUN = ['npm ci', 'npm run guest:debian'];

/** What differs from the page, in all of its commands; each must be there. */
const IN_THE_PLACE_OF: readonly (readonly [page: string, test: string])[] = [
  ['driver: qemu', 'driver: process'],
  ['listen: 127.0.0.1:8090', 'listen: 127.0.0.1:0'],
  ['listen: 127.0.0.1:8091', 'listen: 127.0.0.1:0'],
];

it('“Get started” ends with a finished job', { timeout: 150_000 }, async (t) => {
  const home = await temporaryDirectory(t);
  const gitlab = await startGitlabSimulator({ relativeUrl: '/gitlab' });
  t.after(() => gitlab.close());
  gitlab.createProject({ path: 'lab/demo', files: { 'README.md': 'demo\n' } });
  const { token } = gitlab.createRunner({ tags: ['forrest'], runUntagged: false });
  recordSecret(token);

  let page = await readFile(path.join(ROOT, 'docs/get-started.md'), 'utf8');
  for (const [before, after] of IN_THE_PLACE_OF) {
    assert.equal(page.split(before).length, 2, `the page has ${before} once`);
    page = page.replace(before, after);
  }
  const blocks = [...page.matchAll(/^```(sh|yaml)\n([\s\S]*?)^```$/gm)].map(
    ([, language = '', text = '']) => ({ language, text }),
  );
  const [exports, ...commands] = blocks.flatMap(({ language, text }) =>
    language === 'sh' ? [text] : [],
  );
  // The page's first block, with this test's two addresses.
  assert.match(exports ?? '', /^export GITLAB_URL=\S+\nexport FORREST=\S+\n$/);
  const env = {
    ...process.env,
    GITLAB_URL: gitlab.url,
    FORREST: path.join(home, 'forrest'),
    HOME: home,
    PATH: `${await installPrograms(home)}:${process.env['PATH']}`,
  };
  const skipped = NOT_RUN.map((part) => commands.find((command) => command.includes(part)));
  assert.ok(!skipped.includes(undefined), 'the page has what is not run');
  const [store = '', write = '', check = '', run = '', show = '', ...more] = commands.filter(
    (command) => !skipped.includes(command),
  );
  assert.deepEqual(more, []);

  await shell(t, store, env, `${token}\n`);
  // As the page's image would be found.
  await mkdir(path.join(env.FORREST, 'image'));
  await writeFile(path.join(env.FORREST, 'image/disk.img'), '');
  await shell(t, write, env);
  assert.match(await shell(t, check, env), /gitlab\.runners: build/);

  const host = start(t, run, env);
  await eventually('the host to be ready', () => /ready/i.test(host.output()), WAIT_MS);

  const ci = blocks.find(({ language }) => language === 'yaml');
  const [[name, definition] = ['', undefined]] = Object.entries(
    parse(ci?.text ?? '') as Record<string, { tags: string[]; script: string[] }>,
  );
  assert.ok(definition !== undefined);
  const job = gitlab.queueJob({ project: 'lab/demo', name, ...definition });
  await gitlab.waitFor('the first job to end', () => job.isFinal, WAIT_MS);
  assert.equal(job.status, 'success', job.log.toString());
  assert.match(job.log.toString(), /hello from \S+/);

  // The history has it once its machine is gone.
  await eventually(
    'the commands to show the job',
    async () => /hello.*success/.test(await shell(t, show, env)),
    WAIT_MS,
  );
  // Ctrl-C.
  process.kill(-(host.child.pid ?? Number.NaN), 'SIGINT');
  await eventually('the host to end', () => hasEnded(host.child), WAIT_MS);
});

/** `forrest-host` as the page installs it, and the runner as the image has it. Yields their directory. */
async function installPrograms(home: string): Promise<string> {
  const runner = await findGuestRunner(process.env['GITLAB_RUNNER']);
  const programs = { 'forrest-host': HOST, 'gitlab-runner': runner.command };
  const directory = path.join(home, 'bin');
  await mkdir(directory);
  for (const [name, command] of Object.entries(programs)) {
    await writeFile(path.join(directory, name), `#!/bin/sh\nexec ${command} "$@"\n`, {
      mode: 0o755,
    });
  }
  return directory;
}

/** Runs a block to its end; rejects where it fails. Yields what it printed. */
async function shell(
  t: TestContext,
  script: string,
  env: NodeJS.ProcessEnv,
  input = '',
): Promise<string> {
  const { child, output } = start(t, script, env, input);
  await eventually(`to end: ${script}`, () => hasEnded(child), WAIT_MS);
  assert.equal(child.exitCode, 0, `${script}\n${output()}`);
  return output();
}

function start(
  t: TestContext,
  script: string,
  env: NodeJS.ProcessEnv,
  input = '',
): { child: ChildProcess; output(): string } {
  const child = spawn('bash', ['-euc', script], { cwd: ROOT, env, detached: true });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  child.stdin.end(input);
  t.after(() => {
    if (!hasEnded(child)) process.kill(-(child.pid ?? Number.NaN), 'SIGKILL');
  });
  return { child, output: () => output };
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}
