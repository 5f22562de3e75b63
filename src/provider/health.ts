/** How the provider is, in one word and one sentence. */

import type { ProviderHealth, RunnerRow } from '../contract/index.ts';
import type { GitlabHealth } from '../upstream/index.ts';

/** `problem`: what keeps all runners from taking jobs, whatever GitLab says. */
export function healthOf(
  runners: readonly RunnerRow[],
  problem: string | null,
  gitlab: Pick<GitlabHealth, 'outSince' | 'reason'>,
): ProviderHealth {
  const unhealthy = runners.filter((runner) => runner.health === 'unhealthy');
  const messages = unhealthy.map(
    (runner) => `${runner.name}: ${runner.notClaiming ?? runner.lastAnswer}`,
  );
  if (gitlab.outSince !== null) {
    const since = new Date(gitlab.outSince).toISOString();
    messages.splice(0, Number.POSITIVE_INFINITY, `GitLab is out since ${since}: ${gitlab.reason}`);
  }
  if (problem !== null) messages.unshift(`no new job is taken: ${problem}`);
  const isDown =
    problem !== null ||
    gitlab.outSince !== null ||
    (runners.length > 0 && unhealthy.length === runners.length);
  return {
    status: messages.length === 0 ? 'ok' : isDown ? 'down' : 'degraded',
    message: messages.length === 0 ? null : messages.join('; '),
  };
}
