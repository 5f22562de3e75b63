/** What the host's `check` command asks of us: is GitLab there, and are the tokens good. */

import { type GitlabConfig, readTokenFile } from '../config/index.ts';
import type { Finding } from '../contract/index.ts';
import type { Clock } from '../lib/clock.ts';
import type { Fetch } from '../upstream/index.ts';
import { createGitlabAccess, runnerInfo } from './gitlab-access.ts';

/** Asks GitLab about each runner's token. Changes nothing but what GitLab shows as the last contact. */
export async function* checkConfig(
  config: GitlabConfig,
  seams: { readonly clock: Clock; readonly fetch: Fetch | undefined },
  signal: AbortSignal,
): AsyncIterable<Finding> {
  const { client, upstream } = createGitlabAccess(config, seams.clock, {}, seams.fetch);
  try {
    for (const runner of config.runners) {
      if (signal.aborted) return;
      const subject = `runner ${runner.name} at ${config.url}`;
      const token = await readTokenFile(runner.tokenFile);
      if (!token.ok) {
        yield { severity: 'error', subject, message: `${runner.tokenFile} ${token.reason}` };
        continue;
      }
      const outcome = await client.verifyRunner(
        token.token,
        'check',
        runnerInfo(runner, undefined),
      );
      yield outcome.kind === 'valid'
        ? { severity: 'ok', subject, message: expiry(outcome.tokenExpiresAt) }
        : {
            severity: 'error',
            subject,
            message:
              outcome.kind === 'forbidden'
                ? `GitLab refuses the token: ${outcome.reason}; make a new one in GitLab under Runners`
                : `GitLab cannot be asked: ${outcome.reason}`,
          };
    }
  } finally {
    upstream.close();
  }
}

function expiry(expiresAt: Date | null): string {
  return expiresAt === null
    ? 'the token is good and does not expire'
    : `the token is good until ${expiresAt.toISOString()}`;
}
