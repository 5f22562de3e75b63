/** When the runner tokens expire: asked at start and once a day, told a week ahead. */

import { type RunnerConfig, readTokenFile } from '../config/index.ts';
import type { Logger } from '../contract/index.ts';
import type { VerifyOutcome } from '../gitlab/index.ts';
import type { Clock, Timer } from '../lib/clock.ts';

const DAY_MS = 24 * 3600 * 1000;

/** From when on an operator is to be told. */
export const EXPIRY_WARNING_MS: number = 7 * DAY_MS;

export interface TokenExpiryServices {
  readonly clock: Clock;
  readonly log: Logger;
  /** Until GitLab is asked again that did not answer, in ms. */
  readonly retryMs: number;
  verify(runner: RunnerConfig, token: string): Promise<VerifyOutcome>;
}

export class TokenExpiry {
  readonly #services: TokenExpiryServices;
  readonly #known = new Map<string, number | null>();
  readonly #timers = new Map<string, Timer>();
  #stopped = false;

  constructor(services: TokenExpiryServices) {
    this.#services = services;
  }

  /** By the runner's name, wall clock in ms; null: never. */
  get known(): ReadonlyMap<string, number | null> {
    return this.#known;
  }

  /** From now on exactly these runners. */
  watch(runners: readonly RunnerConfig[]): void {
    for (const [name, timer] of this.#timers) {
      if (runners.some((runner) => runner.name === name)) continue;
      timer.cancel();
      this.#timers.delete(name);
      this.#known.delete(name);
    }
    for (const runner of runners) {
      if (!this.#timers.has(runner.name)) this.#askAfter(0, runner);
    }
  }

  /** GitLab has told it, whoever asked. */
  note(runner: string, expiresAt: Date | null): void {
    const { clock, log } = this.#services;
    this.#known.set(runner, expiresAt?.getTime() ?? null);
    if (expiresAt === null || expiresAt.getTime() - clock.now() > EXPIRY_WARNING_MS) return;
    log.warn(
      `the token of runner ${runner} expires at ${expiresAt.toISOString()}: make a new one in GitLab and put it into its token file, which is read again when it changes`,
      { runner },
    );
  }

  stop(): void {
    this.#stopped = true;
    for (const timer of this.#timers.values()) timer.cancel();
  }

  #askAfter(delayMs: number, runner: RunnerConfig): void {
    if (this.#stopped) return;
    const { clock, log, retryMs } = this.#services;
    const timer = clock.after(delayMs, () => {
      void this.#ask(runner)
        .catch((error: unknown) => {
          log.error(`when the token of runner ${runner.name} expires cannot be told`, { error });
          return retryMs;
        })
        .then((nextMs) => {
          // Another one has taken its place, or nobody wants to know any more.
          if (this.#timers.get(runner.name) === timer) this.#askAfter(nextMs, runner);
        });
    });
    this.#timers.set(runner.name, timer);
  }

  /** Resolves with when to ask again. What is wrong with a token its claimer says. */
  async #ask(runner: RunnerConfig): Promise<number> {
    const read = await readTokenFile(runner.tokenFile);
    if (!read.ok) return this.#services.retryMs;
    const outcome = await this.#services.verify(runner, read.token);
    if (outcome.kind === 'retry') return this.#services.retryMs;
    if (outcome.kind === 'valid') this.note(runner.name, outcome.tokenExpiresAt);
    return DAY_MS;
  }
}
