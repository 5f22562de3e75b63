/** JSON that everyone reads alike: one object, in which nothing is named twice. */

const STRICT_UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Names whose value GitLab might take for another job, another token or another method. */
const MISLEADING = /^(?:_method|id|job_id|[a-z_]+_token)$/;

/**
 * The object, or undefined. GitLab gets the very bytes, so what parsers disagree on is refused: broken
 * UTF-8, a name that stands twice (escaped or not), at any depth.
 */
export function parseStrictObject(body: Uint8Array): Readonly<Record<string, unknown>> | undefined {
  let value: unknown;
  let text: string;
  try {
    text = STRICT_UTF8.decode(body);
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  if (namesTwice(text) || Object.keys(value).some((name) => MISLEADING.test(name)))
    return undefined;
  return value as Record<string, unknown>;
}

/** Strings, and what opens, closes and separates; numbers and words name nothing. */
const TOKENS = /"(?:[^"\\]|\\.)*"|[{}[\]:]/g;

/** Of valid JSON: whether an object in it has a name twice. */
function namesTwice(text: string): boolean {
  const open: (Set<string> | null)[] = [];
  let last = '';
  for (const [token] of text.matchAll(TOKENS)) {
    if (token === '{') open.push(new Set());
    else if (token === '[') open.push(null);
    else if (token === '}' || token === ']') open.pop();
    else if (token === ':') {
      const names = open.at(-1);
      const name = JSON.parse(last) as string;
      if (names?.has(name)) return true;
      names?.add(name);
    }
    last = token;
  }
  return false;
}
