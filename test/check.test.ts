/** `forrest-host check`, the command: one set-up that is fine, and many that each have one thing wrong. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmod, cp, readdir, readFile, writeFile } from 'node:fs/promises';
import http from 'node:http';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type GitlabSimulator, startGitlabSimulator } from '../fixtures/gitlab/index.ts';
import { temporaryDirectory, writePrivate } from './support/files.ts';
import { freePort } from './support/free-port.ts';

const ROOT = path.join(import.meta.dirname, '..');
const CLI = path.join(ROOT, 'fixtures/host/src/cli.ts');
const CONFIGS = path.join(ROOT, 'fixtures/config');
const TLS = path.join(import.meta.dirname, 'support/tls');

interface Finding {
  readonly severity: 'ok' | 'warning' | 'error';
  readonly subject: string;
  readonly message: string;
  readonly remedy?: string;
}

/** Of each file in `broken`: where the error is, and what its message must name. */
const CAUSES: Readonly<Record<string, readonly [subject: RegExp, message: RegExp]>> = {
  'address-elsewhere': [
    /^gitlab\.listen 192\.0\.2\.1/,
    /no interface of this machine has that address/,
  ],
  'address-in-use': [/^gitlab\.listen/, /in use by another process/],
  'address-twice': [/^gitlab\.listen/, /host\.dashboard\.listen has that address already/],
  'base-dir-is-file': [/^host\.base_dir/, /no directory/],
  'clock-wrong': [/^clock$/, /36\d\d s ahead of GitLab's/],
  'gitlab-down': [/^gitlab\.url/, /cannot be reached: nothing listens there/],
  'gitlab-elsewhere': [/^gitlab\.url/, /no GitLab answers there: 404/],
  'gitlab-firewall': [/^gitlab\.url/, /no GitLab answers there: 403 with text\/html/],
  'gitlab-limits': [/^gitlab\.url/, /no more calls of this host for now: 429 Too Many Requests/],
  'gitlab-page': [/^gitlab\.url/, /no GitLab answers there: 200 with text\/html/],
  'image-missing': [/^machines\.small\.base_image$/, /debian\.img is no file/],
  'not-yaml': [/^line \d+$/, /not valid YAML/],
  'plugin-not-listed': [/^gitlab$/, /packages under plugins, such as forrest-gitlab$/],
  'qemu-missing': [/^driver qemu$/, /qemu-system-\w+ is not installed/],
  'runner-missing': [/^machine type small$/, /starts \/opt\/nowhere\/gitlab-runner, which is not/],
  'template-of-github': [
    /^machine type small, for gitlab$/,
    /nobody fills in <COLOUR> \(job-config\/job\.sh, line 2\), <JITCONFIG> \(.*, line 3\)/,
  ],
  'template-missing': [/^machines\.small\.setup_template\.path$/, /is no template/],
  'tls-untrusted': [/^gitlab\.url/, /TLS fails: its certificate/],
  'token-file-missing': [/^gitlab\.runners\[0\]\.token_file$/, /does not exist/],
  'token-file-personal': [/^gitlab\.runners\[0\]\.token_file$/, /holds a personal access token/],
  'token-file-open': [/^gitlab\.runners\[0\]\.token_file$/, /open to every user \(mode 0644\)/],
  'token-refused': [/^gitlab\.runners: build$/, /GitLab refuses the token/],
  'too-little-memory': [/^machines\.small\.ram$/, /more than the host's 512 MiB/],
  'unknown-key': [/^gitlab\.runner$/, /unknown key/],
  'unknown-machine': [/^gitlab\.runners\[0\]\.machine$/, /no machine type of the name 'large'/],
};

/** What goes along with some causes, and is true as well. */
const ALSO: Readonly<Record<string, RegExp>> = {
  'unknown-key': /^gitlab\.runners$/,
  'not-yaml': /^line \d+$/,
  'qemu-missing': /^driver qemu$/,
  'base-dir-is-file': /^state directory/,
};

describe('forrest-host check', { concurrency: 3 }, () => {
  let directory = '';
  let gitlab: GitlabSimulator;
  const closers: (() => unknown)[] = [];
  const tokens: string[] = [];
  let good: Awaited<ReturnType<typeof check>>;

  before(async () => {
    directory = await temporaryDirectory({
      after: (close) => closers.push(close as () => unknown),
    });
    await cp(CONFIGS, directory, { recursive: true });
    gitlab = await startGitlabSimulator({ relativeUrl: '/gitlab' });
    const secure = await startGitlabSimulator({
      tls: {
        key: await readFile(path.join(TLS, 'server.key'), 'utf8'),
        cert: await readFile(path.join(TLS, 'server.pem'), 'utf8'),
      },
    });
    const late = await startLate(gitlab);
    const page = await startPage(200);
    const firewall = await startPage(403);
    const limits = await startPage(429, '{"message":{"error":"Too Many Requests"}}');
    const taken = net.createServer().listen(0, '127.0.0.1');
    closers.push(
      () => gitlab.close(),
      () => secure.close(),
      () => late.close(),
      () => taken.close(),
      () => page.close(),
      () => firewall.close(),
      () => limits.close(),
    );
    const revoked = gitlab.createRunner();
    gitlab.revokeRunner(revoked.token);
    const token = gitlab.createRunner().token;
    tokens.push(token, revoked.token);
    await writePrivate(path.join(directory, 'good.token'), `${token}\n`);
    const personal = 'glpat-abcdefghijklmnopqrst';
    tokens.push(personal);
    await writePrivate(path.join(directory, 'personal.token'), `${personal}\n`);
    await writePrivate(path.join(directory, 'revoked.token'), `${revoked.token}\n`);
    await writePrivate(path.join(directory, 'open.token'), `${token}\n`);
    await chmod(path.join(directory, 'open.token'), 0o644);
    const values: Readonly<Record<string, string>> = {
      GITLAB: gitlab.url,
      GITLAB_ORIGIN: new URL(gitlab.url).origin,
      GITLAB_TLS: secure.url,
      GITLAB_LATE: late.url,
      PAGE: page.url,
      FIREWALL: firewall.url,
      LIMITS: limits.url,
      NOTHING: `http://127.0.0.1:${await freePort()}`,
      FREE: `127.0.0.1:${await freePort()}`,
      IN_USE: `127.0.0.1:${(taken.address() as AddressInfo).port}`,
    };
    for (const name of ['good', ...Object.keys(CAUSES).map((cause) => `broken/${cause}`)]) {
      const file = path.join(directory, `${name}.yaml`);
      const text = await readFile(file, 'utf8');
      // Beside the templates and tokens, as a person would have it.
      const target = path.join(directory, `${path.basename(name)}.yaml`);
      await writeFile(
        target,
        text.replace(/@([A-Z_]+)@/g, (_, key: string) => values[key] ?? ''),
      );
    }
    // First of all: it makes what the others find.
    good = await check(directory, 'good');
  });
  after(async () => {
    for (const close of closers.toReversed()) await close();
  });

  it('has a cause for each set-up', async () => {
    const files = await readdir(path.join(CONFIGS, 'broken'));
    assert.deepEqual(
      files.map((file) => path.basename(file, '.yaml')).toSorted(),
      Object.keys(CAUSES).toSorted(),
    );
  });

  it('finds nothing wrong where nothing is, and asks as the claimers would', async () => {
    const { code, findings } = good;
    assert.deepEqual(findings.filter(isError), []);
    assert.equal(code, 0);
    const subjects = findings.map(({ subject }) => subject.split(' ')[0]);
    for (const looked of ['host.base_dir', 'gitlab.listen', 'gitlab.url', 'clock', 'machine']) {
      assert.ok(subjects.includes(looked), `${looked} was looked at`);
    }
    const asked = gitlab.requests.find(({ route }) => route === 'runners-verify');
    const body = JSON.parse(asked?.body.toString() ?? '{}') as Record<string, unknown>;
    const kept = await readFile(path.join(directory, 'base/state/gitlab/system-id'), 'utf8');
    assert.equal(body['system_id'], kept.split('\n')[0]);
    assert.partialDeepStrictEqual(body['info'], {
      executor: 'shell',
      features: { variables: true },
    });
  });

  for (const [name, [subject, message]] of Object.entries(CAUSES)) {
    it(`names the cause: ${name}`, async () => {
      const env = name === 'qemu-missing' ? { PATH: path.dirname(process.execPath) } : {};
      const { code, findings, text } = await check(directory, name, env);
      assert.equal(code, 2, text);
      const errors = findings.filter(isError);
      const cause = errors.find((one) => subject.test(one.subject) && message.test(one.message));
      assert.ok(cause, text);
      assert.ok(cause.remedy, 'says what to do');
      const others = errors.filter((one) => one !== cause && !ALSO[name]?.test(one.subject));
      assert.deepEqual(others, [], 'accuses nothing else');
      for (const token of tokens) assert.ok(!text.includes(token), 'shows no token');
    });
  }

  it('says of an address that another machine has, to choose another one', async () => {
    const { findings } = await check(directory, 'address-elsewhere');
    assert.match(findings.find(isError)?.remedy ?? '', /^choose another address:port/);
  });

  it('names a file that is not there', async () => {
    const { code, findings } = await check(directory, 'nowhere');
    assert.equal(code, 2);
    assert.deepEqual(findings, [
      {
        severity: 'error',
        subject: path.join(directory, 'nowhere.yaml'),
        message: 'does not exist',
        remedy: 'name a configuration that this user may read: --config FILE',
      },
    ]);
  });

  it('finds a script that a process could not run', async () => {
    await cp(path.join(directory, 'template'), path.join(directory, 'plain'), { recursive: true });
    const script = path.join(directory, 'plain/job-config/job.sh');
    await chmod(script, 0o644);
    const text = await readFile(path.join(directory, 'good.yaml'), 'utf8');
    await writeFile(
      path.join(directory, 'plain.yaml'),
      text.replace('path: template', 'path: plain'),
    );
    const { code, findings } = await check(directory, 'plain');
    assert.equal(code, 2);
    assert.deepEqual(findings.filter(isError), [
      {
        severity: 'error',
        subject: 'machine type small',
        message: `${script} is not executable`,
        remedy: 'chmod +x it in the template',
      },
    ]);
  });

  it('warns of a weight that no forge has', async () => {
    const text = await readFile(path.join(directory, 'good.yaml'), 'utf8');
    const weighed = text.replace('ram: 2G,', 'ram: 2G, weights: { gitlab: 2, gitlub: 3 },');
    assert.notEqual(weighed, text);
    await writeFile(path.join(directory, 'weighed.yaml'), weighed);
    const { code, findings } = await check(directory, 'weighed');
    assert.equal(code, 0);
    const found = findings.filter(({ subject }) => subject.startsWith('host.weights'));
    assert.deepEqual(
      found.map(({ severity, subject }) => [severity, subject]),
      [['warning', 'host.weights.gitlub']],
    );
  });

  it('does not take a warning of QEMU for the reason why KVM is missing', async (t) => {
    const bin = await temporaryDirectory(t);
    const qemu = path.join(bin, 'qemu-system-x86_64');
    const said = ['warning: host lacks a feature', 'Could not access KVM kernel module'];
    const lines = said.map((line) => `echo 'qemu-system-x86_64: ${line}' >&2`);
    await writeFile(qemu, `#!/bin/sh\n${lines.join('\n')}\nexit 1\n`, { mode: 0o755 });
    for (const tool of ['mformat', 'mcopy', 'mmd', 'qemu-img']) {
      await writeFile(path.join(bin, tool), '#!/bin/sh\n', { mode: 0o755 });
    }
    await chmod(bin, 0o755);
    const { findings, text } = await check(directory, 'qemu-missing', {
      PATH: `${bin}:${process.env['PATH']}`,
    });
    const kvm = findings.find(({ subject }) => subject === 'KVM');
    assert.match(
      kvm?.message ?? text,
      /\(qemu-system-x86_64: Could not access KVM kernel module\)/,
    );
  });

  it('says the same to people, with the remedy, and without colours where nobody looks', async () => {
    const { code, text } = await run([
      'check',
      '--config',
      path.join(directory, 'token-refused.yaml'),
    ]);
    assert.equal(code, 2);
    assert.match(text, /^ERROR {3}gitlab\.runners: build: GitLab refuses the token/m);
    assert.match(text, /^ {8}do: .*make a runner there/m);
    assert.match(text, /1 error: jobs cannot run yet/);
    assert.ok(!text.includes('\x1b'));
  });
});

function isError({ severity }: Finding): boolean {
  return severity === 'error';
}

async function check(
  directory: string,
  name: string,
  env: NodeJS.ProcessEnv = {},
): Promise<{ code: number; findings: Finding[]; text: string }> {
  const file = path.join(directory, `${name}.yaml`);
  const { code, text } = await run(['check', '--config', file, '--json'], env);
  const { findings } = JSON.parse(text) as { findings: Finding[] };
  return { code, findings, text };
}

function run(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<{ code: number; text: string }> {
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      ['--conditions=forrest-gitlab-source', CLI, ...args],
      { env: { ...process.env, ...env }, timeout: 50_000 },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : error.code;
        if (typeof code === 'number') resolve({ code, text: stdout });
        else reject(new Error(`it did not end by itself: ${stderr}`, { cause: error }));
      },
    );
  });
}

/** In front of a GitLab whose clock is an hour behind. */
async function startLate(gitlab: GitlabSimulator): Promise<{ url: string; close(): void }> {
  const { origin, pathname } = new URL(gitlab.url);
  const server = http.createServer((request, response) => {
    const { method, headers, url = '/' } = request;
    const up = http.request(`${origin}${url}`, { method: method ?? 'GET', headers }, (answer) => {
      const date = new Date(Date.now() - 3600_000).toUTCString();
      response.writeHead(answer.statusCode ?? 502, { ...answer.headers, date });
      answer.pipe(response);
    });
    request.pipe(up);
  });
  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}${pathname}`, close: () => server.close() };
}

/** Something else, which has the same answer to every request: a page, or GitLab's JSON. */
async function startPage(status: number, json?: string): Promise<{ url: string; close(): void }> {
  const type = json === undefined ? 'text/html' : 'application/json';
  const server = http.createServer((_, response) => {
    response.writeHead(status, { 'content-type': type }).end(json ?? '<html>Sign in</html>');
  });
  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, close: () => server.close() };
}
