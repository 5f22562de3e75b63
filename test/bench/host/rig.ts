/** A GitLab simulator and a host, each in processes of their own, as a person would start them. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { type HostProcess, startHostProcess } from '../../../fixtures/main-job/host-process.ts';
import { writePrivate } from '../../support/files.ts';
import { type GitlabProcess, startGitlabProcess } from '../gitlab-process.ts';
import { childrenOf } from '../proxy/usage.ts';
import { writeSleeperTemplate } from '../sleepers.ts';

export interface Rig {
  readonly gitlab: GitlabProcess;
  readonly host: HostProcess;
  /** The runners'. */
  readonly tokens: readonly string[];
  readonly controlSocket: string;
  /** Where each machine leaves its address. */
  readonly called: string;
  readonly supervisorPid: number;
  readonly hostPid: number;
  end(): Promise<void>;
}

const ROOT = path.join(import.meta.dirname, '../../..');
const MACHINE_MIB = 16;

/** The packages as they are published: run from sources, Node holds its TypeScript compiler besides. */
export async function compile(): Promise<void> {
  const build = spawn('npm', ['run', 'build'], { cwd: ROOT, stdio: ['ignore', 'ignore', 2] });
  const [code] = await once(build, 'exit');
  if (code !== 0) throw new Error('npm run build failed');
}

/** `runners` that all ask for the jobs of one project. Its host runs compiled. */
export async function startRig(
  directory: string,
  { runners, machines }: { readonly runners: number; readonly machines: number },
): Promise<Rig> {
  const gitlab = await startGitlabProcess();
  try {
    const called = path.join(directory, 'machines');
    await mkdir(called, { recursive: true });
    await writeSleeperTemplate(path.join(directory, 'template'), called);
    const tokens = await Promise.all(
      Array.from({ length: runners }, () => gitlab.post<{ token: string }>('runners', {})),
    );
    const config = {
      host: { base_dir: 'base', ram: `${machines * MACHINE_MIB}M`, driver: 'process' },
      plugins: ['forrest-gitlab'],
      machines: {
        small: {
          setup_template: { path: 'template' },
          cpus: 1,
          ram: `${MACHINE_MIB}M`,
          disk: '16M',
        },
      },
      gitlab: {
        url: gitlab.url,
        listen: '127.0.0.1:0',
        runners: await Promise.all(
          tokens.map(async ({ token }, index) => ({
            name: `bench-${index}`,
            machine: 'small',
            limit: machines,
            token_file: await writePrivate(path.join(directory, `${index}.token`), `${token}\n`),
          })),
        ),
      },
    };
    const controlSocket = path.join(directory, 'base/control.sock');
    const host = await startHostProcess({
      configFile: await writePrivate(path.join(directory, 'config.yaml'), JSON.stringify(config)),
      controlSocket,
      logFile: path.join(directory, 'host.log'),
      command: [path.join(ROOT, 'fixtures/host/dist/cli.js')],
    });
    const [hostPid = 0] = await childrenOf(host.pid);
    return {
      gitlab,
      host,
      tokens: tokens.map(({ token }) => token),
      controlSocket,
      called,
      supervisorPid: host.pid,
      hostPid,
      async end() {
        await host.end();
        gitlab.end();
      },
    };
  } catch (error) {
    gitlab.end();
    throw error;
  }
}
