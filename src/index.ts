/** forrest-gitlab: GitLab jobs in the machines of a Forrest-like host. */

export type { GitlabConfig, RunnerConfig, Timings } from './config/index.ts';
export { ERROR_CODES, type ErrorCode, ForrestGitlabError, isForrestGitlabError } from './errors.ts';
export type { Clock, Timer } from './lib/clock.ts';
export { createPlugin, type Seams } from './provider/index.ts';
