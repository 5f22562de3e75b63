/** What GitLab has seen of a run, for whoever looks into its failure. */

import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { GitlabSimulator } from '../../fixtures/gitlab/index.ts';

/** Enough for a payload's head, or a line of a log. */
const MOST_CHARACTERS = 500;

export async function writeDown(simulator: GitlabSimulator, directory: string): Promise<void> {
  const lines = simulator.requests.map((request) =>
    JSON.stringify({
      at: new Date(request.at).toISOString(),
      method: request.method,
      target: request.target,
      status: request.status,
      durationMs: request.durationMs,
      aborted: request.aborted,
      body:
        request.route === 'artifacts-upload'
          ? `${request.bodyBytes} bytes`
          : request.body.toString().slice(0, MOST_CHARACTERS),
    }),
  );
  await writeFile(path.join(directory, 'requests.jsonl'), `${lines.join('\n')}\n`);
  for (const job of simulator.jobs()) {
    await writeFile(path.join(directory, `job-${job.id}.log`), job.log);
  }
}
