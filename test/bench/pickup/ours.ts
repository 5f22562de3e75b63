/** Ours: a host as a person starts it, with machines of either driver. */

import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { buildMicroGuest } from '../../../fixtures/guest/micro/micro-guest.ts';
import { type HostProcess, startHostProcess } from '../../../fixtures/main-job/host-process.ts';
import type { GuestRunner } from '../../../fixtures/main-job/runner.ts';
import { untilSnapshotsAreMade } from '../../../fixtures/main-job/snapshots.ts';
import { writePrivate } from '../../support/files.ts';
import { type GitlabProcess, startGitlabProcess } from '../gitlab-process.ts';
import { measurePickup, type Pickup } from './measure.ts';
import type { Schedule } from './schedule.ts';

export interface OursOptions {
  readonly directory: string;
  /** What the machines run. */
  readonly runner: GuestRunner;
  readonly slots: number;
  readonly schedule: Schedule;
  readonly driver: 'process' | 'qemu';
  /** How long after the job GitLab's event leaves; null: there is no webhook. */
  readonly webhookDelayMs: number | null;
  /** Machines that are kept ready. */
  readonly warm: number;
}

const TEMPLATE = path.join(import.meta.dirname, '../../../fixtures/guest/templates/gitlab-shell');

/** Of a host that starts: until it has asked a first time. */
const SETTLE_MS = 4000;
/** A machine that is not warm by then is not waited for. */
const WARM_LIMIT_MS = 30_000;

export async function measureOurs(
  options: OursOptions,
  progress: (line: string) => void,
): Promise<Pickup> {
  const { directory, schedule, warm } = options;
  await mkdir(directory, { recursive: true });
  const gitlab = await startGitlabProcess();
  let host: HostProcess | undefined;
  try {
    const { config, secret } = await configOf(options, gitlab);
    host = await startHostProcess({
      configFile: await writePrivate(path.join(directory, 'config.yaml'), JSON.stringify(config)),
      controlSocket: path.join(directory, 'base/control.sock'),
      logFile: path.join(directory, 'host.log'),
    });
    if (options.webhookDelayMs !== null) {
      await gitlab.post('hooks', {
        url: `unix:${path.join(directory, 'base/api.sock')}:/gitlab/webhook`,
        secret,
        delayMs: options.webhookDelayMs,
      });
    }
    const snapshots = options.driver === 'qemu' ? ['small'] : [];
    await untilSnapshotsAreMade(host, snapshots, progress, AbortSignal.timeout(600_000));
    await sleep(SETTLE_MS);
    const running = host;
    const ready = warm === 0 ? undefined : () => untilWarm(running, warm, progress);
    return await measurePickup(gitlab, schedule, ready);
  } finally {
    await host?.end();
    gitlab.end();
  }
}

async function configOf(
  { directory, runner, slots, driver, webhookDelayMs, warm }: OursOptions,
  gitlab: GitlabProcess,
): Promise<{ config: object; secret: string }> {
  const { token } = await gitlab.post<{ token: string }>('runners', {});
  const secret = randomBytes(18).toString('base64url');
  const file = (name: string, text: string) =>
    writePrivate(path.join(directory, name), `${text}\n`);
  const isVirtual = driver === 'qemu';
  const micro = isVirtual
    ? await buildMicroGuest({ runner: runner.kind === 'official' ? runner.command : null })
    : null;
  const config = {
    host: { base_dir: 'base', ram: `${slots}G`, driver },
    plugins: ['forrest-gitlab'],
    machines: {
      small: {
        setup_template: {
          path: TEMPLATE,
          parameters: {
            GITLAB_RUNNER: isVirtual ? 'gitlab-runner' : runner.command,
            BOOT_GATE: '',
          },
        },
        ...(micro !== null && {
          kernel: { path: micro.kernel, initrd: micro.initrd },
          snapshot: true,
        }),
        cpus: 1,
        ram: '1G',
        disk: '1G',
      },
    },
    gitlab: {
      url: gitlab.url,
      listen: '127.0.0.1:0',
      ...(webhookDelayMs !== null && {
        webhook_secret_file: await file('webhook.secret', secret),
      }),
      runners: [
        {
          name: 'small',
          machine: 'small',
          limit: slots,
          token_file: await file('runner.token', token),
          ...(warm > 0 && { warm }),
        },
      ],
    },
  };
  return { config, secret };
}

/** Until as many machines as are to be warm wait for a job. */
async function untilWarm(
  host: HostProcess,
  warm: number,
  progress: (line: string) => void,
): Promise<void> {
  const until = performance.now() + WARM_LIMIT_MS;
  for (;;) {
    const { machines } = await host.status();
    if (machines.filter(({ state }) => state === 'waiting').length >= warm) return;
    if (performance.now() > until) {
      progress(`not within ${WARM_LIMIT_MS / 1000} s: ${warm} warm machines`);
      return;
    }
    await sleep(50);
  }
}
