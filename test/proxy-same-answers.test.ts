/**
 * The same answers to the runner as GitLab would give: each exchange over raw sockets, once with GitLab
 * itself and once through the proxy, compared byte for byte. What may differ: how the connection goes
 * on (hop-by-hop headers, where chunks begin), where the length stands, and headers that no runner reads, which are dropped.
 */

import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { within } from './support/deadline.ts';
import { exchangeRaw, startFrontRig } from './support/front.ts';

type RouteKey = 'PUT' | 'PATCH' | 'POST' | 'GET' | 'KEY';

const DATE = 'Date: Wed, 01 Jan 2025 00:00:00 GMT';
const ID = 'X-Request-Id: 01JGFJ0000000000000000';
const JSON_TYPE = 'Content-Type: application/json';

/** Route, status line, headers, body (null: none; an array: in chunks). */
const ROWS: ReadonlyArray<
  readonly [RouteKey, string, readonly string[], string | readonly string[] | null]
> = [
  ['PUT', '200 OK', [JSON_TYPE, 'Job-Status: running'], '200'],
  ['PUT', '200 OK', ['Job-Status: canceling'], null],
  [
    'PUT',
    '202 Accepted',
    [JSON_TYPE, 'Job-Status: running', 'X-GitLab-Trace-Update-Interval: 64'],
    '202',
  ],
  ['PUT', '204 No Content', ['Job-Status: running'], null],
  ['PUT', '400 Bad Request', [JSON_TYPE], '{"error":"state does not have a valid value"}'],
  ['PUT', '401 Unauthorized', [JSON_TYPE], '{"message":"401 Unauthorized"}'],
  ['PUT', '403 Forbidden', [JSON_TYPE], '{"message":"403 Forbidden"}'],
  ['PUT', '409 Conflict', [JSON_TYPE, 'Job-Status: running'], '{"message":"409 Conflict"}'],
  ['PUT', '412 Precondition Failed', [], null],
  ['PUT', '200 Fine By Me', [JSON_TYPE, 'job-status: running'], ['2', '00']],
  [
    'PATCH',
    '202 Accepted',
    [JSON_TYPE, 'Job-Status: running', 'Range: 0-3', 'X-GitLab-Trace-Update-Interval: 3'],
    '202',
  ],
  [
    'PATCH',
    '416 Range Not Satisfiable',
    [JSON_TYPE, 'Job-Status: running', 'Range: 0-1234'],
    '{"message":"416 Range Not Satisfiable"}',
  ],
  ['PATCH', '400 Bad Request', [JSON_TYPE], '{"message":"400 Bad request"}'],
  ['PATCH', '403 Forbidden', [JSON_TYPE], '{"message":"403 Forbidden - Job trace size exceeded"}'],
  ['PATCH', '409 Conflict', ['Job-Status: running'], ''],
  ['PATCH', '413 Request Entity Too Large', ['Content-Type: text/html'], '<html>413</html>'],
  ['POST', '201 Created', [JSON_TYPE], '{"id":5,"file_type":"archive"}'],
  ['POST', '204 No Content', [], null],
  ['POST', '307 Temporary Redirect', ['Location: https://other.example/x?y=%2Fz'], ''],
  ['POST', '400 Bad Request', [JSON_TYPE], '{"message":"400 Bad request"}'],
  ['POST', '403 Forbidden', [JSON_TYPE], '{"message":"403 Forbidden"}'],
  ['POST', '405 Method Not Allowed', [JSON_TYPE], '{"message":"405 Method Not Allowed"}'],
  ['POST', '413 Payload Too Large', [JSON_TYPE], '{"message":"413 Request Entity Too Large"}'],
  [
    'GET',
    '200 OK',
    [
      'Content-Type: application/zip',
      `Content-Disposition: attachment; filename="a.zip"; filename*=UTF-8''a.zip`,
      'ETag: "abc"',
      'Cache-Control: no-store',
      'Accept-Ranges: bytes',
    ],
    'PK\u0003\u0004 and so on',
  ],
  ['GET', '200 OK', ['Content-Disposition: attachment; filename="größe €.zip"'], 'PK'],
  ['GET', '200 OK', ['Content-Type: application/zip'], ['PK', '\u0003\u0004', ' in chunks']],
  ['GET', '206 Partial Content', ['Content-Range: bytes 0-0/20000000'], 'P'],
  ['GET', '302 Found', ['Location: https://storage.example/a?signature=b%2Bc'], ''],
  ['GET', '307 Temporary Redirect', ['Location: http://[::1]:9/A?b'], null],
  ['GET', '401 Unauthorized', [JSON_TYPE], '{"message":"401 Unauthorized"}'],
  ['GET', '403 Forbidden', [JSON_TYPE], '{"message":"403 Forbidden"}'],
  ['GET', '404 Not Found', [JSON_TYPE], '{"message":"404 Not Found"}'],
  ['GET', '404 Not Found', ['Content-Type: text/html'], '<html>of a box in between</html>'],
  ['KEY', '200 OK', [JSON_TYPE], '{"runtime_environment_key":"k"}'],
  ['KEY', '404 Not Found', [JSON_TYPE], '{"message":"404 Not Found"}'],
];

/** Documented as dropped: nothing of them is for a runner. */
const DROPPED = [
  'Server: nginx',
  'Set-Cookie: _gitlab_session=1; secure',
  'Strict-Transport-Security: max-age=31536000',
  'X-Frame-Options: SAMEORIGIN',
  'X-Gitlab-Meta: {"version":"1"}',
  'Via: 1.1 box',
];

/** The proxy puts it last. */
const LENGTH = /^content-length:/i;

const HOP_BY_HOP = /^(connection|keep-alive|transfer-encoding):/i;

function rawAnswer([, status, headers, body]: (typeof ROWS)[number]): string {
  const head = (length: string): string =>
    [`HTTP/1.1 ${status}`, DATE, ...DROPPED, ID, length, ...headers, 'Connection: close'].join(
      '\r\n',
    );
  if (body === null) return `${head('Content-Length: 0')}\r\n\r\n`;
  if (typeof body === 'string') {
    return `${head(`Content-Length: ${Buffer.byteLength(body)}`)}\r\n\r\n${body}`;
  }
  const chunks = body.map((chunk) => `${Buffer.byteLength(chunk).toString(16)}\r\n${chunk}\r\n`);
  return `${head('Transfer-Encoding: chunked')}\r\n\r\n${chunks.join('')}0\r\n\r\n`;
}

/** A raw answer without what may differ. */
function comparable(raw: Buffer): object {
  const text = raw.toString('latin1');
  const at = text.indexOf('\r\n\r\n');
  const [status, ...headers] = text.slice(0, at).split('\r\n');
  const chunked = headers.some((header) => /^transfer-encoding: chunked$/i.test(header));
  const body = text.slice(at + 4);
  return {
    status,
    headers: headers
      .filter((one) => !HOP_BY_HOP.test(one) && !DROPPED.includes(one))
      .toSorted((one, other) => Number(LENGTH.test(one)) - Number(LENGTH.test(other))),
    chunked,
    body: chunked ? unchunked(body) : body,
  };
}

function unchunked(text: string): string {
  const line = text.indexOf('\r\n');
  const size = Number.parseInt(text.slice(0, line), 16);
  if (size === 0) return '';
  return text.slice(line + 2, line + 2 + size) + unchunked(text.slice(line + 2 + size + 2));
}

suite('the same answers to the official runner as GitLab would give', () => {
  test('route by route', async (t) => {
    const { rig, url, answer } = await startFrontRig(t);
    const { job, guest } = await rig.running();
    const request = (base: string, route: RouteKey, name: string): string => {
      const prefix = `${new URL(base).pathname}/api/v4/jobs/${job.id}`;
      const head = (method: string, path: string, headers: readonly string[]): string =>
        [
          `${method} ${prefix}${path} HTTP/1.1`,
          'Host: gitlab.example',
          `User-Agent: front ${name}`,
          `Job-Token: ${job.token}`,
          'Connection: close',
          ...headers,
          '',
          '',
        ].join('\r\n');
      const sized = (body: string, type: string): string[] => [
        `Content-Length: ${body.length}`,
        `Content-Type: ${type}`,
      ];
      const update = JSON.stringify({ token: job.token, state: 'running' });
      switch (route) {
        case 'PUT':
          return head('PUT', '', sized(update, 'application/json')) + update;
        case 'PATCH':
          return `${head('PATCH', '/trace', [...sized('abc', 'text/plain'), 'Content-Range: 0-2'])}abc`;
        case 'POST':
          return `${head('POST', '/artifacts', [
            'Content-Type: multipart/form-data; boundary=b',
            'Transfer-Encoding: chunked',
          ])}5\r\n--b--\r\n0\r\n\r\n`;
        case 'GET':
          return head('GET', '/artifacts', []);
        case 'KEY':
          return head('GET', '/runtime_environment_key', []);
        default:
          return route satisfies never;
      }
    };
    for (const [index, row] of ROWS.entries()) {
      const [route, status] = row;
      await t.test(`${route}: ${status}`, async () => {
        const raw = rawAnswer(row);
        answer(`row-${index}`, (incoming) => {
          incoming.resume();
          incoming.once('end', () => incoming.socket.end(raw));
        });
        const ask = (base: string): Promise<Buffer> =>
          within('an answer', exchangeRaw(base, request(base, route, `row-${index}`)));
        const direct = await ask(url);
        assert.equal(direct.toString(), raw, 'the direct one is what was written');
        const proxied = await ask(guest.url);
        assert.deepEqual(comparable(proxied), comparable(direct));
        for (const dropped of DROPPED) assert.ok(!proxied.includes(dropped));
      });
    }
    assert.equal(rig.row(job)?.state, 'running');
  });
});
