/**
 * How it looks, and for whom: axe finds nothing serious, everything works by keyboard and on a phone. Screenshots of
 * what was looked at go to `.cache/screenshots`; `UPDATE_SCREENSHOT=1` also renews the one of the README.
 */

import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, suite, test } from 'node:test';
import axe from 'axe-core';
import type { Page } from 'playwright-core';
import { closeBrowser, NO_BROWSER } from './support/browser.ts';
import { type DashboardRig, startDashboardRig } from './support/dashboard-rig.ts';
import { signIn, whenLive } from './support/signed-in.ts';

const ROOT = path.join(import.meta.dirname, '../..');
const FOLDER = path.join(ROOT, '.cache/screenshots');

const DESK = { width: 1280, height: 900 };
const PHONE = { width: 375, height: 812 };

after(closeBrowser);

suite('the dashboard', { skip: NO_BROWSER }, () => {
  test('has nothing serious for axe and fits, light, dark and on a phone', async (t) => {
    const rig = await busyHost(t);
    const page = await signIn(t, rig, { viewport: DESK });
    await mkdir(FOLDER, { recursive: true });
    const job = rig.status().history.find(({ outcome }) => outcome === 'system_failure');
    const machine = rig.status().machines[0]?.runnerName ?? '';
    for (const [name, target] of [
      ['overview', '/'],
      ['job', `/jobs/gitlab/${job?.id}`],
      ['machine', `/machines/${machine}`],
      ['question', `/act/stop-machine?machine=${machine}`],
    ] as const) {
      await page.goto(rig.origin + target);
      if (name !== 'question') await whenLive(page);
      for (const look of ['light', 'dark', 'phone'] as const) {
        await page.emulateMedia({ colorScheme: look === 'dark' ? 'dark' : 'light' });
        await page.setViewportSize(look === 'phone' ? PHONE : DESK);
        await assertAccessible(page, `${name}, ${look}`);
        assert.equal(await overflow(page), 0, `${name}, ${look}: nothing is wider than the page`);
        await writeFile(
          path.join(FOLDER, `${name}-${look}.png`),
          await page.screenshot({ fullPage: true }),
        );
      }
      await page.setViewportSize(DESK);
    }
    t.diagnostic(`screenshots: ${FOLDER}`);
    assert.deepEqual(page.faults, []);
    if (process.env['UPDATE_SCREENSHOT'] === '1') {
      await page.emulateMedia({ colorScheme: 'light' });
      await page.goto(rig.origin);
      await whenLive(page);
      await page.screenshot({ path: path.join(ROOT, 'docs/dashboard.png') });
    }
  });

  test('can be used by keyboard alone', async (t) => {
    const rig = await startDashboardRig(t);
    const page = await signIn(t, rig);
    await whenLive(page);
    const press = async (name: string): Promise<void> => {
      for (let presses = 0; presses < 60; presses += 1) {
        await page.keyboard.press('Tab');
        const focused = page.locator(':focus');
        if ((await focused.count()) === 1 && (await focused.textContent())?.trim() === name) {
          await page.keyboard.press('Enter');
          return;
        }
      }
      throw new Error(`the keyboard does not get to ${name}`);
    };
    await press('Pause the host…');
    await page.getByRole('dialog').waitFor();
    await press('Cancel');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    await press('Drain…');
    await press('Drain the host');
    await page.locator('#attention').getByText('The host drains:').waitFor();
  });
});

/** Jobs of both forges in all their states, and some that wait. */
async function busyHost(t: Parameters<typeof startDashboardRig>[0]): Promise<DashboardRig> {
  const script =
    'for line in "[    0.0] booting" "[    1.2] network is up" "gitlab-runner 18.5 starts"; do echo "$line"; done';
  const rig = await startDashboardRig(t, {
    ram: '8G',
    script,
    runner: { limit: 5 },
    moreRunners: [{ name: 'nightly', limit: 2 }],
  });
  const over = ['lint', 'sbom'].map((name) => rig.queueGithub(name, ['true']));
  const failing = rig.queueGithub('sign', ['exit 3'], 'release/2.1');
  for (const job of over) await rig.shows(job, 'success');
  await rig.shows(failing, 'failed');
  const docs = await rig.running({ name: 'docs', ref: 'main' });
  await docs.guest.finish('success');
  await docs.guest.powerOff();
  await rig.ended(docs.job);
  const broken = await rig.running({ name: 'integration', ref: 'fix/flaky-network' });
  broken.guest.kill();
  await rig.ended(broken.job);
  const unit = await rig.running({ name: 'unit-tests', ref: 'feature/fast-path' });
  await unit.guest.log('ok\n'.repeat(1000));
  const build = await rig.running({ name: 'build', ref: 'main' });
  await rig.call(`/machines/${build.guest.runnerName}/keep`, { minutes: 60 });
  rig.queueGithub('compile', ['sleep 60'], 'main');
  const compile = rig.queueGithub('package', ['sleep 60'], 'main');
  await rig.shows(compile, 'running');
  await rig.running({ name: 'e2e', ref: 'feature/fast-path' });
  for (const name of ['bench', 'deploy-docs']) rig.queueGithub(name, ['true'], 'main');
  await rig.waits(2);
  return rig;
}

async function assertAccessible(page: Page, where: string): Promise<void> {
  await page.evaluate(axe.source);
  const { violations } = (await page.evaluate('axe.run(document)')) as axe.AxeResults;
  const serious = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  assert.deepEqual(
    serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join('; ')}`),
    [],
    where,
  );
}

/** Pixels by which something sticks out at the side. */
function overflow(page: Page): Promise<number> {
  return page.evaluate(
    'document.documentElement.scrollWidth - document.documentElement.clientWidth',
  );
}
