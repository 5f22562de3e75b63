/** What a machine is booted with: the placeholders that templates may use. */

import { createHash } from 'node:crypto';
import type { GitlabConfig, RunnerConfig } from '../config/index.ts';
import type { BootSpec, Secret } from '../contract/index.ts';
import type { JobFacts } from '../gitlab/index.ts';
import { secret } from '../lib/secret.ts';

/** Every machine is told all of them. */
export const PLACEHOLDERS = [
  'DOCKER_HELPER_IMAGE',
  'DOCKER_IMAGE',
  'DOCKER_PRIVILEGED',
  'DOCKER_PULL_POLICY',
  'DOCKER_REGISTRY_MIRROR',
  'GITLAB_CA',
  'GITLAB_CLONE_URL',
  'GITLAB_EXECUTOR',
  'GITLAB_OUTPUT_LIMIT',
  'GITLAB_RUNNER_TOKEN',
  'GITLAB_RUNNER_URL',
  'GITLAB_WAIT_TIMEOUT',
] as const;

type Values<T> = { readonly [name in (typeof PLACEHOLDERS)[number]]: T };

/** What a machine of a runner is told besides who it is. */
export interface GuestSettings {
  readonly runner: RunnerConfig;
  readonly config: GitlabConfig;
  /** Of the guests' listener. */
  readonly port: number;
  /** From where it clones; empty: the runner finds that out by itself. */
  readonly cloneUrl: string;
}

export function createBootSpec(
  { runnerName, vmToken }: { readonly runnerName: string; readonly vmToken: string },
  settings: GuestSettings,
  metadata: BootSpec['metadata'],
  isWarm = false,
): BootSpec {
  const { hostAddress } = settings.runner.machineType;
  return {
    runnerName,
    substitutions: {
      /** The runner's `--url`: our route for this machine. Holds its token. */
      GITLAB_RUNNER_URL: secret(`http://${hostAddress}:${settings.port}/${vmToken}`),
      /** The runner's `--token`: opens that route, and nothing at GitLab. */
      GITLAB_RUNNER_TOKEN: secret(vmToken),
      /** For `--wait-timeout`: a machine whose runner cannot reach us ends by itself; a warm one waits for ever. */
      GITLAB_WAIT_TIMEOUT: isWarm ? '0' : '60',
      ...publicSubstitutions(settings),
    } satisfies Values<string | Secret>,
    metadata,
  };
}

/** A digest of all that a machine is told: where it changes, a machine that was booted before is another one. */
export function digestOf(settings: GuestSettings): string {
  const { name, ramBytes, hostAddress } = settings.runner.machineType;
  const facts = [name, ramBytes, hostAddress, settings.port, publicSubstitutions(settings)];
  return createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 16);
}

function publicSubstitutions({ runner, config, cloneUrl }: GuestSettings) {
  const { executor } = runner;
  const docker = executor.name === 'docker' ? executor : null;
  return {
    GITLAB_EXECUTOR: executor.name,
    GITLAB_CLONE_URL: cloneUrl,
    GITLAB_OUTPUT_LIMIT: String(runner.outputLimitKib),
    /** GitLab's private CA in PEM, for `--tls-ca-file`; empty: none. */
    GITLAB_CA: config.ca ?? '',
    DOCKER_IMAGE: docker?.image ?? '',
    DOCKER_HELPER_IMAGE: docker?.helperImage ?? '',
    DOCKER_PRIVILEGED: String(docker?.privileged ?? false),
    /** Separated by spaces: the runner takes one per `--docker-pull-policy`. */
    DOCKER_PULL_POLICY: docker?.pullPolicies.join(' ') ?? '',
    DOCKER_REGISTRY_MIRROR: docker?.registryMirror ?? '',
  } satisfies Partial<Values<string>>;
}

/**
 * What a job's `repo_url` lies below. The runner needs it as `--clone-url`: without it submodules
 * would be looked for behind our proxy.
 */
export function cloneUrlOf({ repoUrl, project }: JobFacts): string {
  const suffix = `/${project}.git`;
  return repoUrl?.endsWith(suffix) === true ? repoUrl.slice(0, -suffix.length) : '';
}
