/** Headless Chromium, one for a test file; each test has a profile of its own. */

import { existsSync } from 'node:fs';
import type { TestContext } from 'node:test';
import {
  type Browser,
  type BrowserContext,
  type BrowserContextOptions,
  chromium,
  type Page,
} from 'playwright-core';

/** Debian's. */
const CHROMIUM = process.env['CHROMIUM'] ?? '/usr/bin/chromium';

/** On a busy machine. */
const TIMEOUT_MS = 40_000;

/** Why no browser test can run here, or false. */
export const NO_BROWSER: string | false = existsSync(CHROMIUM)
  ? false
  : `there is no ${CHROMIUM}: install Debian's chromium, or set CHROMIUM`;

let shared: Promise<Browser> | undefined;

export async function closeBrowser(): Promise<void> {
  await (await shared)?.close();
}

/** What went wrong in a page without anybody asking: errors of scripts, refused by policy. */
export interface WatchedPage extends Page {
  readonly faults: readonly string[];
}

export async function newPage(
  t: Pick<TestContext, 'after'>,
  options: BrowserContextOptions = {},
): Promise<WatchedPage> {
  const context = await newContext(t, options);
  return watch(await context.newPage());
}

async function newContext(
  t: Pick<TestContext, 'after'>,
  options: BrowserContextOptions = {},
): Promise<BrowserContext> {
  shared ??= chromium.launch({
    executablePath: CHROMIUM,
    // As root, and where /dev/shm is small, as in containers.
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  });
  const context = await (await shared).newContext(options);
  context.setDefaultTimeout(TIMEOUT_MS);
  t.after(() => context.close());
  return context;
}

export function watch(page: Page): WatchedPage {
  const faults: string[] = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error') faults.push(message.text());
  });
  return Object.assign(page, { faults });
}
