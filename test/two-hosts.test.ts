/** Two hosts on one runner token, as processes of their own: nothing shared but GitLab. */

import assert from 'node:assert/strict';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import {
  type GitlabSimulator,
  type SimJob,
  startGitlabSimulator,
} from '../fixtures/gitlab/index.ts';
import { findGuestRunner } from '../fixtures/main-job/runner.ts';
import { ChaosHost } from './chaos/host.ts';
import { NOTE } from './chaos/log-check.ts';

const WAIT_MS = 40_000;

/** A GitLab with one runner; `host` makes another host that uses it. */
async function startGitlab(t: TestContext) {
  const directory = await mkdtemp(path.join(tmpdir(), 'two-hosts-'));
  const gitlab = await startGitlabSimulator({ relativeUrl: '/gitlab' });
  gitlab.createProject({ path: 'lab/demo', files: { 'README.md': 'demo\n' } });
  const { token: runnerToken } = gitlab.createRunner({ runUntagged: true });
  const { command } = await findGuestRunner(process.env['GITLAB_RUNNER']);
  const hosts: ChaosHost[] = [];
  t.after(async () => {
    for (const host of hosts) await host.killEverything();
    await gitlab.close();
    await rm(directory, { recursive: true, force: true });
  });
  const host = async (name: string): Promise<ChaosHost> => {
    const made = await ChaosHost.create({
      ...{ directory, name, gitlabUrl: gitlab.url, runnerToken, webhookSecret: 'none' },
      guests: { driver: 'process', runner: command },
    });
    hosts.push(made);
    return made;
  };
  return { directory, gitlab, host };
}

const ended = (gitlab: GitlabSimulator, what: string, jobs: readonly SimJob[]): Promise<void> =>
  gitlab.waitFor(what, () => jobs.every((job) => job.isFinal), WAIT_MS);

describe('two hosts on one runner token', () => {
  it('one is killed for good: the other serves on, and the dead one’s jobs are closed wherever its state is started', async (t) => {
    const { directory, gitlab, host } = await startGitlab(t);
    const [a, b] = [await host('a'), await host('b')];
    await Promise.all([a.start(), b.start()]);
    assert.notEqual(a.systemId, b.systemId);

    // One more than a host takes: both have some.
    const gate = path.join(directory, 'gate');
    const script = ['echo it runs', `while [ ! -e ${gate} ]; do sleep 0.1; done`];
    const queue = (name: string): SimJob => gitlab.queueJob({ project: 'lab/demo', name, script });
    const jobs = ['one', 'two', 'three', 'four'].map(queue);
    const stateOf = (job: SimJob): string | undefined =>
      [a, b].flatMap((one) => one.journal.live.get(job.id)?.state ?? [])[0];
    const allRun = (): boolean => jobs.every((job) => stateOf(job) === 'running');
    await gitlab.waitFor('all jobs to run', allRun, WAIT_MS);
    const lost = jobs.filter((job) => a.journal.live.has(job.id));
    const others = jobs.filter((job) => b.journal.live.has(job.id));
    assert.ok(lost.length > 0 && others.length > 0);

    await a.killEverything();
    await writeFile(gate, '');
    const late = queue('late');
    await ended(gitlab, 'the other host’s jobs to end', [...others, late]);
    assert.deepEqual(new Set([...others, late].map((job) => job.status)), new Set(['success']));
    assert.equal(late.manager?.systemId, b.systemId);
    // Nobody else can end them.
    assert.ok(lost.every((job) => job.status === 'running'));

    const c = await host('c');
    await cp(path.join(a.baseDir, 'state'), c.stateDir, { recursive: true });
    await c.start();
    await ended(gitlab, 'the dead host’s jobs to be closed', lost);
    for (const job of lost) {
      assert.equal(job.status, 'failed');
      assert.equal(job.failureReason, 'runner_system_failure');
      assert.match(job.log.toString(), /machine/, 'the log says why');
      assert.equal(job.log.toString().split(NOTE).length, 2, 'our note is there, once');
      assert.equal(job.ended, 1);
    }
    assert.equal(c.systemId, a.systemId, 'it is the same host to GitLab');
    await gitlab.waitFor('the journal to be empty', () => c.journal.live.size === 0, WAIT_MS);
  });
});
