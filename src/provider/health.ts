/** How the provider is, in one word and one sentence. */

import type { ProviderHealth, RunnerRow } from '../contract/index.ts';

/** `problem`: what keeps all runners from taking jobs, whatever GitLab says. */
export function healthOf(runners: readonly RunnerRow[], problem: string | null): ProviderHealth {
  const unhealthy = runners.filter((runner) => runner.health === 'unhealthy');
  const messages = unhealthy.map(
    (runner) => `${runner.name}: ${runner.notClaiming ?? runner.lastAnswer}`,
  );
  if (problem !== null) messages.unshift(`no new job is taken: ${problem}`);
  const isDown = problem !== null || (runners.length > 0 && unhealthy.length === runners.length);
  return {
    status: messages.length === 0 ? 'ok' : isDown ? 'down' : 'degraded',
    message: messages.length === 0 ? null : messages.join('; '),
  };
}
