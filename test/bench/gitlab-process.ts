/** The GitLab simulator in a process of its own, over its control API. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { within } from '../support/deadline.ts';

export interface GitlabProcess {
  readonly url: string;
  /** One call of its control API: see fixtures/gitlab/README.md. */
  post<T = unknown>(what: string, body: object): Promise<T>;
  get<T>(what: string): Promise<T>;
  end(): void;
}

const START_LIMIT_MS = 60_000;

export async function startGitlabProcess(): Promise<GitlabProcess> {
  const child = spawn(
    process.execPath,
    [
      '--conditions=forrest-gitlab-source',
      path.join(import.meta.dirname, '../../fixtures/gitlab/cli.ts'),
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const lines = createInterface({ input: child.stdout });
  const [first] = (await within(
    'the GitLab simulator',
    Promise.race([once(lines, 'line'), once(child, 'exit').then(() => [''])]),
    START_LIMIT_MS,
  )) as [string];
  const url = /http:\S+/.exec(first)?.[0];
  if (url === undefined) throw new Error('the GitLab simulator did not start');
  const call = async (what: string, init: RequestInit): Promise<unknown> => {
    const response = await fetch(`${url}/-/simulator/${what}`, init);
    if (!response.ok) throw new Error(`${what}: ${response.status} ${await response.text()}`);
    return response.json();
  };
  return {
    url,
    post: async <T>(what: string, body: object) =>
      (await call(what, { method: 'POST', body: JSON.stringify(body) })) as T,
    get: async <T>(what: string) => (await call(what, {})) as T,
    end: () => void child.kill('SIGKILL'),
  };
}
