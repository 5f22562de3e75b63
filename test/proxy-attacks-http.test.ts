/** HTTP as no runner sends it: each is refused, and nothing of it reaches GitLab. */

import assert from 'node:assert/strict';
import { suite, type TestContext, test } from 'node:test';
import { exchange, head } from './support/raw.ts';
import { startVictims, type Victims } from './support/victims.ts';

/** What is sent, and the answer's status; null: cut off without one. */
type Row = readonly [what: string, bytes: string, status: number | null];

async function refuses(t: TestContext, rows: (v: Victims) => readonly Row[]) {
  const victims = await startVictims(t);
  for (const [what, bytes, status] of rows(victims)) {
    await t.test(`${what}: ${status ?? 'cut off'}`, async (t) => {
      const answer = await exchange(t, victims.port, bytes);
      assert.equal(answer.status, status, answer.text);
      assert.equal(answer.statuses.length, status === null ? 0 : 1, 'one answer at most');
      victims.assertUntouched(what);
    });
  }
  assert.equal((await victims.guest.log('alive')).status, 202, 'the own job goes on');
}

suite('refused, and unknown to GitLab', { concurrency: 4 }, () => {
  test('path tricks', (t) =>
    refuses(t, ({ api, job, other }) => {
      const token = `JOB-TOKEN: ${job.token}`;
      const theirs = `${other.job.id}/artifacts`;
      const get = (target: string): string =>
        head(`GET ${target} HTTP/1.1`, token, 'Connection: close');
      return [
        ['climbing', get(`${api}/jobs/${job.id}/../${theirs}`), 404],
        ['climbing, escaped', get(`${api}/jobs/${job.id}/%2e%2e/${theirs}`), 404],
        ['climbing, escaped twice', get(`${api}/jobs/${job.id}/%252e%252e/${theirs}`), 404],
        ['climbing, slash escaped', get(`${api}/jobs/${job.id}/..%2f${theirs}`), 404],
        ['a slash escaped', get(`${api}/jobs%2f${job.id}/artifacts`), 404],
        ['climbing with backslashes', get(`${api}/jobs/${job.id}\\..\\${theirs}`), 404],
        ['a matrix parameter', get(`${api}/jobs/${job.id};/artifacts`), 404],
        ['an own path in the own path', get(`${api}/jobs/${job.id}/.${api}/jobs/${theirs}`), 404],
        ['an empty segment', get(`${api}/jobs//${job.id}/artifacts`), 404],
        ['a slash at the end', get(`${api}/jobs/${job.id}/artifacts/`), 404],
        ['another format', get(`${api}/jobs/${job.id}/artifacts.json`), 404],
        ['the id escaped', get(`${api}/jobs/%3${String(job.id)[0]}/artifacts`), 404],
        ['the id as another number', get(`${api}/jobs/${job.id}e0/artifacts`), 404],
        ['the id with a sign', get(`${api}/jobs/+${job.id}/artifacts`), 404],
        ['the id with zeros before it', get(`${api}/jobs/000${job.id}/artifacts`), 404],
        ['no id', get(`${api}/jobs/0/artifacts`), 404],
        ['an id that numbers round', get(`${api}/jobs/9007199254740993/artifacts`), 404],
        ['an id that no number holds', get(`${api}/jobs/${'9'.repeat(40)}/artifacts`), 404],
        ['UTF-8', get(`${api}/jobs/${job.id}/artif\xc3\xa4cts`), 400],
        ['full-width dots', get(`${api}/jobs/\xef\xbc\x8e\xef\xbc\x8e/${theirs}`), 400],
        ['a NUL', get(`${api}/jobs/${job.id}\0/artifacts`), 400],
        ['a NUL, escaped', get(`${api}/jobs/${job.id}%00/artifacts`), 404],
        ['a fragment', get(`${api}/jobs/${job.id}/artifacts#/trace`), 404],
        ['another host in the path', get(`//gitlab.example${api}/jobs/${theirs}`), 403],
        ['absolute form', get(`http://gitlab.example${api}/jobs/${job.id}/artifacts`), 403],
        ['absolute form with our own host', get(`http://x${api}/jobs/${job.id}/artifacts`), 403],
        ['asterisk form', head('OPTIONS * HTTP/1.1'), 403],
        ['authority form', get('gitlab.example:443'), 400],
        ['upper case', get(`${api}/JOBS/${job.id}/artifacts`), 404],
        ['another version of the API', get(`/${api.split('/')[1]}/api/v3/jobs/${theirs}`), 404],
        ['no API', get(`/${api.split('/')[1]}/`), 404],
        ['overlong', get(`${api}/jobs/${job.id}/artifacts?expire_in=${'a'.repeat(3000)}`), 414],
        ['overlong beyond all', get(`${api}/${'a/'.repeat(20_000)}`), 431],
      ];
    }));

  test('method tricks', (t) =>
    refuses(t, ({ api, job }) => {
      const token = `JOB-TOKEN: ${job.token}`;
      const artifacts = `${api}/jobs/${job.id}/artifacts`;
      const with_ = (method: string): string => head(`${method} ${artifacts} HTTP/1.1`, token);
      const overridden = (header: string): string =>
        head(`GET ${artifacts} HTTP/1.1`, token, `${header}: DELETE`);
      return [
        ...['DELETE', 'HEAD', 'OPTIONS', 'TRACE', 'PROPFIND', 'QUERY'].map(
          (method): Row => [method, with_(method), 404],
        ),
        ['one that nobody knows', with_('GRAB'), 400],
        ['lower case', with_('get'), 400],
        ['CONNECT', head('CONNECT gitlab.example:443 HTTP/1.1'), null],
        ['CONNECT to the own path', with_('CONNECT'), null],
        ['PRI of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
        ['overridden', overridden('X-HTTP-Method-Override'), 400],
        ['overridden otherwise', overridden('X-HTTP-Method'), 400],
        ['overridden in yet another way', overridden('X-Method-Override'), 400],
        [
          'overridden in the query',
          head(`GET ${artifacts}?_method=DELETE HTTP/1.1`, token, 'Connection: close'),
          403,
        ],
        [
          'Upgrade',
          head(`GET ${artifacts} HTTP/1.1`, token, 'Connection: Upgrade', 'Upgrade: websocket'),
          400,
        ],
        [
          'Upgrade to HTTP/2',
          head(
            `GET ${artifacts} HTTP/1.1`,
            token,
            'Connection: Upgrade, HTTP2-Settings',
            'Upgrade: h2c',
            'HTTP2-Settings: AAMAAABkAAQAAP__',
          ),
          400,
        ],
        ['HTTP/1.0', `GET ${artifacts} HTTP/1.0\r\n${token}\r\n\r\n`, 505],
        ['HTTP/0.9', `GET ${artifacts}\r\n\r\n`, 505],
        ['HTTP/2.0', `GET ${artifacts} HTTP/2.0\r\n${token}\r\n\r\n`, 505],
        [
          'a body on GET',
          `${head(`GET ${artifacts} HTTP/1.1`, token, 'Content-Length: 2', 'Connection: close')}{}`,
          403,
        ],
      ];
    }));

  test('header tricks', (t) =>
    refuses(t, ({ api, job, other }) => {
      const key = `GET ${api}/jobs/${job.id}/runtime_environment_key HTTP/1.1`;
      const own = `JOB-TOKEN: ${job.token}`;
      const theirs = `JOB-TOKEN: ${other.job.token}`;
      return [
        ['the token twice', head(key, own, own), 400],
        ['another token after the own', head(key, own, theirs), 400],
        ['another token before the own', head(key, theirs, own), 400],
        ['another token in other letters', head(key, own, `job-token: ${other.job.token}`), 400],
        ['two hosts', head(key, own, 'Host: gitlab.example'), 400],
        ['no host', `${key}\r\n${own}\r\n\r\n`, 400],
        ['a list of tokens', head(key, `${own}, ${other.job.token}`, 'Connection: close'), 403],
        ['a fold', head(key, `X-A: b\r\n ${theirs}`, own), 400],
        ['a fold of the token', head(key, `JOB-TOKEN:\r\n ${job.token}`), 400],
        ['a space before the colon', head(key, `JOB-TOKEN : ${job.token}`), 400],
        ['a bare CR', head(key, own, `X-A: b\r${theirs}`), 400],
        ['a bare LF', head(key, own, `X-A: b\n${theirs}`), 400],
        ['lines that end in LF only', `${key}\nHost: x\n${own}\n\n`, 400],
        ['a NUL', head(key, own, 'X-A: b\0c'), 400],
        ['a name with a control character', head(key, own, 'X\x01A: b'), 400],
        ['no name', head(key, own, ': b'), 400],
        [
          'a header injected by the query',
          head(
            `${key.replace(' HTTP', '?expire_in=a%0d%0aJOB-TOKEN:b HTTP')}`,
            own,
            'Connection: close',
          ),
          403,
        ],
        ...['constructor', '__proto__', 'hasOwnProperty'].map(
          (name): Row => [
            `a name that objects know: ${name}`,
            head(key, theirs, `${name}: b`, 'Connection: close'),
            403,
          ],
        ),
        ['Authorization', head(key, own, 'Authorization: Bearer x', 'Connection: close'), 403],
        [
          'more headers than any runner has',
          head(key, own, ...Array.from({ length: 80 }, (_, n) => `X-${n}: x`)),
          431,
        ],
        ['endless headers', head(key, own, `X-A: ${'x'.repeat(20_000)}`), 431],
        ['endless names', head(key, own, ...Array.from({ length: 4000 }, (_, n) => `X${n}:`)), 431],
      ];
    }));

  test('two lengths, and other encodings', (t) =>
    refuses(t, ({ api, job, other }) => {
      const put = `PUT ${api}/jobs/${job.id} HTTP/1.1`;
      const type = 'Content-Type: application/json';
      const json = JSON.stringify({ token: job.token, state: 'success' });
      const length = `Content-Length: ${json.length}`;
      const chunked = `${json.length.toString(16)}\r\n${json}\r\n0\r\n\r\n`;
      const smuggled = head(
        `PUT /${other.guest.token}/api/v4/jobs/${other.job.id} HTTP/1.1`,
        'Content-Length: 2',
      );
      const te = (value: string, body = chunked): string =>
        head(put, type, `Transfer-Encoding: ${value}`) + body;
      return [
        ['two lengths', head(put, type, length, 'Content-Length: 0') + json, 400],
        ['the same length twice', head(put, type, length, length) + json, 400],
        ['a list of lengths', head(put, type, `${length}, ${json.length}`) + json, 400],
        ['a length with a sign', head(put, type, `Content-Length: +${json.length}`) + json, 400],
        ['a length in hexadecimal', head(put, type, 'Content-Length: 0x5') + json, 400],
        ['a length below zero', head(put, type, 'Content-Length: -1') + json, 400],
        ['a length beyond all', head(put, type, `Content-Length: ${'9'.repeat(30)}`) + json, 400],
        ['length and chunks', head(put, type, length, 'Transfer-Encoding: chunked') + chunked, 400],
        ['chunks and length', head(put, type, 'Transfer-Encoding: chunked', length) + chunked, 400],
        ['chunked, identity', te('chunked, identity'), 400],
        ['identity', te('identity', json), 400],
        ['xchunked', te('xchunked'), 400],
        ['gzip, chunked', te('gzip, chunked'), 400],
        ['chunked twice', te('chunked, chunked'), 400],
        [
          'chunked in two headers',
          head(put, type, 'Transfer-Encoding: chunked', 'Transfer-Encoding: x') + chunked,
          400,
        ],
        ['a tab before chunked', te('\x0bchunked'), 400],
        ['a chunk’s size with a sign', te('chunked', `+${chunked}`), 400],
        ['a chunk’s size in 0x', te('chunked', `0x${chunked}`), 400],
        ['a chunk’s size beyond all', te('chunked', `${'f'.repeat(20)}\r\n${json}`), 400],
        ['a chunk that is longer than it says', te('chunked', `2\r\n${json}\r\n0\r\n\r\n`), 400],
        ['chunk lines that end in LF', te('chunked', chunked.replaceAll('\r\n', '\n')), 400],
        ['a flood of chunk extensions', te('chunked', `1;${'a=b;'.repeat(10_000)}\r\n{\r\n`), 413],
        [
          'endless trailers',
          te('chunked', `${chunked.slice(0, -2)}${'X-A: b\r\n'.repeat(5000)}\r\n`),
          431,
        ],
        ['a call behind a refused body', head(put, type, 'Content-Length: 5') + smuggled, 400],
        ['a call behind a refused call', head(`GET ${api}/user HTTP/1.1`) + smuggled, 404],
        [
          'a call behind an unread body',
          head('PUT /x/api/v4/jobs/1 HTTP/1.1', type, 'Content-Length: 0') + smuggled,
          403,
        ],
        ['a compressed body', head(put, type, length, 'Content-Encoding: gzip') + json, 415],
        [
          'a compressed log',
          `${head(
            `PATCH ${api}/jobs/${job.id}/trace HTTP/1.1`,
            `JOB-TOKEN: ${job.token}`,
            'Content-Encoding: deflate',
            'Content-Length: 1',
          )}x`,
          415,
        ],
        [
          'trailers that no request has',
          te('chunked', `${chunked.slice(0, -2)}Content-Length: 5\r\nHost: x\r\n\r\n`),
          400,
        ],
        ['no expectation at all', head(put, type, length, 'Expect:') + json, 417],
        ['an expectation that nobody knows', head(put, type, length, 'Expect: 200-ok') + json, 417],
        [
          'an expectation of a stranger',
          head('PUT /x/api/v4/jobs/1 HTTP/1.1', type, length, 'Expect: 100-continue'),
          403,
        ],
        [
          'an expectation of an old version',
          head(put.replace('1.1', '1.0'), type, length, 'Expect: 100-continue') + json,
          505,
        ],
        ['what a proxy says before it', `PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n${head(put)}`, 400],
        ['TLS', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 400],
      ];
    }));
});
