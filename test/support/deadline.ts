/** Waits with a deadline and a label, so that a regression fails in a sentence. */

/** Rejects with the label where the promise has not settled in time. */
export async function within<T>(
  label: string,
  promise: Promise<T>,
  timeoutMs = 10_000,
): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => reject(new Error(`not within ${timeoutMs} ms: ${label}`)),
    timeoutMs,
  );
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Asks again and again until the answer is neither undefined nor false. */
export async function eventually<T>(
  label: string,
  ask: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = 10_000,
): Promise<T> {
  const until = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (performance.now() > until) throw new Error(`not within ${timeoutMs} ms: ${label}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Resolves with a number, above zero, once it has not changed for a while. */
export function standing(label: string, read: () => number, forMs = 200): Promise<number> {
  let before = 0;
  return eventually(label, async () => {
    const now = read();
    const same = now > 0 && now === before;
    before = now;
    await new Promise((resolve) => setTimeout(resolve, forMs));
    return same && now;
  });
}
