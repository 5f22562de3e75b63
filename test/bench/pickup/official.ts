/** The peer: the official runner as people run it, `gitlab-runner run`, without a virtual machine. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { writePrivate } from '../../support/files.ts';
import { startGitlabProcess } from '../gitlab-process.ts';
import { measurePickup, type Pickup } from './measure.ts';
import type { Schedule } from './schedule.ts';

export interface OfficialOptions {
  readonly directory: string;
  /** The binary. */
  readonly runner: string;
  readonly slots: number;
  readonly schedule: Schedule;
}

export async function measureOfficial(options: OfficialOptions): Promise<Pickup> {
  const { directory, runner, slots, schedule } = options;
  await mkdir(directory, { recursive: true });
  const gitlab = await startGitlabProcess();
  try {
    const { token } = await gitlab.post<{ token: string }>('runners', {});
    const config = await writePrivate(
      path.join(directory, 'config.toml'),
      `concurrent = ${slots}
check_interval = 3

[[runners]]
  name = "official"
  url = "${gitlab.url}"
  token = "${token}"
  executor = "shell"
  shell = "bash"
  limit = ${slots}
`,
    );
    const child = spawn(runner, ['run', '--config', config, '--working-directory', directory], {
      cwd: directory,
      env: { PATH: process.env['PATH'], HOME: directory },
      stdio: 'ignore',
    });
    const ended = once(child, 'exit');
    try {
      await once(child, 'spawn');
      const broken = ended.then(() => Promise.reject(new Error('the official runner ended')));
      broken.catch(() => undefined);
      return await Promise.race([measurePickup(gitlab, schedule), broken]);
    } finally {
      child.kill('SIGKILL');
      await ended;
    }
  } finally {
    gitlab.end();
  }
}
