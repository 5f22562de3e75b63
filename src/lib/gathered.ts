/** One run of a task for all who ask at about the same time. */

/**
 * The task, never run twice at once. Who asks while it runs waits for the next run, together with all others: each
 * answer is of a run that began after it was asked for.
 */
export function gathered(task: () => Promise<void>): () => Promise<void> {
  let last: Promise<unknown> = Promise.resolve();
  let next: Promise<void> | null = null;
  return () => {
    if (next === null) {
      next = last.then(() => {
        next = null;
        return task();
      });
      last = next.catch(() => undefined);
    }
    return next;
  };
}
