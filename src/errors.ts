/** The plugin's coded errors. Match them by `code`: host and plugin may load two copies of a class. */

/** Every code, with what it means for the operator. Codes are never reused. */
export const ERROR_CODES = {
  config_invalid: 'The gitlab section has problems; each is listed.',
  runner_unknown: 'No runner of that name stands in gitlab.runners.',
  token_unreadable: 'A runner token file is missing, unreadable, empty or open to other users.',
  state_unwritable: 'The state directory cannot be written: full, read-only, or of another user.',
  upstream_timeout: 'GitLab did not answer in time.',
  upstream_unreachable: 'No connection to GitLab, or it broke.',
  answer_too_large: 'GitLab answered with more than such an answer can hold.',
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** The base of everything that this package throws on purpose. */
export class ForrestGitlabError extends Error {
  override readonly name = 'ForrestGitlabError';
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** True for an error of this package, also from another copy of it. */
export function isForrestGitlabError(error: unknown): error is ForrestGitlabError {
  return (
    error instanceof Error &&
    error.name === 'ForrestGitlabError' &&
    'code' in error &&
    typeof error.code === 'string' &&
    error.code in ERROR_CODES
  );
}
