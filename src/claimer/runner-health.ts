/** What GitLab's answers to a runner say of it. */

import type { RunnerRow } from '../contract/index.ts';
import type { ClaimerServices, ClaimerSettings } from './services.ts';

export class RunnerHealth {
  readonly #settings: ClaimerSettings;
  readonly #services: ClaimerServices;
  #state: RunnerRow['health'] = 'unknown';
  /** Monotonic time of the last good answer, or of the beginning. */
  #goodAt: number;
  #lastAnswer: string | null = null;
  #lastAnswerAt: number | null = null;
  #refusedSince: number | null = null;

  constructor(settings: ClaimerSettings, services: ClaimerServices) {
    this.#settings = settings;
    this.#services = services;
    this.#goodAt = services.clock.monotonic();
  }

  /** For how long it has had no good answer; 0 where it is not unhealthy. */
  get unhealthyMs(): number {
    return this.#state === 'unhealthy' ? this.#services.clock.monotonic() - this.#goodAt : 0;
  }

  get lastAnswer(): string | null {
    return this.#lastAnswer;
  }

  row(): Pick<RunnerRow, 'health' | 'lastAnswer' | 'lastAnswerAt'> {
    return {
      health: this.#state,
      lastAnswer: this.#lastAnswer,
      lastAnswerAt: this.#lastAnswerAt,
    };
  }

  /** GitLab answers as it should. */
  good(answer: string): void {
    const { clock, log, warm } = this.#services;
    const wasUnhealthy = this.#state === 'unhealthy';
    this.#state = 'ok';
    this.#refusedSince = null;
    this.#goodAt = clock.monotonic();
    this.note(answer);
    if (!wasUnhealthy) return;
    log.info(`runner ${this.#name} is healthy again`);
    warm.look();
  }

  /** GitLab takes its token, told outside of an ask. */
  valid(): void {
    if (this.#state === 'unhealthy') this.good('its token is valid');
  }

  /** GitLab does not. */
  bad(reason: string): void {
    if (this.#state !== 'unhealthy') {
      this.#services.log.warn(`GitLab did not answer runner ${this.#name} as it should: ${reason}`);
    }
    this.#state = 'unhealthy';
    this.note(reason);
  }

  /** GitLab wants nothing of its token, or there is none. */
  refused(reason: string): void {
    const { clock, log, changed } = this.#services;
    if (this.#state !== 'unhealthy' || this.#refusedSince === null) {
      log.error(
        `runner ${this.#name} is unhealthy: ${reason}; its token file ${this.#settings.runner.tokenFile} is read again when it changes`,
      );
    }
    this.#refusedSince ??= clock.now();
    this.#state = 'unhealthy';
    changed();
  }

  /** For people, who see since when its token is refused. */
  refusal(reason: string): string {
    const since = new Date(this.#refusedSince ?? this.#services.clock.now());
    return `token refused since ${since.toISOString().slice(11, 16)} UTC (${reason})`;
  }

  /** An answer that says nothing of its health. */
  note(answer: string): void {
    this.#lastAnswer = answer;
    this.#lastAnswerAt = this.#services.clock.now();
  }

  get #name(): string {
    return this.#settings.runner.name;
  }
}
