/** Keeps a runner visible in GitLab, and its token's expiry known: `runners/verify`, where no ask does that. */

import type { Timer } from '../lib/clock.ts';
import type { RunnerHealth } from './runner-health.ts';
import type { ClaimerServices, ClaimerSettings } from './services.ts';

/** A token is renewed now and then, and its expiry with it. */
const EXPIRY_EVERY_MS = 24 * 3_600_000;

export class Visibility {
  readonly #settings: ClaimerSettings;
  readonly #health: RunnerHealth;
  readonly #services: ClaimerServices;
  /** Monotonic time of the last contact. */
  #contactAt: number;
  /** Wall clock, ms; null: never; undefined: not known yet. */
  #tokenExpiresAt: number | null | undefined;
  /** Monotonic time at which GitLab was asked for it last, and of which token. */
  #expiryAskedAt = Number.NEGATIVE_INFINITY;
  #expiryOf: string | null = null;
  /** What is under way while its runner does something else. */
  #underWay: Promise<unknown> = Promise.resolve();

  constructor(settings: ClaimerSettings, health: RunnerHealth, services: ClaimerServices) {
    this.#settings = settings;
    this.#health = health;
    this.#services = services;
    this.#contactAt = services.clock.monotonic();
  }

  /** Wall clock, ms; null: never; undefined: not known yet. */
  get tokenExpiresAt(): number | null | undefined {
    return this.#tokenExpiresAt;
  }

  /** For how long GitLab need not hear from it. */
  get leftMs(): number {
    const silentMs = this.#services.clock.monotonic() - this.#contactAt;
    return Math.max(0, this.#settings.config.timings.verifyAfterMs - silentMs);
  }

  /**
   * GitLab has answered an ask with that token. Only `runners/verify` tells a token's expiry: it is made for that with
   * each new one, and once a day.
   */
  contacted(token: string): void {
    const now = this.#services.clock.monotonic();
    this.#contactAt = now;
    if (token === this.#expiryOf && now - this.#expiryAskedAt < EXPIRY_EVERY_MS) return;
    this.#expiryOf = token;
    void this.#aside(() => this.#verify());
  }

  /** A sign of life, where one is due. */
  async keep(): Promise<void> {
    if (this.leftMs <= 0) await this.#verify();
  }

  /** The same again and again, until cancelled: while there is no room. Its request for room keeps its age. */
  keepMeanwhile(): Timer {
    const { clock } = this.#services;
    let over = false;
    const arm = (): Timer =>
      clock.after(this.leftMs, () => {
        void this.#aside(() => this.keep()).then(() => {
          if (!over) timer = arm();
        });
      });
    let timer = arm();
    return {
      cancel() {
        over = true;
        timer.cancel();
      },
    };
  }

  /** Settles when no sign of life is under way. */
  get underWay(): Promise<unknown> {
    return this.#underWay;
  }

  /** Never rejects. */
  #aside(call: () => Promise<void>): Promise<void> {
    const done = call().catch((error: unknown) => {
      const { name } = this.#settings.runner;
      this.#services.log.error(`runner ${name} could not tell GitLab that it is there`, { error });
    });
    this.#underWay = Promise.all([this.#underWay, done]);
    return done;
  }

  async #verify(): Promise<void> {
    const { clock, gitlab, systemId, info, log, expiry, changed } = this.#services;
    this.#expiryAskedAt = clock.monotonic();
    const token = await this.#settings.token.read();
    // Also after a failure: the next try is due after the same time, not at once.
    this.#contactAt = clock.monotonic();
    if (!token.ok) {
      this.#health.refused(token.reason);
      return;
    }
    this.#expiryOf = token.token;
    const { runner } = this.#settings;
    const outcome = await gitlab.verifyRunner(token.token, systemId, info(runner));
    switch (outcome.kind) {
      case 'valid':
        expiry(runner.name, outcome.tokenExpiresAt);
        this.#tokenExpiresAt = outcome.tokenExpiresAt?.getTime() ?? null;
        this.#health.valid();
        changed();
        break;
      case 'forbidden':
        this.#health.refused(`GitLab refuses the runner token: ${outcome.reason}`);
        break;
      case 'retry':
        log.warn(`runner ${runner.name} could not tell GitLab that it is there: ${outcome.reason}`);
        break;
      default:
        outcome satisfies never;
    }
  }
}
