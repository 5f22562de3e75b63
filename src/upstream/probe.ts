/** The one cheap call that tells whether GitLab answers. */

import type { Clock } from '../lib/clock.ts';
import { describeError } from '../lib/errors.ts';
import { readRetryAfter } from '../lib/retry-after.ts';
import type { Probed } from './health.ts';
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
    });
    const limit = clock.after(timeoutMs, () => request.destroy(new Error('no answer in time')));
    request.once('close', () => limit.cancel());
    request.on('error', (error) => resolve({ ok: false, reason: describeError(error) }));
    request.once('response', (answer) => {
      answer.resume();
      const status = answer.statusCode ?? 0;
      const retryAfterMs = readRetryAfter(answer.headers['retry-after']);
      const isJson = /^application\/json\b/i.test(answer.headers['content-type'] ?? '');
      // GitLab limits how often it is asked: then it is there.
      if (status < 500 && !(status === 404 && !isJson)) resolve({ ok: true });
      else resolve({ ok: false, reason: `it answers ${status}`, retryAfterMs });
    });
    request.end();
  });
}
