/** The query of a call: what is GitLab's to know passes as it came, a token is found, the rest stays here. */

import type { RouteName } from './routes.ts';

export interface ReadQuery {
  /** With its question mark where there was one; never a token. */
  readonly search: string;
  /** The value of `token`. */
  readonly token: string | undefined;
}

/** What runners of 15.x to 19.x ask with, and what GitLab documents for these routes. */
const PASSES: Readonly<Record<RouteName, readonly string[]>> = {
  'jobs-request': [],
  'runners-verify': [],
  update: [],
  trace: ['debug_trace'],
  'artifacts-upload': ['artifact_format', 'artifact_type', 'expire_in', 'accessibility'],
  'artifacts-download': ['direct_download'],
  'runtime-environment-key': [],
};

/** Plain names only: `token[]`, `token[x]`, `%74oken` and `a;token` are none. */
const PAIR = /^([a-z_]{1,40})=([A-Za-z0-9_.~*+%-]{0,512})$/;

/** What Rack or Grape could take for another job, another token or another method. */
const MISLEADING = /token|^_method$|^(?:job_|runner_|project_)?id$/;

/** Undefined where it holds what no runner sends, and what GitLab might read in another way than we. */
export function readQuery(route: RouteName, search: string): ReadQuery | undefined {
  if (search === '' || search === '?') return { search, token: undefined };
  const passing: string[] = [];
  const seen = new Set<string>();
  let token: string | undefined;
  for (const pair of search.slice(1).split('&')) {
    const [, name = '', value = ''] = PAIR.exec(pair) ?? [];
    const decoded = decode(value);
    if (name === '' || decoded === undefined || seen.has(name)) return undefined;
    seen.add(name);
    if (name === 'token') token = decoded;
    else if (MISLEADING.test(name)) return undefined;
    else if (PASSES[route].includes(name)) passing.push(pair);
  }
  return { search: passing.length === 0 ? '' : `?${passing.join('&')}`, token };
}

/** Undefined: broken, or with what belongs into no value. */
function decode(value: string): string | undefined {
  try {
    const decoded = decodeURIComponent(value.replaceAll('+', ' '));
    return /\p{Cc}/u.test(decoded) ? undefined : decoded;
  } catch {
    return undefined;
  }
}
