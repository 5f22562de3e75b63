/** Who gets in: by a link that works once, for so long, and out again; what signed-in people can do. */

import assert from 'node:assert/strict';
import { after, suite, test } from 'node:test';
import { eventually } from '../support/deadline.ts';
import { closeBrowser, NO_BROWSER, newPage } from './support/browser.ts';
import { startDashboardRig } from './support/dashboard-rig.ts';
import { signIn, whenLive } from './support/signed-in.ts';

after(closeBrowser);

suite('signing in', { skip: NO_BROWSER, concurrency: 2 }, () => {
  test('works with a link, once, and not before', async (t) => {
    const rig = await startDashboardRig(t);
    const link = rig.host.signInLink() ?? '';
    const stranger = await newPage(t);
    assert.equal((await stranger.goto(rig.origin))?.status(), 401);
    await stranger.getByText('forrest-host login').waitFor();
    const page = await newPage(t);
    await page.goto(link);
    await page.waitForURL(`${rig.origin}/`);
    await page.locator('#jobs-title').waitFor();
    const [cookie] = await page.context().cookies();
    assert.deepEqual([cookie?.httpOnly, cookie?.sameSite, cookie?.path], [true, 'Strict', '/']);
    assert.equal((await stranger.goto(link))?.status(), 401);
    await stranger.getByText('This link was used already').waitFor();
  });

  test('lasts until somebody signs out; then pages that are open go dead', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig);
    await whenLive(page);
    const other = await page.context().newPage();
    await other.goto(rig.origin);
    await other.locator('#live[data-state="live"]').waitFor();
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByText('forrest-host login').waitFor();
    assert.equal((await page.goto(rig.origin))?.status(), 401);
    await other.locator('#live', { hasText: 'Signed out' }).waitFor();
  });

  test('outlives a restart of the host', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig);
    const cookies = await page.context().cookies();
    await rig.host.stop('end');
    await rig.start();
    const again = await newPage(t);
    const port = new URL(rig.host.dashboardUrl ?? '').port;
    await again.context().addCookies(
      cookies.map(({ value }) => ({
        name: `forrest_session_${port}`,
        value,
        url: rig.host.dashboardUrl ?? '',
      })),
    );
    assert.equal((await again.goto(rig.host.dashboardUrl ?? ''))?.status(), 200);
  });
});

suite('an operator', { skip: NO_BROWSER, concurrency: 2 }, () => {
  test('pauses and resumes a runner, after a question in a dialog that can be left', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig);
    await whenLive(page);
    const row = page.locator('[id="runner-gitlab-build"]');
    const open = async (name: string): Promise<void> => {
      await row.getByRole('link', { name }).click();
      await page.getByRole('dialog').waitFor();
    };
    await open('Pause…');
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    await open('Pause…');
    await page.getByRole('button', { name: 'Pause the runner' }).click();
    await page.getByText('The runner build is paused.').waitFor();
    await row.getByText('paused', { exact: true }).first().waitFor();
    const paused = (): boolean =>
      rig.status().providers.some(({ status }) => status.runners.some((one) => one.paused));
    assert.equal(paused(), true);
    await open('Resume…');
    await page.getByRole('button', { name: 'Resume the runner' }).click();
    await page.getByText('The runner build is resumed.').waitFor();
    assert.equal(paused(), false);
  });

  test('pauses the whole host, and sees it so until it is resumed', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig);
    await page.getByRole('link', { name: 'Pause the host…' }).click();
    await page.getByRole('button', { name: 'Pause the host' }).click();
    await page.locator('#attention').getByText('The host is paused:').waitFor();
    const job = rig.queueGithub('compile', ['true']);
    await page.locator('#waiting').getByText('the host is paused').first().waitFor();
    await page.locator('#attention').getByRole('link', { name: 'Resume…' }).click();
    await page.getByRole('button', { name: 'Resume the host' }).click();
    await rig.shows(job, 'success');
  });

  test('keeps a machine for debugging, stops it with a reason, and ends it for good', async (t) => {
    const rig = await startDashboardRig(t);
    const { job, guest } = await rig.running({ name: 'hangs' });
    const page = await signIn(t, rig);
    await page.goto(`${rig.origin}/machines/${guest.runnerName}`);
    await whenLive(page);
    await page.getByRole('link', { name: 'Keep for debugging…' }).click();
    await page.locator('select[name=minutes]').selectOption('60');
    await page.getByRole('button', { name: 'Keep it' }).click();
    await page.getByText('for 60 min after its end', { exact: true }).waitFor();
    await page.getByRole('link', { name: 'Stop…' }).click();
    await page.getByLabel('Reason').fill('it hangs in a test');
    await page.getByRole('button', { name: 'Stop the machine' }).click();
    await page.getByText('kept for debugging', { exact: true }).waitFor();
    const row = await rig.ended(job);
    assert.match(row.reason ?? '', /it hangs in a test/);
    assert.equal(rig.status().pool.usedBytes, 1024 ** 3, 'its memory still counts');
    assert.notEqual((await guest.keepAlive()).status, 200, 'its token is dead');
    await page.getByRole('link', { name: 'End it now…' }).click();
    await page.getByRole('button', { name: 'Stop the machine' }).click();
    await eventually('its memory to be free', () => rig.status().machines.length === 0);
  });

  test('reads the configuration again, and is told what is wrong with it', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig);
    const reload = async (): Promise<void> => {
      await page.getByRole('link', { name: 'Reload the configuration…' }).click();
      await page.getByRole('button', { name: 'Reload', exact: true }).click();
    };
    await reload();
    await page.getByText('was read again and is in force').waitFor();
    const { writeFile } = await import('node:fs/promises');
    await writeFile(`${rig.directory}/config.yaml`, '{}');
    await reload();
    await page.locator('#attention pre', { hasText: 'host: is missing' }).waitFor();
  });

  test('drains, without scripts too', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig, { javaScriptEnabled: false });
    await page.getByRole('link', { name: 'Drain…' }).click();
    await page.getByText('This cannot be taken back').waitFor();
    await page.getByRole('button', { name: 'Drain the host' }).click();
    await page.locator('#attention').getByText('The host drains:').waitFor();
    assert.equal(rig.status().host.draining, true);
  });

  test('is told what was refused', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig, { javaScriptEnabled: false });
    await page.goto(`${rig.origin}/act/stop-machine?machine=forrest-none`);
    await page.getByRole('button', { name: 'Stop the machine' }).click();
    await page.getByText('Not done: no machine of the name forrest-none runs').waitFor();
  });
});
