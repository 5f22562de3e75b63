/** JSON that everyone reads alike: one object, in which nothing is named twice. */

const STRICT_UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Names whose value GitLab might take for another job, another token or another method. */
const MISLEADING = /^(?:_method|id|job_id|[a-z_]+_token)$/;

/** A runner's have three. */
const MAX_LEVELS = 32;

/** Values and names: a runner's have fifty. Each takes time, the more the more of them there are. */
const MAX_PARTS = 1000;

/**
 * The object, or undefined. GitLab gets the very bytes, so what parsers disagree on is refused: broken
 * UTF-8, a name that stands twice (escaped or not), at any depth; and a depth or a number of values
 * that no runner sends.
 */
export function parseStrictObject(body: Uint8Array): Readonly<Record<string, unknown>> | undefined {
  let value: unknown;
  try {
    const text = STRICT_UTF8.decode(body);
    const names = countNames(text);
    value = JSON.parse(text);
    // Of those that stand twice, one is lost.
    if (countNames(JSON.stringify(value)) < names) return undefined;
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  if (Object.keys(value).some((name) => MISLEADING.test(name))) return undefined;
  return value as Record<string, unknown>;
}

/** In all of a JSON text: its colons, strings aside. Looking at each name would take several times as long. */
function countNames(text: string): number {
  let names = 0;
  let parts = 0;
  let level = 0;
  let isInString = false;
  for (let at = 0; at < text.length; at += 1) {
    const char = text[at];
    // Only strings hold it; what it escapes ends none.
    if (char === '\\') at += 1;
    else if (char === '"') isInString = !isInString;
    else if (isInString) continue;
    else if (char === ':') names += 1;
    else if (char === ',') parts += 1;
    else if (char === '}' || char === ']') level -= 1;
    else if (char === '{' || char === '[') {
      level += 1;
      parts += 1;
    }
    if (level > MAX_LEVELS || parts > MAX_PARTS) throw new RangeError('more than runners send');
  }
  return names;
}
