/** What may reach GitLab out of a machine, whatever the machine says. */

import type { SimRequest } from '../../fixtures/gitlab/index.ts';
import type { Speaker } from './exchanges.ts';

interface Rule {
  readonly method: string;
  readonly path: RegExp;
  readonly type: RegExp | null;
  readonly query: readonly string[];
}

const RULES: readonly Rule[] = [
  { method: 'PUT', path: /^$/, type: /^application\/json\b/, query: [] },
  { method: 'PATCH', path: /^\/trace$/, type: /^text\/plain\b/, query: ['debug_trace'] },
  {
    method: 'POST',
    path: /^\/artifacts$/,
    type: /^multipart\/form-data\b/,
    query: ['artifact_format', 'artifact_type', 'expire_in', 'accessibility'],
  },
  { method: 'GET', path: /^\/artifacts$/, type: null, query: ['direct_download'] },
  { method: 'GET', path: /^\/runtime_environment_key$/, type: null, query: [] },
];

const HEADERS = new Set([
  'accept',
  'accept-encoding',
  'connection',
  'content-length',
  'content-range',
  'content-type',
  'host',
  'if-none-match',
  'if-range',
  'job-token',
  'range',
  'transfer-encoding',
  'user-agent',
  'x-request-id',
]);

/** What is wrong with a request that GitLab has seen; undefined: it is within that speaker's lease. */
export function offenceOf(request: SimRequest, speakers: readonly Speaker[]): string | undefined {
  // What the plugin says itself, of jobs whose machine has not spoken yet or speaks no more.
  if (request.headers.some(([, value]) => value.startsWith('forrest-gitlab '))) return undefined;
  const [, id = '', rest = ''] = /\/api\/v4\/jobs\/(\d+)([^?]*)/.exec(request.target) ?? [];
  const speaker = speakers.find((one) => String(one.jobId) === id);
  if (speaker === undefined) return 'not for a job of the speaker';
  if (!request.target.startsWith(`/gitlab/api/v4/jobs/${id}`)) return 'below another address';
  const rule = RULES.find(({ method, path }) => method === request.method && path.test(rest));
  if (rule === undefined) return 'no route';
  const query = [...new URL(request.target, 'http://x').searchParams.keys()];
  if (!query.every((name) => rule.query.includes(name))) return 'a parameter that no runner has';
  const names = request.headers.map(([name]) => name.toLowerCase());
  if (new Set(names).size !== names.length) return 'a header twice';
  const odd = names.find((name) => !HEADERS.has(name));
  if (odd !== undefined) return `the header ${odd}`;
  const value = (wanted: string): string | undefined =>
    request.headers.find(([name]) => name.toLowerCase() === wanted)?.[1];
  if (value('job-token') !== speaker.jobToken) return 'not the job’s token';
  const type = value('content-type');
  if (rule.type === null ? type !== undefined : !rule.type.test(type ?? '')) return 'another type';
  if ((request.target + request.headers.join('\n')).includes(speaker.vmToken))
    return 'the VM token';
  if (rule.method !== 'PUT') return undefined;
  const { token } = JSON.parse(request.body.toString()) as { token?: unknown };
  // Without one, GitLab goes by the header's.
  const isRight = token === undefined || token === speaker.jobToken;
  return isRight ? undefined : 'another token in the body';
}
