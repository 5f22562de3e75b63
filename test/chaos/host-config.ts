/** The configuration of a host, with times that are short enough for many faults. */

import path from 'node:path';

/** What a machine type boots. */
export type Guests =
  | { readonly driver: 'process'; readonly runner: string }
  | { readonly driver: 'qemu'; readonly kernel: string; readonly initrd: string };

const TEMPLATE = path.join(import.meta.dirname, '../../fixtures/guest/templates/gitlab-shell');

/** Short enough that many faults fit in a minute, long enough for a busy machine. */
const TIMINGS = {
  connectTimeoutMs: 2000,
  claimTimeoutMs: 5000,
  callTimeoutMs: 3000,
  forwardTimeoutMs: 5000,
  backoffMs: 200,
  backoffCapMs: 1000,
  conflictDelayMs: 100,
  unhealthyIntervalMs: 2000,
  heartbeatMs: 500,
  silenceMs: 3000,
  finishGraceMs: 10_000,
  jobGraceMs: 30_000,
  deliveryBackoffMs: 100,
  deliveryBackoffCapMs: 1000,
  warmHoldMs: 2000,
  warmSilenceMs: 10_000,
  warmAgeMs: 20_000,
  warmLookMs: 1000,
  warmRestMs: 200,
  warmRestCapMs: 2000,
};

export interface ConfigOptions {
  readonly baseDir: string;
  readonly tokenFile: string;
  readonly webhookSecretFile: string;
  readonly guestPort: number;
  readonly gitlabUrl: string;
  /** What it reaches GitLab through. */
  readonly relayPort: number;
  readonly guests: Guests;
}

export function hostConfig(options: ConfigOptions): object {
  const { baseDir, tokenFile, webhookSecretFile, guestPort, gitlabUrl, relayPort, guests } =
    options;
  const gitlabPort = Number(new URL(gitlabUrl).port);
  return {
    host: { base_dir: baseDir, ram: '3G', driver: guests.driver },
    plugins: ['forrest-gitlab'],
    machines: { shell: machineOf(guests) },
    gitlab: {
      url: through(gitlabUrl, '127.0.0.1', relayPort),
      // Machines live on while the host and its supervisor are away: they must find it again.
      listen: `127.0.0.1:${guestPort}`,
      ...(guests.driver === 'qemu' && {
        clone_url: through(gitlabUrl, '10.0.2.2', gitlabPort),
      }),
      check_interval: '1s',
      webhook_secret_file: webhookSecretFile,
      timings: TIMINGS,
      runners: [
        {
          name: 'chaos',
          token_file: tokenFile,
          machine: 'shell',
          limit: 3,
          warm: 1,
          output_limit: 64 * 1024,
        },
      ],
    },
  };
}

function machineOf(guests: Guests): object {
  return {
    setup_template: {
      path: TEMPLATE,
      parameters: {
        GITLAB_RUNNER: guests.driver === 'qemu' ? 'gitlab-runner' : guests.runner,
        BOOT_GATE: '',
      },
    },
    ...(guests.driver === 'qemu' && { kernel: { path: guests.kernel, initrd: guests.initrd } }),
    cpus: 1,
    ram: '1G',
    disk: '1G',
  };
}

function through(url: string, hostname: string, port: number): string {
  const changed = new URL(url);
  changed.hostname = hostname;
  changed.port = String(port);
  return changed.href.replace(/\/$/, '');
}
