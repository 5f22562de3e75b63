/** The one implementation of the contract's `Secret`. */

import { inspect } from 'node:util';
import type { Secret } from '../contract/index.ts';

const PLACEHOLDER = '[secret]';

class HiddenText implements Secret {
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  reveal(): string {
    return this.#text;
  }

  toString(): string {
    return PLACEHOLDER;
  }

  toJSON(): string {
    return PLACEHOLDER;
  }

  [inspect.custom](): string {
    return PLACEHOLDER;
  }
}

/** Wraps a text so that it cannot be printed by accident. */
export function secret(text: string): Secret {
  return new HiddenText(text);
}
