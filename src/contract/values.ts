/** Small values that cross the seam between host and provider. */

/** Anything that survives `JSON.stringify` and `JSON.parse` unchanged. */
export type JsonValue =
  | string
  | number
  | boolean
  | null
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue };

/**
 * A value that must never be printed. Every way of turning it into text (`toString`, `toJSON`,
 * `util.inspect`) yields a placeholder; only `reveal()` hands out the text, so each use is visible.
 */
export interface Secret {
  /** The secret text itself. Call it where the text leaves for its one purpose, nowhere else. */
  reveal(): string;
  /** Always the placeholder `[secret]`. */
  toString(): string;
  /** Always the placeholder `[secret]`. */
  toJSON(): string;
}

/** One thing wrong with a configuration. Never holds a secret. */
export interface Problem {
  /** Where: a dotted path with indexes, such as `gitlab.runners[0].machine`. */
  readonly path: string;
  /** What was found and what is allowed, in one sentence. */
  readonly message: string;
}

/** The result of reading a configuration section: the frozen value, or every problem at once. */
export type Parsed<C> =
  | { readonly ok: true; readonly config: C }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/** One line of the host's `check` command. */
export interface Finding {
  readonly severity: 'ok' | 'warning' | 'error';
  /** What was looked at, such as `GitLab https://gitlab.example.com`. */
  readonly subject: string;
  /** What was found, in a sentence. */
  readonly message: string;
  /** For a warning or an error: what to do about it. */
  readonly remedy?: string;
}
