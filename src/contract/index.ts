/**
 * The host contract: what a Forrest-like host and a provider promise each other. Types only.
 *
 * Version 1. The number stands in `plugin.json`; a host refuses a plugin that was written for
 * another one.
 */

export type {
  Counter,
  FetchHandler,
  Gauge,
  Histogram,
  Labels,
  ListenTarget,
  LogFields,
  Logger,
  MetricOptions,
  Metrics,
  ProviderHost,
  Sample,
} from './host.ts';
export type {
  BootSpec,
  Machine,
  MachineOutcome,
  MachineState,
  MachineType,
  Refusal,
  Reservation,
  Room,
  RoomRequest,
  VmPool,
} from './machine.ts';
export type {
  CheckContext,
  ConfigContext,
  PluginManifest,
  Provider,
  ProviderPlugin,
} from './provider.ts';
export type {
  JobOutcome,
  JobRow,
  JobStage,
  ProviderHealth,
  ProviderStatus,
  RunnerRow,
} from './status.ts';
export type { Finding, JsonValue, Parsed, Problem, Secret } from './values.ts';
