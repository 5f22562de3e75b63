/** A page of the dashboard, signed in by a link. */

import type { TestContext } from 'node:test';
import type { BrowserContextOptions } from 'playwright-core';
import { newPage, type WatchedPage } from './browser.ts';
import type { DashboardRig } from './dashboard-rig.ts';

export async function signIn(
  t: Pick<TestContext, 'after'>,
  rig: Pick<DashboardRig, 'host' | 'origin'>,
  options: BrowserContextOptions = {},
): Promise<WatchedPage> {
  const page = await newPage(t, options);
  await page.goto(rig.host.signInLink() ?? '');
  await page.waitForURL(`${rig.origin}/`);
  return page;
}

/** Until what changes by itself does so: else a test could see a page that was just loaded at the right time. */
export async function whenLive(page: WatchedPage): Promise<void> {
  await page.locator('#live[data-state="live"]').waitFor();
}
