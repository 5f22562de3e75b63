/** The proxy's route table (design §6): what passes, what is answered here, what never reaches GitLab. */

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import { suite, test } from 'node:test';
import type { SimJob } from '../fixtures/gitlab/index.ts';
import type { Guest, GuestCall } from './support/guest.ts';
import { type Rig, startRig } from './support/rig.ts';

/** Calls of guests that reached GitLab: all but what the plugin asks by itself. */
const reached = (rig: Rig): string[] =>
  rig.gitlab.requests
    .filter((request) => !['jobs-request', 'runners-verify'].includes(request.route))
    .filter((request) => !(request.route === 'job-update' && request.body.includes('"running"')))
    .map((request) => `${request.method} ${request.target.split('?')[0]}`);

function archive(content: string | Buffer = 'content'): FormData {
  const form = new FormData();
  form.append('file', new Blob([new Uint8Array(Buffer.from(content))]), 'artifacts.zip');
  return form;
}

const as = (job: SimJob): Record<string, string> => ({ 'job-token': job.token });

suite('what passes', { concurrency: 4 }, () => {
  test('the log, with GitLab’s headers both ways', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    const accepted = await guest.log('hello');
    assert.equal(accepted.status, 202);
    assert.equal(accepted.headers.get('range'), '0-5');
    assert.equal(accepted.headers.get('job-status'), 'running');
    assert.equal(accepted.headers.get('x-gitlab-trace-update-interval'), '60');
    assert.ok(accepted.headers.get('x-request-id'));
    const refused = await guest.call('PATCH', `jobs/${job.id}/trace?debug_trace=false`, {
      headers: { ...as(job), 'content-range': '9-9', 'content-type': 'text/plain' },
      body: 'x',
    });
    assert.deepEqual([refused.status, refused.headers.get('range')], [416, '0-5']);
    const seen = rig.gitlab.requests.findLast((request) => request.route === 'trace');
    assert.match(seen?.target ?? '', /\/gitlab\/api\/v4\/jobs\/\d+\/trace\?debug_trace=false$/);
  });

  test('an upload, byte for byte, and its download by a job that depends on it, with that job’s tokens only', async (t) => {
    const rig = await startRig(t);
    const spec = { project: 'lab/demo', script: ['true'] };
    const [build, check] = rig.gitlab
      .queuePipeline({
        stages: [
          [
            { ...spec, name: 'build', artifacts: [{ paths: ['out'] }] },
            { ...spec, name: 'unrelated', artifacts: [{ paths: ['out'] }] },
          ],
          [{ ...spec, name: 'check', dependencies: ['build'] }],
        ],
      })
      .filter((job) => job.name !== 'unrelated') as [SimJob, SimJob];
    const unrelated = rig.gitlab.jobs().find((job) => job.name === 'unrelated')!;
    const content = randomBytes(3 * 1024 * 1024);
    for (const job of [build, unrelated]) {
      const guest = await rig.guest(job);
      await guest.takeJob();
      const query = '?artifact_format=zip&artifact_type=archive&expire_in=7d';
      const uploaded = await guest.call('POST', `jobs/${job.id}/artifacts${query}`, {
        headers: as(job),
        body: archive(content),
      });
      assert.equal(uploaded.status, 201);
      await guest.finish('success');
      await guest.powerOff();
    }
    const [stored] = build.artifacts;
    assert.equal(stored?.sha256, createHash('sha256').update(content).digest('hex'));
    assert.deepEqual(await readFile(stored.path), content);

    const guest = await rig.guest(check);
    await guest.takeJob();
    const get = (job: SimJob, token: string) =>
      guest.call('GET', `jobs/${job.id}/artifacts`, { headers: { 'job-token': token } });
    const got = await get(build, check.token);
    assert.equal(got.status, 200);
    assert.ok(got.body.equals(content));
    const before = reached(rig).length;
    assert.equal((await get(build, build.token)).status, 403);
    assert.equal((await get(unrelated, check.token)).status, 403);
    assert.equal(reached(rig).length, before, 'refused here');
  });

  test('a redirect to object storage is handed through, not followed', async (t) => {
    const rig = await startRig(t, { simulator: { objectStorage: true } });
    const { job, guest } = await rig.running();
    await guest.call('POST', `jobs/${job.id}/artifacts`, { headers: as(job), body: archive() });
    const answer = await guest.call('GET', `jobs/${job.id}/artifacts?direct_download=true`, {
      headers: as(job),
    });
    assert.equal(answer.status, 302);
    assert.match(answer.headers.get('location') ?? '', /signature=/);
    assert.ok(!rig.gitlab.requests.some((request) => request.route === 'object-storage'));
  });

  test('a download that is gone on with: which part, and of what', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    const part = { range: 'bytes=5-', 'if-range': '"abc"' };
    await guest.call('GET', `jobs/${job.id}/artifacts`, { headers: { ...as(job), ...part } });
    const { headers } = rig.gitlab.requests.findLast((one) => one.route === 'artifacts-download')!;
    const asked = headers.filter(([name]) => name.toLowerCase() in part);
    assert.deepEqual(Object.fromEntries(asked), part);
  });

  test('a redirect to a relative address leads to GitLab, not here', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    const { origin } = new URL(rig.gitlab.url);
    for (const [location, expected] of [
      ['/uploads/a.zip?s=%2F', `${origin}/uploads/a.zip?s=%2F`],
      ['b.zip', `${rig.gitlab.url}/api/v4/jobs/${job.id}/b.zip`],
      ['//storage.example.test/c', 'http://storage.example.test/c'],
      ['https://[::1]:9/D?X=y', 'https://[::1]:9/D?X=y'],
    ] as const) {
      rig.gitlab.inject({
        match: { route: 'artifacts-download', times: 1 },
        do: { status: 302, headers: { location } },
      });
      const path = `jobs/${job.id}/artifacts?direct_download=true`;
      const answer = await guest.call('GET', path, { headers: as(job) });
      assert.deepEqual([answer.status, answer.headers.get('location')], [302, expected]);
    }
  });

  test('the runtime environment key, and GitLab’s own refusals as they are', async (t) => {
    const rig = await startRig(t, { simulator: { limits: { artifactBytes: 1000 } } });
    const { job, guest } = await rig.running();
    const key = await guest.call('GET', `jobs/${job.id}/runtime_environment_key`, {
      headers: as(job),
    });
    assert.equal(key.status, 404);
    const tooLarge = await guest.call('POST', `jobs/${job.id}/artifacts`, {
      headers: as(job),
      body: archive('x'.repeat(200_000)),
    });
    assert.equal(tooLarge.status, 413);
    rig.gitlab.inject({
      match: { route: 'trace', times: 1 },
      do: { status: 400, headers: { 'retry-after': '7', 'set-cookie': 'a=b' } },
    });
    const limited = await guest.log('x');
    assert.deepEqual([limited.status, limited.headers.get('retry-after')], [400, '7']);
    assert.equal(limited.headers.get('set-cookie'), null);
  });

  test('the token wherever a runner puts it', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    const places: ReadonlyArray<readonly [string, string, GuestCall]> = [
      ['JOB-TOKEN', '', { headers: as(job) }],
      ['the query', `?token=${job.token}`, {}],
      ['PRIVATE-TOKEN', '', { headers: { 'private-token': job.token } }],
      ['the VM token beside it', '', { headers: { ...as(job), 'runner-token': guest.token } }],
    ];
    for (const [where, query, call] of places) {
      const answer = await guest.call('GET', `jobs/${job.id}/artifacts${query}`, call);
      assert.equal(answer.status, 404, `${where}: GitLab's answer, not ours`);
    }
  });
});

suite('what does not pass', { concurrency: 4 }, () => {
  test('other jobs, other tokens, two tokens that disagree', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    const other = await rig.running();
    const before = reached(rig).length;
    const id = job.id;
    const range = { 'content-range': '0-0', 'content-type': 'text/plain' };
    const both = { ...as(job), 'private-token': other.job.token };
    const rows: ReadonlyArray<readonly [string, string, string, GuestCall, number]> = [
      [
        'PUT with another token',
        'PUT',
        `jobs/${id}`,
        { json: { token: other.job.token, state: 'success' } },
        403,
      ],
      ['PUT without a token', 'PUT', `jobs/${id}`, { json: { state: 'success' } }, 403],
      [
        'PUT with two tokens',
        'PUT',
        `jobs/${id}`,
        { json: { token: job.token, state: 'success' }, headers: as(other.job) },
        403,
      ],
      [
        'PUT with one token in the query',
        'PUT',
        `jobs/${id}?token=x`,
        { json: { token: job.token, state: 'success' } },
        403,
      ],
      [
        'PUT of another job',
        'PUT',
        `jobs/${other.job.id}`,
        { json: { token: other.job.token, state: 'success' } },
        403,
      ],
      ['PUT of no JSON', 'PUT', `jobs/${id}`, { body: 'state=success', headers: as(job) }, 400],
      ['trace without a token', 'PATCH', `jobs/${id}/trace`, { headers: range, body: 'x' }, 403],
      [
        'trace of another job',
        'PATCH',
        `jobs/${other.job.id}/trace`,
        { headers: { ...range, ...as(other.job) }, body: 'x' },
        403,
      ],
      [
        'trace with two tokens',
        'PATCH',
        `jobs/${id}/trace`,
        { headers: { ...range, ...both }, body: 'x' },
        403,
      ],
      [
        'upload with the VM token',
        'POST',
        `jobs/${id}/artifacts`,
        { headers: { 'job-token': guest.token }, body: archive() },
        403,
      ],
      [
        'upload to another job',
        'POST',
        `jobs/${other.job.id}/artifacts`,
        { headers: as(other.job), body: archive() },
        403,
      ],
      [
        'download from another job',
        'GET',
        `jobs/${other.job.id}/artifacts`,
        { headers: as(other.job) },
        403,
      ],
      [
        'authorization of an upload',
        'POST',
        `jobs/${id}/artifacts/authorize`,
        { headers: as(job) },
        404,
      ],
      ['removal of the runner', 'DELETE', 'runners', { json: { token: guest.token } }, 404],
      [
        'reset of its token',
        'POST',
        'runners/reset_authentication_token',
        { json: { token: guest.token } },
        404,
      ],
      ['the projects of its GitLab', 'GET', 'projects', { headers: as(job) }, 404],
      ['the current job', 'GET', 'job', { headers: as(job) }, 404],
      [
        'discovery',
        'GET',
        'runners/router/discovery',
        { headers: { 'runner-token': guest.token } },
        404,
      ],
      [
        'a path that climbs',
        'GET',
        `jobs/${id}/artifacts/%2e%2e/%2e%2e/%2e%2e/user`,
        { headers: as(job) },
        404,
      ],
      ['an id with a leading zero', 'GET', `jobs/0${id}/artifacts`, { headers: as(job) }, 404],
    ];
    for (const [what, method, path, call, status] of rows) {
      await t.test(`${what}: ${status}`, async () => {
        const answer = await guest.call(method, path, call);
        assert.equal(answer.status, status);
        assert.ok(JSON.parse(answer.body.toString()).message, 'a JSON error');
      });
    }
    assert.equal(reached(rig).length, before, 'nothing reached GitLab');
  });

  test('any other VM token: nothing opens, and jobs/request is never a 403', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    const before = reached(rig).length;
    const at = (token: string, path: string, init: RequestInit): Promise<Response> =>
      fetch(`${guest.url.replace(guest.token, token)}/api/v4/${path}`, init);
    for (const token of ['x', `${guest.token.slice(0, -1)}_`, rig.runner.token, '%2e%2e']) {
      const asked = await at(token, 'jobs/request', { method: 'POST', body: '{}' });
      assert.equal(asked.status, token === '%2e%2e' ? 403 : 204);
      const updated = await at(token, `jobs/${job.id}`, {
        method: 'PUT',
        body: JSON.stringify({ token: job.token, state: 'success' }),
      });
      assert.equal(updated.status, 403);
    }
    const wrong = await guest.call('POST', 'jobs/request', { json: { token: 'glrt-other' } });
    assert.equal(wrong.status, 204);
    assert.equal(reached(rig).length, before);
  });

  test('a call before the job was offered', async (t) => {
    const rig = await startRig(t);
    const job = rig.queue();
    const guest = await rig.guest(job);
    assert.equal((await guest.finish('success')).status, 403);
    assert.equal(job.status, 'running');
  });

  test('anything after the machine has ended', async (t) => {
    const rig = await startRig(t);
    const { job, guest } = await rig.running();
    await guest.finish('success');
    await guest.powerOff();
    await rig.ended(job);
    const before = rig.gitlab.requests.length;
    assert.equal((await guest.keepAlive()).status, 403);
    assert.equal((await guest.log('x')).status, 403);
    assert.equal((await guest.request()).status, 204);
    const own = rig.gitlab.requests.slice(before).filter((request) => request.jobId === job.id);
    assert.deepEqual(own, []);
  });
});

test('runners/verify is answered here', async (t) => {
  const rig = await startRig(t);
  const { guest } = await rig.running();
  const answer = await guest.call('POST', 'runners/verify', { json: { token: guest.token } });
  assert.deepEqual(JSON.parse(answer.body.toString()), {
    id: 0,
    token: guest.token,
    token_expires_at: null,
  });
  assert.equal((await guest.call('POST', 'runners/verify', { json: { token: 'x' } })).status, 403);
  // The host itself may ask; nothing of a guest's gets there.
  const seen = rig.gitlab.requests.filter((request) => request.route === 'runners-verify');
  assert.ok(seen.every(({ body }) => body.includes(rig.runner.token)));
});

test('a guest that goes away in the middle of an upload takes GitLab’s side with it', async (t) => {
  const rig = await startRig(t);
  const { job, guest } = await rig.running();
  const upload = http.request(`${guest.url}/api/v4/jobs/${job.id}/artifacts`, {
    method: 'POST',
    headers: { ...as(job), 'content-type': 'multipart/form-data; boundary=x' },
  });
  upload.on('error', () => undefined);
  t.after(() => upload.destroy());
  upload.write('--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n');
  upload.write(Buffer.alloc(300_000));
  const seen = () => rig.gitlab.requests.find((request) => request.route === 'artifacts-upload');
  await rig.gitlab.waitFor('bytes to arrive', () => (seen()?.bodyBytes ?? 0) > 200_000);
  upload.destroy();
  await rig.gitlab.waitFor('GitLab’s side to end', () => seen()?.aborted === true);
  assert.deepEqual(job.artifacts, []);
  assert.equal((await guest.log('still fine')).status, 202);
});

test('the log of a call names its route, and no token', async (t) => {
  const rig = await startRig(t);
  const { job, guest } = (await rig.running()) as { job: SimJob; guest: Guest };
  rig.gitlab.inject({
    match: { route: 'artifacts-download' },
    do: { status: 404, headers: { 'x-request-id': 'r'.repeat(10_000) } },
  });
  const { headers } = await guest.call('GET', `jobs/${job.id}/artifacts?token=${job.token}`);
  assert.equal(headers.get('x-request-id')?.length, 10_000);
  const text = rig.log.join('\n');
  const line = rig.log.find((one) => /artifacts-download of job \d+: 404/.test(one));
  assert.match(line ?? '', /"requestId":"r{100}"/);
  for (const token of [job.token, guest.token, rig.runner.token]) assert.ok(!text.includes(token));
});
