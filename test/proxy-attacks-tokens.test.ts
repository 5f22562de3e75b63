/** Calls with tokens and ids that are not the machine's own: refused, and nothing of it reaches GitLab. */

import assert from 'node:assert/strict';
import { suite, type TestContext, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { GuestCall } from './support/guest.ts';
import { exchange, head } from './support/raw.ts';
import { startRig } from './support/rig.ts';
import { startVictims, type Victims } from './support/victims.ts';

type Row = readonly [what: string, method: string, path: string, call: GuestCall, status: number];

async function refuses(t: TestContext, rows: (victims: Victims) => readonly Row[]): Promise<void> {
  const victims = await startVictims(t);
  for (const [what, method, path, call, status] of rows(victims)) {
    await t.test(`${what}: ${status}`, async () => {
      const answer = await victims.guest.call(method, path, call);
      assert.equal(answer.status, status);
      victims.assertUntouched(what);
    });
  }
  assert.equal(victims.other.job.status, 'running');
  assert.equal((await victims.guest.log('alive')).status, 202, 'the own job goes on');
}

const as = (token: string): Record<string, string> => ({ 'job-token': token });
const PATCH = { 'content-range': '0-0', 'content-type': 'text/plain' };

suite('another’s tokens and ids', { concurrency: 4 }, () => {
  test('of another machine, and of a job that is over', (t) =>
    refuses(t, ({ job, other, older }) => [
      ...[other.job, older.job].flatMap((theirs): readonly Row[] => {
        const who = theirs === other.job ? 'another job' : 'an older job';
        const final = { token: theirs.token, state: 'failed' };
        return [
          [`PUT for ${who}`, 'PUT', `jobs/${theirs.id}`, { json: final }, 403],
          [`PUT with the token of ${who}`, 'PUT', `jobs/${job.id}`, { json: final }, 403],
          [
            `PUT for ${who} with the own token`,
            'PUT',
            `jobs/${theirs.id}`,
            { json: { ...final, token: job.token } },
            403,
          ],
          [
            `log of ${who}`,
            'PATCH',
            `jobs/${theirs.id}/trace`,
            { headers: { ...PATCH, ...as(theirs.token) }, body: 'x' },
            403,
          ],
          [
            `log with the token of ${who}`,
            'PATCH',
            `jobs/${job.id}/trace`,
            { headers: { ...PATCH, ...as(theirs.token) }, body: 'x' },
            403,
          ],
          [
            `artifacts of ${who}`,
            'GET',
            `jobs/${theirs.id}/artifacts`,
            { headers: as(theirs.token) },
            403,
          ],
          [
            `artifacts of ${who} with the own token`,
            'GET',
            `jobs/${theirs.id}/artifacts`,
            { headers: as(job.token) },
            403,
          ],
          [
            `key of ${who}`,
            'GET',
            `jobs/${theirs.id}/runtime_environment_key`,
            { headers: as(theirs.token) },
            403,
          ],
        ];
      }),
      ['the runner’s real token', 'PUT', `jobs/${job.id}`, { json: { token: 'glrt-x' } }, 403],
    ]));

  test('through another machine’s route', async (t) => {
    const { job, guest, other, older, port, assertUntouched } = await startVictims(t);
    const put = (vmToken: string): string => {
      const json = JSON.stringify({ token: job.token, state: 'success' });
      const type = 'Content-Type: application/json';
      const line = `PUT /${vmToken}/api/v4/jobs/${job.id} HTTP/1.1`;
      return head(line, type, `Content-Length: ${json.length}`, 'Connection: close') + json;
    };
    for (const vmToken of [other.guest.token, older.guest.token, `${guest.token}x`]) {
      assert.equal((await exchange(t, port, put(vmToken))).status, 403);
      assertUntouched('another machine’s route');
    }
  });

  test('two that disagree, wherever they stand', (t) =>
    refuses(t, ({ job, other }) => {
      const { id, token } = job;
      const key = `jobs/${id}/runtime_environment_key`;
      const theirs = other.job.token;
      const state = 'success';
      const get = (what: string, query: string, headers = as(token)): Row => [
        what,
        'GET',
        `${key}${query}`,
        { headers },
        403,
      ];
      const put = (what: string, body: string, status = 400): Row => [
        what,
        'PUT',
        `jobs/${id}`,
        { headers: { 'content-type': 'application/json' }, body },
        status,
      ];
      const own = `"token":"${token}","state":"success"`;
      return [
        ...['PRIVATE-TOKEN', 'RUNNER-TOKEN'].map((name) =>
          get(name, '', { ...as(token), [name]: theirs }),
        ),
        get('Authorization', '', { ...as(token), authorization: `Bearer ${token}` }),
        get('the query', `?token=${theirs}`),
        get('the query, escaped', `?%74oken=${theirs}`),
        get('the query twice', `?token=${token}&token=${theirs}`),
        get('the query twice, behind a semicolon', `?token=${token};token=${theirs}`),
        get('an array', `?token[]=${theirs}`),
        get('an array, escaped', `?token%5B%5D=${theirs}`),
        get('a hash', `?token[x]=${theirs}`),
        get('an open bracket', `?token[=${theirs}`),
        get('a space before it', `?+token=${theirs}`),
        get('a NUL after it', `?token%00=${theirs}`),
        get('job_token', `?job_token=${theirs}`),
        get('private_token', `?private_token=${theirs}`),
        get('access_token', `?access_token=${theirs}`),
        get('another id', `?id=${other.job.id}`),
        get('another job_id', `?job_id=${other.job.id}`),
        get('broken escapes', '?a=%'),
        put('a body without a token', `{"state":"${state}"}`, 403),
        put('the body twice', `{${own},"token":"${theirs}"}`),
        put('the body twice, the own last', `{"token":"${theirs}",${own}}`),
        put('the body twice, escaped', `{${own},"tok\\u0065n":"${theirs}"}`),
        put('the same twice', `{${own},"token":"${token}"}`),
        put('the state twice', `{${own},"state":"failed"}`),
        put('twice within', `{${own},"output":{"bytesize":1,"bytesize":2}}`),
        put('job_token in the body', `{${own},"job_token":"${theirs}"}`),
        put('another id in the body', `{${own},"id":${other.job.id}}`),
        put('_method in the body', `{${own},"_method":"DELETE"}`),
        put('an array as the body', `[{${own}}]`),
        put('an array as the token', `{"token":["${token}","${theirs}"],"state":"success"}`, 403),
        put('two objects', `{${own}}{"token":"${theirs}"}`),
        put('a comment', `{${own}/*,"token":"${theirs}"*/}`),
        put('a byte order mark', `\ufeff{${own}}`),
        put('no end', `{${own}`),
        put('nothing', ''),
        [
          'broken UTF-8',
          'PUT',
          `jobs/${id}`,
          {
            headers: { 'content-type': 'application/json' },
            body: new Uint8Array(Buffer.from(`{${own},"x":"\xff"}`, 'latin1')),
          },
          400,
        ],
        [
          'a form that looks like JSON',
          'PUT',
          `jobs/${id}`,
          {
            headers: { 'content-type': 'application/x-www-form-urlencoded' },
            body: `{${own},"x":"&token=${theirs}&state=failed&"}`,
          },
          403,
        ],
        [
          'a log that is a form',
          'PATCH',
          `jobs/${id}/trace`,
          {
            headers: {
              ...PATCH,
              ...as(token),
              'content-type': 'application/x-www-form-urlencoded',
            },
            body: `token=${theirs}`,
          },
          403,
        ],
        [
          'an upload that is JSON',
          'POST',
          `jobs/${id}/artifacts`,
          { headers: as(token), json: { token: theirs } },
          403,
        ],
      ];
    }));

  test('a compressed bomb is not even looked into', async (t) => {
    const { job, api, port, assertUntouched } = await startVictims(t);
    const bomb = gzipSync(Buffer.alloc(64 * 1024 * 1024));
    const request = head(
      `PUT ${api}/jobs/${job.id} HTTP/1.1`,
      'Content-Type: application/json',
      'Content-Encoding: gzip',
      `Content-Length: ${bomb.length}`,
    );
    const answer = await exchange(t, port, Buffer.concat([Buffer.from(request), bomb]));
    assert.equal(answer.status, 415);
    assertUntouched('a bomb');
  });
});

test('a token that is unknown, ended or none at all: the same answers, byte for byte', async (t) => {
  const { port, older, job, assertUntouched } = await startVictims(t);
  const json = JSON.stringify({ token: job.token, state: 'success' });
  const calls = (token: string): string[] => {
    const api = `/${token}/api/v4`;
    const body = ['Content-Type: application/json', `Content-Length: ${json.length}`];
    return [
      head(`POST ${api}/jobs/request HTTP/1.1`, ...body) + json,
      head(`POST ${api}/runners/verify HTTP/1.1`, ...body) + json,
      head(`PUT ${api}/jobs/${job.id} HTTP/1.1`, ...body) + json,
      head(`GET ${api}/jobs/${job.id}/artifacts HTTP/1.1`),
      head(`GET ${api}/nothing HTTP/1.1`),
      head(`GET /${token} HTTP/1.1`),
    ];
  };
  const answersTo = async (token: string): Promise<string[]> => {
    const answers: string[] = [];
    for (const call of calls(token)) answers.push((await exchange(t, port, call)).text);
    return answers;
  };
  const unknown = await answersTo('glrt-xxxxxxxxx0123456789abcdef');
  assert.deepEqual(
    unknown.map((answer) => answer.slice(9, 12)),
    ['204', '403', '403', '403', '403', '403'],
  );
  for (const token of [older.guest.token, 'x', '%00', '..', 'a'.repeat(500), '']) {
    assert.deepEqual(await answersTo(token), unknown, `the token ${token}`);
  }
  assertUntouched('a token that opens nothing');
});

test('features are learned before the offer only: a job cannot poison the next claims', async (t) => {
  const rig = await startRig(t);
  const asked = (): unknown => {
    const seen = rig.gitlab.requests.findLast((request) => request.route === 'jobs-request');
    return JSON.parse(String(seen?.body)).info.features;
  };
  const next = async (): Promise<unknown> => {
    const before = rig.gitlab.requests.length;
    const again = (): boolean =>
      rig.gitlab.requests.slice(before).filter((one) => one.route === 'jobs-request').length > 1;
    await rig.gitlab.waitFor('two more asks', again);
    return asked();
  };
  const table = await next();
  const job = rig.queue();
  const guest = await rig.guest(job);
  const ask = (features: unknown) =>
    guest.call('POST', 'jobs/request', { json: { token: guest.token, info: { features } } });
  const told = { variables: true, refspecs: true, made_up: true, session: true };
  assert.equal((await ask(told)).status, 201);
  const learned = await next();
  assert.notDeepEqual(learned, table, 'the first ask teaches');
  assert.ok(!JSON.stringify(learned).includes('made_up'), 'known keys only');
  const poison = [{}, { variables: false }, { cancelable: true }, 'x', null];
  for (const features of poison) assert.equal((await ask(features)).status, 201, 'offered again');
  await guest.keepAlive();
  for (const features of poison) assert.equal((await ask(features)).status, 204, 'taken');
  assert.deepEqual(await next(), learned);
});
