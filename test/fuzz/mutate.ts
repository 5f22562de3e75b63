/** From a request that is right to one that is not, or not quite. One character is one byte. */

import type { Speaker } from './exchanges.ts';
import type { Chance } from './random.ts';

/** What is not the speaker's. */
export interface Foreign {
  readonly tokens: readonly string[];
  readonly jobIds: readonly number[];
}

type Mutation = (request: string, chance: Chance, foreign: Foreign, speaker: Speaker) => string;

const HEADERS = [
  'Content-Length: 0',
  'Content-Length: 99999999999',
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: gzip, chunked',
  'Transfer-Encoding:\x0bchunked',
  'Connection: close',
  'Connection: upgrade, JOB-TOKEN',
  'Upgrade: h2c',
  'Expect: 100-continue',
  'Expect: x',
  'Expect:',
  'TE: trailers',
  'Proxy-Connection: close',
  'Content-Encoding: gzip',
  'Content-Type: application/x-www-form-urlencoded',
  'X-HTTP-Method-Override: DELETE',
  'Host: gitlab.example',
  'Range: bytes=0-',
  'Content-Range: 5-9',
  'Trailer: JOB-TOKEN',
  'Cookie: a=b',
  'constructor: a',
  '__proto__: a',
] as const;

const PATH_PIECES = ['/..', '/%2e%2e', '//', '%2f', '\\', ';a=b', '%00', '#', '?', '\xc3\xa4', '@'];
const METHODS = ['GET', 'PUT', 'PATCH', 'POST', 'DELETE', 'HEAD', 'TRACE', 'CONNECT', 'put', 'X'];
const JSON_PIECES = [
  '"token":"x",',
  '"tok\\u0065n":"x",',
  '"id":1,',
  '[',
  '}',
  '\\u0000',
  '\xff',
  '"__proto__":{},',
];

const MUTATIONS: readonly Mutation[] = [
  (request, chance) => splice(request, chance.below(request.length), 1, anyByte(chance)),
  (request, chance) => splice(request, chance.below(request.length), chance.below(40), ''),
  (request, chance) => {
    const at = chance.below(request.length);
    return splice(request, at, 0, request.slice(at, at + chance.below(200)));
  },
  (request, chance) =>
    splice(request, chance.below(request.length), 0, chance.bytes(20).toString('latin1')),
  (request, chance) => request.slice(0, chance.below(request.length)),
  (request) => request.replaceAll('\r\n', '\n'),
  (request, chance) => inHead(request, chance, chance.pick(HEADERS)),
  (request, chance) => {
    const lines = headOf(request).split('\r\n').slice(1);
    return inHead(request, chance, lines.length === 0 ? '' : chance.pick(lines));
  },
  (request, chance, foreign) =>
    inHead(
      request,
      chance,
      `${chance.pick(['JOB-TOKEN', 'PRIVATE-TOKEN', 'RUNNER-TOKEN', 'Job_Token'])}: ${chance.pick(foreign.tokens)}`,
    ),
  (request, chance, foreign, { jobToken }) =>
    replaceOne(request, chance, jobToken, chance.pick(foreign.tokens)),
  (request, chance, foreign, { jobId }) =>
    replaceOne(request, chance, `/jobs/${jobId}`, `/jobs/${chance.pick(foreign.jobIds)}`),
  (request, chance, foreign, { vmToken }) =>
    replaceOne(request, chance, vmToken, chance.pick([...foreign.tokens, '', 'x', '..'])),
  (request, chance) => request.replace(/^\S+/, chance.pick(METHODS)),
  (request, chance) =>
    request.replace(/HTTP\/1\.1/, chance.pick(['HTTP/1.0', 'HTTP/2.0', 'HTTP/1.1 ', ''])),
  (request, chance, foreign) => {
    const name = chance.pick([
      'token',
      'token[]',
      '%74oken',
      'job_token',
      'id',
      '_method',
      'debug_trace',
    ]);
    return request.replace(/^(\S+ [^\s?]*)\??/, `$1?${name}=${chance.pick(foreign.tokens)}&`);
  },
  (request, chance) => {
    const end = request.indexOf(' HTTP/');
    return end < 1 ? request : splice(request, chance.below(end), 0, chance.pick(PATH_PIECES));
  },
  (request, chance) => {
    const body = request.indexOf('\r\n\r\n') + 4;
    return splice(request, body + chance.below(request.length - body), 0, chance.pick(JSON_PIECES));
  },
  (request, chance) =>
    request.replace(/Content-Length: \d+/, `Content-Length: ${chance.below(5000)}`),
  // Behind a body in chunks, these are trailers.
  (request, chance) => request.replace(/0\r\n\r\n$/, `0;a="b"\r\n${chance.pick(HEADERS)}\r\n\r\n`),
  (request) => request + request,
];

/** One to four of them, one after the other; sometimes none. */
export function mutate(
  request: string,
  chance: Chance,
  foreign: Foreign,
  speaker: Speaker,
): string {
  let mutated = request;
  for (let count = chance.below(5); count > 0; count -= 1) {
    if (mutated === '') break;
    mutated = chance.pick(MUTATIONS)(mutated, chance, foreign, speaker);
  }
  return mutated;
}

function headOf(request: string): string {
  return request.split('\r\n\r\n', 1)[0] ?? '';
}

function inHead(request: string, chance: Chance, line: string): string {
  const lines = headOf(request).split('\r\n');
  const at = 1 + chance.below(lines.length);
  return request.replace(headOf(request), () => lines.toSpliced(at, 0, line).join('\r\n'));
}

function splice(text: string, at: number, remove: number, insert: string): string {
  return text.slice(0, at) + insert + text.slice(at + remove);
}

function replaceOne(text: string, chance: Chance, what: string, by: string): string {
  const parts = text.split(what);
  if (parts.length < 2) return text;
  const at = 1 + chance.below(parts.length - 1);
  return `${parts.slice(0, at).join(what)}${by}${parts.slice(at).join(what)}`;
}

function anyByte(chance: Chance): string {
  return String.fromCharCode(chance.below(256));
}
