/** `createPlugin`: what the package exports to hosts. */

import { type GitlabConfig, parseConfig, sectionSchema } from '../config/index.ts';
import type { ProviderPlugin } from '../contract/index.ts';
import type { CheckpointName } from '../leases/index.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import { type Randomness, systemRandomness } from '../lib/random.ts';
import type { ProxyLimits } from '../proxy/index.ts';
import type { Fetch } from '../upstream/index.ts';
import { PLACEHOLDERS } from './boot-spec.ts';
import { checkConfig } from './check.ts';
import { createProvider } from './provider.ts';

/** What tests replace. Everything has a default that is right in production. */
export interface Seams {
  /** Wall and monotonic time, timers. */
  readonly clock?: Clock;
  /** For jitter: evenly distributed in [0, 1). */
  readonly random?: Randomness['random'];
  /** For tokens and names. */
  readonly randomBytes?: Randomness['randomBytes'];
  /** For our own calls to GitLab; the guests' calls always go through the transport. */
  readonly fetch?: Fetch;
  /**
   * Called in each gap between two steps, with its name (`lease-claimed`, `lease-booting`, …, all in
   * docs/life-of-a-job.md); what it returns is awaited.
   */
  readonly checkpoint?: (name: CheckpointName) => Promise<void> | void;
  /** What the proxy lets a machine take of it, in place of the defaults. */
  readonly limits?: Partial<ProxyLimits>;
}

/** The plugin for GitLab jobs. Nothing happens before a provider's `start()`. */
export function createPlugin(seams: Seams = {}): ProviderPlugin<GitlabConfig> {
  const complete = {
    clock: seams.clock ?? systemClock,
    random: seams.random ?? systemRandomness.random,
    randomBytes: seams.randomBytes ?? systemRandomness.randomBytes,
    fetch: seams.fetch,
    limits: seams.limits,
    checkpoint: async (name: CheckpointName): Promise<void> => seams.checkpoint?.(name),
  };
  return {
    id: 'gitlab',
    parseConfig,
    placeholders: PLACEHOLDERS,
    configSchema: sectionSchema,
    check: (config, context) => checkConfig(config, complete, context),
    create: (host, config) => createProvider(host, config, complete),
  };
}
