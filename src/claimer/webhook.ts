/**
 * GitLab's job and pipeline events. An event only ever means "ask now": nothing else in it is believed, so
 * that one which is late, repeated or made up costs an early ask at most. It names neither the runners that
 * may take a job nor the job's tags, so it is for all of them.
 */

import type { FetchHandler, Secret } from '../contract/index.ts';
import { sameToken } from '../leases/index.ts';

export interface WebhookServices {
  /** What GitLab shows as `X-Gitlab-Token`; null: no webhook is configured. */
  secret(): Secret | null;
  /** A job waits for a runner. */
  jobPending(): void;
  /** For counting, in one word: `pending`, `other`, `refused`, `broken`. */
  answered(result: string): void;
}

/** Answers at once; what follows from an event happens afterwards. */
export function createWebhookHandler(services: WebhookServices): FetchHandler {
  return async (request) => {
    if (new URL(request.url).pathname !== '/webhook') return answer(404, 'no such path');
    if (request.method !== 'POST') return answer(405, 'only POST is allowed');
    const secret = services.secret();
    if (secret === null) return answer(404, 'gitlab.webhook_secret_file is not configured');
    const shown = request.headers.get('x-gitlab-token');
    if (shown === null || !sameToken(shown, secret.reveal())) {
      services.answered('refused');
      return answer(401, 'X-Gitlab-Token is not what gitlab.webhook_secret_file holds');
    }
    const event = await readEvent(request);
    if (event === undefined) {
      services.answered('broken');
      return answer(400, 'the body is no JSON event');
    }
    const isPending = tellsOfPendingJob(event);
    services.answered(isPending ? 'pending' : 'other');
    if (isPending) services.jobPending();
    return new Response(null, { status: 204 });
  };
}

/** Job events have one job, pipeline events all of the pipeline's. Any other event tells nothing. */
function tellsOfPendingJob(event: Mapping): boolean {
  switch (event['object_kind']) {
    case 'build':
      return event['build_status'] === 'pending';
    case 'pipeline': {
      const { builds } = event;
      return (
        Array.isArray(builds) &&
        builds.some((build) => isMapping(build) && build['status'] === 'pending')
      );
    }
    default:
      return false;
  }
}

async function readEvent(request: Request): Promise<Mapping | undefined> {
  try {
    const event: unknown = await request.json();
    return isMapping(event) ? event : undefined;
  } catch {
    return undefined;
  }
}

type Mapping = Readonly<Record<string, unknown>>;

function isMapping(value: unknown): value is Mapping {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function answer(status: number, message: string): Response {
  return new Response(`${message}\n`, {
    status,
    headers: { 'content-type': 'text/plain; charset=utf-8' },
  });
}
