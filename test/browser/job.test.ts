/** A job's page and a machine's: stages, console, what was tried. */

import assert from 'node:assert/strict';
import { after, suite, test } from 'node:test';
import { closeBrowser, NO_BROWSER } from './support/browser.ts';
import { startDashboardRig } from './support/dashboard-rig.ts';
import { signIn, whenLive } from './support/signed-in.ts';

after(closeBrowser);

suite('a job’s page', { skip: NO_BROWSER, concurrency: 2 }, () => {
  test('shows its stages as bars, its log and its machine’s console while it lives', async (t) => {
    const script = 'echo booted; while [ ! -e go ]; do sleep 0.02; done; echo went on';
    const rig = await startDashboardRig(t, { script });
    const { job, guest } = await rig.running({ name: 'unit-tests' });
    const page = await signIn(t, rig);
    await page.getByRole('link', { name: 'unit-tests', exact: true }).first().click();
    await page.locator('h1', { hasText: 'unit-tests' }).waitFor();
    await whenLive(page);
    const console = page.locator('pre.console');
    await console.getByText('booted').waitFor();
    assert.deepEqual(await page.locator('.timeline tbody th').allTextContents(), [
      'claimed, machine is made',
      'machine boots, runner starts',
      'offered to the runner',
      'running',
    ]);
    await guest.log('x'.repeat(2048));
    await page.locator('#job-facts').getByText('2 KiB').waitFor();
    const { writeFile } = await import('node:fs/promises');
    await writeFile(`${guest.runDir}/go`, '');
    await console.getByText('went on').waitFor();
    await guest.finish('success');
    await guest.powerOff();
    await page.locator('#job-state').getByText('success').waitFor();
    await page.locator('.timeline').getByText('machine gone').waitFor();
    assert.equal(rig.row(job)?.outcome, 'success');
    assert.deepEqual(page.faults, []);
  });

  test('shows what was tried: a machine that died before its runner spoke, and the next one', async (t) => {
    const rig = await startDashboardRig(t);
    const job = rig.queue({ name: 'unlucky' });
    const first = await rig.guest(job);
    const page = await signIn(t, rig);
    await page.goto(`${rig.origin}/jobs/gitlab/${job.id}`);
    await whenLive(page);
    first.kill();
    const second = await rig.guest(job, 2);
    const tried = page.locator('#job-tried');
    await tried.getByText(/machine 1, .*: crashed, it ended with signal SIGKILL/).waitFor();
    await tried.getByText(`now machine 2: ${second.runnerName}`).waitFor();
    second.kill();
    await page.locator('#job-state').getByText('system failure').waitFor();
    await tried.getByText(/in the end: /).waitFor();
    await tried.getByText(/machine 2, .*: crashed/).waitFor();
  });

  test('of GitHub’s is the same, and leads to its ended machine’s console', async (t) => {
    const rig = await startDashboardRig(t);
    const job = rig.queueGithub('compile', ['echo from the step']);
    await rig.shows(job, 'success');
    const page = await signIn(t, rig);
    await page.goto(`${rig.origin}/jobs/github/${job.id}`);
    await page.locator('#job-facts').getByText('lab/firmware', { exact: true }).waitFor();
    await page.locator('#job-facts a.name').click();
    await page.locator('#machine-facts').getByText('ended').waitFor();
    assert.equal(await page.locator('pre.console').count(), 1);
  });

  test('that nobody knows is said to be none', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig);
    for (const path of ['/jobs/gitlab/none', '/machines/none', '/act/none', '/jobs/%00/%ff']) {
      const answer = await page.goto(`${rig.origin}${path}`);
      assert.equal(answer?.status(), 404, path);
    }
  });
});
