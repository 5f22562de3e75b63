/** The one cheap call that tells whether GitLab answers. */

import type { Clock } from '../lib/clock.ts';
import { describeError } from '../lib/errors.ts';
import { readRetryAfter } from '../lib/retry-after.ts';
import { outageOf, type Probed } from './health.ts';
import type { Upstream } from './upstream.ts';

/** Without a token: GitLab itself, and nothing in front of it, answers 401 in JSON, and looks nothing up. */
const PATH = '/api/v4/job';

/** Never rejects. */
export function probeGitlab(upstream: Upstream, clock: Clock, timeoutMs: number): Promise<Probed> {
  return new Promise((resolve) => {
    const request = upstream.request({
      method: 'GET',
      path: PATH,
      headers: { accept: 'application/json' },
      answerTimeoutMs: timeoutMs,
      fresh: true,
    });
    const limit = clock.after(timeoutMs, () => request.destroy(new Error('no answer in time')));
    request.once('close', () => limit.cancel());
    request.on('error', (error) => resolve({ ok: false, reason: describeError(error) }));
    request.once('response', (answer) => {
      answer.resume();
      const reason = outageOf(answer.statusCode ?? 502, answer.headers['content-type']);
      const retryAfterMs = readRetryAfter(answer.headers['retry-after']);
      resolve(reason === null ? { ok: true } : { ok: false, reason, retryAfterMs });
    });
    request.end();
  });
}
