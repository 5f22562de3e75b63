/** What a provider promises to its host. */

import type { FetchHandler, ProviderHost } from './host.ts';
import type { MachineType } from './machine.ts';
import type { ProviderStatus } from './status.ts';
import type { Finding, JsonValue, Parsed } from './values.ts';

/** What a section's parser may look up while it reads. */
export interface ConfigContext {
  /** The configuration file, for messages; relative paths in the section resolve against its directory. */
  readonly file: string;
  /** A machine type of the configuration that is being read, or undefined. */
  machineType(name: string): MachineType | undefined;
}

/** What a check may use of the host that would run this configuration. It may run meanwhile, or not yet. */
export interface CheckContext {
  /** The host's name, as the provider will be told it. */
  readonly hostName: string;
  readonly signal: AbortSignal;
  /** As the provider will be given it. What it keeps of itself there may be read, and made where it is missing. */
  readonly stateDir: string;
  readonly proxyEnv: Readonly<Record<string, string | undefined>>;
  /** Whether that socket can be had, or is the running host's own: null, or what keeps it from that. */
  canListen(name: string, address: string): Promise<string | null>;
}

/** A plugin as its package exports it. */
export interface ProviderPlugin<C> {
  /** `gitlab`: its configuration key, route prefix and log field. */
  readonly id: string;
  /** Reads the section; never throws for bad input: every problem at once, as values. */
  parseConfig(section: unknown, context: ConfigContext): Promise<Parsed<C>>;
  /** Tries what the configuration names, for the host's `check` command. Takes no job, changes no setting. */
  check(config: C, context: CheckContext): AsyncIterable<Finding>;
  /** Names that the `substitutions` of each of its machines have, so that `check` can go through templates. */
  readonly placeholders?: readonly string[];
  /** JSON Schema (draft 2020-12) of its section, for editors. */
  readonly configSchema?: JsonValue;
  /** Builds the provider. Does nothing yet: no file, socket or timer before `start()`. */
  create(host: ProviderHost, config: C): Provider<C>;
}

/** A running provider. */
export interface Provider<C> {
  /** Recovers what an earlier run left, then begins. Rejects where it cannot begin at all. */
  start(): Promise<void>;
  /**
   * A reload was accepted: all sections have parsed. Running jobs keep the settings they began
   * with; what needs a restart is said in the log.
   */
  reconfigure(config: C): void;
  /** Pauses or resumes one runner; resolves when that is durable. Rejects for an unknown runner. */
  pause(runner: string, paused: boolean): Promise<void>;
  /** Takes nothing new; resolves when nothing is left. */
  drain(): Promise<void>;
  /** `leave`: machines run on and are adopted by the next start. `end`: they and their jobs end. */
  stop(machines: 'leave' | 'end'): Promise<void>;
  /** Mounted under `/<id>/`: unauthenticated, body-limited, never on the control socket. */
  readonly routes?: FetchHandler;
  status(): ProviderStatus;
}

/** What stands in a plugin's `plugin.json`. */
export interface PluginManifest {
  readonly id: string;
  /** The export of the package that has `createPlugin`, such as `.`. */
  readonly entry: string;
  /** The contract version that the plugin was written for. */
  readonly contract: number;
  /** The top-level key of its section in the host's configuration. */
  readonly configKey: string;
}
