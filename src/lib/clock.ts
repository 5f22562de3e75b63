/** Time as an injected dependency, so that tests decide how it passes. */

/** A timer that can be cancelled. */
export interface Timer {
  /** Cancels the timer; does nothing once it has fired. */
  cancel(): void;
}

/** Wall time for people and files, monotonic time for durations, timers for both. */
export interface Clock {
  /** Wall clock in ms since the epoch. May jump; never compute a duration from it. */
  now(): number;
  /** Monotonic time in ms, from this host's boot on: differences mean something between processes, too. */
  monotonic(): number;
  /** Calls `callback` once after `delayMs` (none where that is negative, 24 days at most), and after everything that has arrived by then. */
  after(delayMs: number, callback: () => void): Timer;
}

/** Of Node's timers: what is longer would be over at once. */
const LONGEST_MS = 2 ** 31 - 1;

/** The process's real time. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => Number(process.hrtime.bigint()) / 1e6,
  after(delayMs, callback) {
    let last: NodeJS.Immediate | undefined;
    // A process that was stopped for longer finds what it waits for in its sockets: those are read in between.
    const timeout = setTimeout(
      () => {
        last = setImmediate(callback);
      },
      Math.min(Math.max(0, delayMs), LONGEST_MS),
    );
    return {
      cancel() {
        clearTimeout(timeout);
        clearImmediate(last);
      },
    };
  },
};

/** Resolves after `delayMs`, or at once when the signal aborts; never rejects. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const finish = (): void => {
      timer.cancel();
      signal?.removeEventListener('abort', finish);
      resolve();
    };
    const timer = clock.after(delayMs, finish);
    signal?.addEventListener('abort', finish, { once: true });
  });
}
