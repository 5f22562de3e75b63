/** The `gitlab:` section: unknown input to a frozen, typed configuration, or every problem at once. */

export type { Executor, GitlabConfig, PullPolicy, RunnerConfig } from './config.ts';
export { parseConfig } from './parse-config.ts';
export { sectionSchema } from './section-schema.ts';
export { DEFAULT_TIMINGS, type Timings } from './timings.ts';
export { readTokenFile, type TokenRead } from './token-file.ts';
