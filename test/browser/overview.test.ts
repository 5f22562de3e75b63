/** The first page, with jobs of both forges: what it shows, and that it stays true by itself. */

import assert from 'node:assert/strict';
import { after, suite, test } from 'node:test';
import { eventually } from '../support/deadline.ts';
import { freePort } from '../support/free-port.ts';
import { closeBrowser, NO_BROWSER } from './support/browser.ts';
import { startDashboardRig } from './support/dashboard-rig.ts';
import { signIn, whenLive } from './support/signed-in.ts';

after(closeBrowser);

suite('the first page', { skip: NO_BROWSER, concurrency: 2 }, () => {
  test('shows jobs of both forges as they come, run and end, without being loaded again', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig);
    await whenLive(page);
    await page.evaluate(() => Object.assign(globalThis, { sameDocument: true }));
    const github = rig.queueGithub('compile', ['echo hello']);
    const { job, guest } = await rig.running({ name: 'unit-tests', ref: 'feature/x' });
    const row = page.locator(`[id="job-gitlab-${job.id}"]`);
    await row.getByText('running', { exact: true }).waitFor();
    assert.match(
      await row.textContent().then(String),
      /unit-tests[\s\S]*lab\/demo[\s\S]*feature\/x[\s\S]*build/,
    );
    assert.equal(
      await row.locator('a.out').getAttribute('href'),
      rig.row(job)?.url,
      'the link to the job',
    );
    const ended = page.locator(`#ended-jobs > [id="job-github-${github.id}"]`);
    await ended.getByText('success').waitFor();
    await guest.finish('failed', { failure_reason: 'script_failure', exit_code: 1 });
    await guest.powerOff();
    await page.locator(`#ended-jobs > [id="job-gitlab-${job.id}"]`).getByText('failed').waitFor();
    assert.equal(await page.locator(`#live-jobs > [id="job-gitlab-${job.id}"]`).count(), 0);
    assert.equal(await page.evaluate(() => Reflect.get(globalThis, 'sameDocument')), true);
    assert.deepEqual(page.faults, []);
  });

  test('shows who holds memory, each machine, and why others wait', async (t) => {
    const rig = await startDashboardRig(t, { ram: '2G' });
    const page = await signIn(t, rig);
    await whenLive(page);
    const { guest } = await rig.running({ name: 'first' });
    rig.queueGithub('large', ['true']);
    await page.locator('#machines').getByText('first').waitFor();
    await page
      .locator('#memory')
      .getByText(/1 GiB of 2 GiB in use|2 GiB of 2 GiB in use/)
      .waitFor();
    const waiting = page.locator('#waiting li', { hasText: 'lab/firmware/build' });
    await waiting.getByText(/needs 2 GiB, /).waitFor();
    assert.match(await page.locator('.memory').getAttribute('aria-label').then(String), /of 2 GiB/);
    await guest.finish('success');
    await guest.powerOff();
    await waiting.waitFor({ state: 'detached' });
    assert.deepEqual(page.faults, []);
  });

  test('can be filtered, also by a person without scripts', async (t) => {
    const rig = await startDashboardRig(t);
    const github = rig.queueGithub('package', ['exit 3']);
    const { job } = await rig.running({ name: 'unit-tests' });
    await rig.shows(github, 'failed');
    const page = await signIn(t, rig, { javaScriptEnabled: false });
    const names = (): Promise<string[]> => page.locator('table.jobs td b').allTextContents();
    const filter = async (fill: () => Promise<unknown>): Promise<string[]> => {
      await page.goto(rig.origin);
      await fill();
      await page.getByRole('button', { name: 'Filter' }).click();
      await page.waitForURL('**/?*');
      return await names();
    };
    await page.goto(rig.origin);
    assert.deepEqual((await names()).sort(), ['package', 'unit-tests']);
    assert.deepEqual(await filter(() => page.getByLabel('Forge').selectOption('github')), [
      'package',
    ]);
    assert.deepEqual(await filter(() => page.getByLabel('State').selectOption('running')), [
      'unit-tests',
    ]);
    assert.deepEqual(await filter(() => page.getByLabel('Text').fill(String(job.id))), [
      'unit-tests',
    ]);
    assert.deepEqual(await filter(() => page.getByLabel('Text').fill('no such')), []);
  });

  test('keeps a filter while it is live: what does not fit does not come', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig);
    await page.goto(`${rig.origin}/?forge=gitlab`);
    await whenLive(page);
    const github = rig.queueGithub('compile', ['true']);
    const { job } = await rig.running({ name: 'unit-tests' });
    await rig.shows(github, 'success');
    await page.locator(`[id="job-gitlab-${job.id}"]`).waitFor();
    assert.equal(await page.locator(`[id="job-github-${github.id}"]`).count(), 0);
  });

  test('says what is wrong and what to do', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig);
    await whenLive(page);
    rig.gitlab.inject({ match: { route: 'jobs-request' }, do: { status: 403 } });
    const concern = page.locator('#attention li.bad', { hasText: 'gitlab takes no jobs' });
    await concern.waitFor();
    const runner = page.locator('[id="runner-gitlab-build"]');
    await runner.getByText('unhealthy').waitFor();
    assert.match(await runner.textContent().then(String), /token refused since \d\d:\d\d UTC/);
  });

  test('says that it is not live while the host is gone, and catches up when that is back', async (t) => {
    const listen = `127.0.0.1:${await freePort()}`;
    const rig = await startDashboardRig(t, { host: { dashboard: { listen } } });
    const page = await signIn(t, rig);
    await whenLive(page);
    await rig.host.stop('leave');
    await page.locator('#live[data-state="lost"]').waitFor();
    await rig.start();
    const { job } = await rig.running({ name: 'later' });
    await page.locator(`[id="job-gitlab-${job.id}"]`).waitFor();
    await whenLive(page);
  });

  test('keeps the keyboard where it is while rows change under it', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig);
    await whenLive(page);
    const button = page.locator('[id="runner-gitlab-build"] a.button');
    await button.focus();
    const before = await page.locator('[id="runner-gitlab-build"]').innerHTML();
    await eventually(
      'the row to change',
      async () => (await page.locator('[id="runner-gitlab-build"]').innerHTML()) !== before,
    );
    assert.equal(await button.evaluate((one) => one.matches(':focus')), true);
  });
});
