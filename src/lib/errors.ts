/** Turning whatever was thrown into an Error, and an Error into one line. */

/** The value itself where it is an Error; else an Error that names it. */
export function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown), { cause: thrown });
}

/** The message with the messages of its causes, outermost first, on one line. */
export function describeError(thrown: unknown): string {
  const parts: string[] = [];
  let current: unknown = toError(thrown);
  while (current instanceof Error && parts.length < 5) {
    const text = current.message === '' ? errorCode(current) : current.message;
    if (text !== undefined && !parts.some((part) => part.includes(text))) parts.push(text);
    current = current.cause;
  }
  return parts.join(': ');
}

/** The system's code of an error, such as `ECONNREFUSED`, looked for along its causes. */
export function errorCode(thrown: unknown): string | undefined {
  let current: unknown = thrown;
  for (let depth = 0; current instanceof Error && depth < 5; depth++) {
    if ('code' in current && typeof current.code === 'string') return current.code;
    current = current.cause;
  }
  return undefined;
}
