/** How much may wait for GitLab: calls and the bytes that are kept for repeating them. */

/** A runner has one log loop, and its uploads and downloads follow each other; the rest is a job's own doing. */
export const MAX_HELD_CALLS_PER_VM = 16;

/** A socket and some KiB each; more than a thousand machines on one host are not to be expected. */
export const MAX_HELD_CALLS = 4096;

/** A runner sends at most 1 MiB of log at once, and waits for the answer. */
export const MAX_KEPT_BYTES_PER_VM: number = 2 * 1024 * 1024;

/** Beside what a host's machines take, nothing. */
export const MAX_KEPT_BYTES: number = 64 * 1024 * 1024;

/** A larger `PATCH` than any runner sends is streamed, and not repeated. */
export const MAX_REPEATED_BYTES: number = 1024 * 1024;

class Bound {
  readonly #perVm = new Map<string, number>();
  readonly #most: number;
  readonly #mostPerVm: number;
  readonly #changed: (all: number) => void;
  #all = 0;

  constructor(most: number, mostPerVm: number, changed: (all: number) => void = () => undefined) {
    this.#most = most;
    this.#mostPerVm = mostPerVm;
    this.#changed = changed;
  }

  take(vm: string, amount: number): boolean {
    const own = (this.#perVm.get(vm) ?? 0) + amount;
    if (own > this.#mostPerVm || this.#all + amount > this.#most) return false;
    this.#perVm.set(vm, own);
    this.#all += amount;
    this.#changed(this.#all);
    return true;
  }

  give(vm: string, amount: number): void {
    const own = (this.#perVm.get(vm) ?? 0) - amount;
    if (own > 0) this.#perVm.set(vm, own);
    else this.#perVm.delete(vm);
    this.#all -= amount;
    this.#changed(this.#all);
  }
}

/** Keyed by the machine's name; everything taken is to be given back. */
export class Held {
  readonly calls: Bound;
  readonly bytes: Bound = new Bound(MAX_KEPT_BYTES, MAX_KEPT_BYTES_PER_VM);

  /** `changed` is told how many calls wait. */
  constructor(changed: (calls: number) => void) {
    this.calls = new Bound(MAX_HELD_CALLS, MAX_HELD_CALLS_PER_VM, changed);
  }
}
