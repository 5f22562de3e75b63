/** The way to GitLab for one configuration: transport and clients. */

import type { GitlabConfig, RunnerConfig } from '../config/index.ts';
import {
  advertisedFeatures,
  createGitlabClient,
  type Features,
  type GitlabClient,
  type ObservedCall,
  type RunnerInfo,
} from '../gitlab/index.ts';
import type { Clock } from '../lib/clock.ts';
import {
  createFetch,
  createSend,
  createUpstream,
  type Fetch,
  GitlabHealth,
  probeGitlab,
  type Upstream,
} from '../upstream/index.ts';
import { packageVersion } from './version.ts';

export interface GitlabAccess {
  readonly upstream: Upstream;
  /** A client whose calls are told to `observed`; all share the transport. */
  clientFor(observed: (call: ObservedCall) => void): GitlabClient;
  /** What claimers, leases and guests meet there, in one place. */
  readonly health: GitlabHealth;
}

export function createGitlabAccess(
  config: GitlabConfig,
  clock: Clock,
  proxyEnv: Readonly<Record<string, string | undefined>>,
  fetch: Fetch | undefined,
): GitlabAccess {
  const { timings } = config;
  const upstream = createUpstream({
    url: config.url,
    ca: config.ca ?? undefined,
    proxyEnv,
    connectTimeoutMs: timings.connectTimeoutMs,
    clock,
  });
  const health: GitlabHealth = new GitlabHealth({
    clock,
    timings,
    probe: () => probeGitlab(upstream, clock, timings.probeTimeoutMs),
  });
  const send = createSend(upstream, timings.claimTimeoutMs, health);
  const transport =
    fetch === undefined ? { fetch: createFetch(upstream.url, send), send } : { fetch };
  return {
    upstream,
    health,
    clientFor: (observed) =>
      createGitlabClient({
        url: upstream.url,
        ...transport,
        userAgent: `forrest-gitlab ${packageVersion()}`,
        callTimeoutMs: timings.callTimeoutMs,
        clock,
        observed,
      }),
  };
}

/** The `info` of our own requests for a runner. */
export function runnerInfo(runner: RunnerConfig, learned: Features | undefined): RunnerInfo {
  return {
    name: 'forrest-gitlab',
    version: packageVersion(),
    platform: 'linux',
    architecture: runner.machineType.architecture,
    executor: runner.executor.name,
    features: advertisedFeatures(runner.executor.name, learned),
  };
}
