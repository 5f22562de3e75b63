/** What nobody but a signed-in operator, on a page of ours, can do: from a browser, and by hand as a guest would. */

import assert from 'node:assert/strict';
import type http from 'node:http';
import { after, suite, test } from 'node:test';
import { type Answer, ask } from '../../fixtures/testing/ask.ts';
import { eventually } from '../support/deadline.ts';
import { startServer } from '../support/http-server.ts';
import { closeBrowser, NO_BROWSER } from './support/browser.ts';
import { type DashboardRig, startDashboardRig } from './support/dashboard-rig.ts';
import { signIn, whenLive } from './support/signed-in.ts';

after(closeBrowser);

/** Would say so in the title of the page. */
const SCRIPT =
  '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">';

/** With whatever `Host` is given, as no browser would. */
function call(
  rig: DashboardRig,
  path: string,
  { body, ...options }: Pick<http.RequestOptions, 'method' | 'headers'> & { body?: string } = {},
): Promise<Answer> {
  return ask({ port: new URL(rig.origin).port, path, ...options }, body);
}

/** A session's cookie and the token that its forms carry. */
async function session(rig: DashboardRig) {
  const link = new URL(rig.host.signInLink() ?? '');
  const { headers } = await call(rig, link.pathname + link.search);
  const cookie = headers['set-cookie']?.[0]?.split(';')[0] ?? '';
  const { text } = await call(rig, '/act/pause-host', { headers: { cookie } });
  const token = /name="form_token" value="([^"]+)"/.exec(text)?.[1] ?? '';
  return { cookie, body: `form_token=${token}` };
}

const isPaused = (rig: DashboardRig): boolean => rig.status().host.paused;

suite('nobody without a session', { concurrency: 2 }, () => {
  test('sees or does anything', async (t) => {
    const rig = await startDashboardRig(t);
    const { guest } = await rig.running({ name: 'a-secret-name' });
    const machine = `/machines/${guest.runnerName}`;
    for (const target of [
      '/',
      '/events',
      '/status',
      '/jobs',
      '/metrics',
      `${machine}/console`,
      machine,
    ]) {
      const { status, text } = await call(rig, target);
      assert.equal(status, 401, target);
      assert.doesNotMatch(text, /a-secret-name|forrest-build/);
    }
    const origin = rig.origin;
    for (const target of ['/act/pause-host', '/pause', '/drain', '/login', `${machine}/stop`]) {
      const { status } = await call(rig, target, { method: 'POST', headers: { origin } });
      assert.equal(status, 401, target);
    }
    assert.equal(isPaused(rig), false);
  });

  test('is told anything at all under another name than this machine’s own', async (t) => {
    const rig = await startDashboardRig(t);
    const { cookie } = await session(rig);
    const { port } = new URL(rig.origin);
    // As a guest behind QEMU's network sees it; as a name that was made to lead here.
    for (const host of [`10.0.2.2:${port}`, 'evil.example', `127.0.0.1.evil.example:${port}`]) {
      for (const target of ['/', '/sign-in?token=x', '/assets/dashboard.js', '/status']) {
        const { status, text } = await call(rig, target, { headers: { host, cookie } });
        assert.equal(status, 403, `${host} ${target}`);
        assert.match(text, /^refused: /);
      }
    }
    const own = await call(rig, '/', { headers: { host: 'localhost:9000', cookie: cookie } });
    assert.equal(own.status, 401, 'a tunnel: another port is another cookie');
  });

  test('may try as many links as they like; the operator still gets in', async (t) => {
    const rig = await startDashboardRig(t);
    const statuses: number[] = [];
    for (let count = 0; count < 14; count += 1) {
      statuses.push((await call(rig, `/sign-in?token=wrong-${count}`)).status);
    }
    assert.deepEqual(new Set(statuses.slice(0, 10)), new Set([401]));
    assert.deepEqual(new Set(statuses.slice(10)), new Set([429]));
    assert.ok((await session(rig)).cookie.startsWith('forrest_session_'));
  });

  test('has a session by guessing a cookie', async (t) => {
    const rig = await startDashboardRig(t);
    const { cookie } = await session(rig);
    const [name = ''] = cookie.split('=');
    for (const value of ['', 'x', cookie.slice(name.length + 1, -1), '__proto__']) {
      const { status } = await call(rig, '/', { headers: { cookie: `${name}=${value}` } });
      assert.equal(status, 401, value);
    }
  });
});

suite('who has a session', { concurrency: 2 }, () => {
  test('changes things from the dashboard’s own pages only', async (t) => {
    const rig = await startDashboardRig(t);
    const { cookie, body } = await session(rig);
    const post = (headers: Readonly<Record<string, string>>, form = body) =>
      call(rig, '/act/pause-host', {
        method: 'POST',
        body: form,
        headers: { cookie, 'content-type': 'application/x-www-form-urlencoded', ...headers },
      });
    const { origin } = rig;
    assert.equal((await post({})).status, 403, 'no Origin');
    assert.equal((await post({ origin: 'null' })).status, 403);
    assert.equal((await post({ origin: 'http://evil.example' })).status, 403);
    // Another port of this machine is the same site for cookies.
    assert.equal((await post({ origin: 'http://127.0.0.1:1' })).status, 403);
    assert.equal((await post({ origin, 'sec-fetch-site': 'same-site' })).status, 403);
    assert.equal((await post({ origin }, 'form_token=wrong')).status, 403);
    assert.equal((await post({ origin }, '')).status, 403);
    assert.equal((await post({ origin }, `${body}&x=${'y'.repeat(20_000)}`)).status, 413);
    assert.equal(isPaused(rig), false);
    assert.equal((await post({ origin })).status, 303);
    assert.equal(isPaused(rig), true);
  });

  test('cannot use the control API’s own actions, which programs with the token can', async (t) => {
    const rig = await startDashboardRig(t);
    const { cookie, body } = await session(rig);
    for (const target of ['/pause', '/drain', '/login', '/reload', '/machines/x/stop']) {
      const headers = { cookie, origin: rig.origin };
      const { status } = await call(rig, target, { method: 'POST', headers, body });
      assert.equal(status, 404, target);
    }
    assert.equal(rig.status().host.draining, false);
  });

  test('is told that there is nothing to follow on a page that is none', async (t) => {
    const rig = await startDashboardRig(t);
    const { cookie } = await session(rig);
    for (const page of ['/nowhere', 'http://[', '%']) {
      const target = `/events?page=${encodeURIComponent(page)}`;
      const { status, text } = await call(rig, target, { headers: { cookie } });
      assert.equal(status, 200, page);
      assert.match(text, /event: stale/, page);
    }
  });

  test('gets pages under a strict policy', async (t) => {
    const rig = await startDashboardRig(t);
    const { cookie } = await session(rig);
    for (const target of ['/', '/act/drain', '/assets/dashboard.js', '/status', '/sign-in']) {
      const { headers } = await call(rig, target, { headers: { cookie } });
      const policy = String(headers['content-security-policy']);
      assert.match(policy, /default-src 'none'; script-src 'self'; style-src 'self'/, target);
      assert.match(policy, /frame-ancestors 'none'/);
      assert.doesNotMatch(policy, /unsafe|\*/);
      assert.equal(headers['x-content-type-options'], 'nosniff', target);
      assert.equal(headers['referrer-policy'], 'same-origin', target);
    }
    assert.doesNotMatch((await call(rig, '/', { headers: { cookie } })).text, / style=| on\w+=/);
  });
});

suite('in a browser', { skip: NO_BROWSER, concurrency: 2 }, () => {
  test('script in a job’s name, ref and console is text, when loaded and when it comes later', async (t) => {
    const rig = await startDashboardRig(t, { script: `echo '${SCRIPT.replaceAll("'", '')}'` });
    const page = await signIn(t, rig);
    await whenLive(page);
    const hostile = { name: `x${SCRIPT}`, ref: `y"'>${SCRIPT}` };
    const github = rig.queueGithub(`z${SCRIPT}`, ['true'], hostile.ref);
    const { job } = await rig.running(hostile);
    const row = page.locator(`[id="job-gitlab-${job.id}"]`);
    await row.getByText(hostile.name).waitFor();
    await row.getByText(hostile.ref).waitFor();
    await page.locator(`[id="job-github-${github.id}"]`).getByText(`z${SCRIPT}`).waitFor();
    for (const target of ['/', `/jobs/gitlab/${job.id}`, `/machines/${rig.row(job)?.machine}`]) {
      await page.goto(rig.origin + target);
      await page.getByText(hostile.name).first().waitFor();
      assert.equal(await page.locator('main script, main img').count(), 0, target);
    }
    await page.locator('pre.console', { hasText: '<script>' }).waitFor();
    assert.deepEqual(page.faults, []);
    const console = await page.goto(`${rig.origin}/machines/${rig.row(job)?.machine}/console`);
    assert.match(console?.headers()['content-type'] ?? '', /^text\/plain/);
    assert.notEqual(await page.title(), 'owned');
    await page.goto(
      `${rig.origin}/?text=${encodeURIComponent(`"><script>document.title="owned"</script>`)}`,
    );
    assert.notEqual(await page.title(), 'owned');
  });

  test('a page of another origin can neither read nor do anything', async (t) => {
    const rig = await startDashboardRig(t);
    const evil = await startServer(t, (_request, response) => {
      response.setHeader('content-type', 'text/html');
      response.end(`<form method="post" action="${rig.origin}/act/pause-host"><input name="form_token" value="x"></form>
<iframe src="${rig.origin}/"></iframe>`);
    });
    const page = await signIn(t, rig);
    // The same site, by the rules of cookies: they go along.
    await page.goto(`${evil.url}/`);
    const read = await page.evaluate(
      (address) =>
        fetch(address, { credentials: 'include' }).then(
          () => 'read',
          () => 'refused',
        ),
      `${rig.origin}/status`,
    );
    assert.equal(read, 'refused');
    await eventually('the frame to be refused', () =>
      page.frames().some((frame) => frame.url().startsWith('chrome-error:')),
    );
    await page.evaluate('document.forms[0].submit()');
    await page.getByText('refused: this does not come from the dashboard').waitFor();
    assert.equal(isPaused(rig), false);
  });
});
