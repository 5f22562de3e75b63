/** What a machine is booted with: the placeholders that templates may use. */

import type { GitlabConfig, RunnerConfig } from '../config/index.ts';
import type { BootSpec } from '../contract/index.ts';
import type { Lease } from '../leases/index.ts';
import { secret } from '../lib/secret.ts';

/** `port`: of the guests' listener. */
export function createBootSpec(
  lease: Lease,
  runner: RunnerConfig,
  config: GitlabConfig,
  port: number,
): BootSpec {
  const { executor, machineType } = runner;
  const docker = executor.name === 'docker' ? executor : null;
  return {
    runnerName: lease.runnerName,
    substitutions: {
      /** The runner's `--url`: our route for this machine. Holds its token. */
      GITLAB_RUNNER_URL: secret(`http://${machineType.hostAddress}:${port}/${lease.vmToken}`),
      /** The runner's `--token`: opens that route, and nothing at GitLab. */
      GITLAB_RUNNER_TOKEN: secret(lease.vmToken),
      GITLAB_EXECUTOR: executor.name,
      /** Where the guest clones from: as configured, else as the job says. */
      GITLAB_CLONE_URL: config.cloneUrl ?? cloneUrlOf(lease),
      GITLAB_OUTPUT_LIMIT: String(runner.outputLimitKib),
      /** GitLab's private CA in PEM, for `--tls-ca-file`; empty: none. */
      GITLAB_CA: config.ca ?? '',
      DOCKER_IMAGE: docker?.image ?? '',
      DOCKER_HELPER_IMAGE: docker?.helperImage ?? '',
      DOCKER_PRIVILEGED: String(docker?.privileged ?? false),
      /** Separated by spaces: the runner takes one per `--docker-pull-policy`. */
      DOCKER_PULL_POLICY: docker?.pullPolicies.join(' ') ?? '',
      DOCKER_REGISTRY_MIRROR: docker?.registryMirror ?? '',
    },
    metadata: { job: lease.facts.id, runner: lease.runner },
  };
}

/**
 * What the job's `repo_url` lies below. The runner needs it as `--clone-url`: without it submodules
 * would be looked for behind our proxy.
 */
function cloneUrlOf(lease: Lease): string {
  const { repoUrl, project } = lease.facts;
  const suffix = `/${project}.git`;
  return repoUrl?.endsWith(suffix) === true ? repoUrl.slice(0, -suffix.length) : '';
}
