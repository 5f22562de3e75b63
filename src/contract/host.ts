/** What the host offers to a provider. */

import type { Socket } from 'node:net';
import type { VmPool } from './machine.ts';
import type { JobRow } from './status.ts';

/** Structured log. Fields never hold secrets; an error goes under the key `error`. */
export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger that adds these fields to each of its lines. */
  child(fields: LogFields): Logger;
}

/** Flat values for a log line. */
export type LogFields = Readonly<Record<string, unknown>>;

/** Values of a metric's labels; each label has few values (never an id). */
export type Labels = Readonly<Record<string, string>>;

export interface MetricOptions {
  /** Snake case with unit, without a prefix: the host adds `forrest_<id>_`. */
  readonly name: string;
  /**
   * The name is whole, and that of another program whose metric means the same, so that what people have
   * built on it goes on working: `gitlab_runner_jobs`. The host adds no prefix; the first provider that
   * asks for such a name has it.
   */
  readonly wellKnown?: true;
  readonly help: string;
  readonly labelNames?: readonly string[];
}

/** One value of a metric, as it is now. */
export interface Sample {
  readonly value: number;
  readonly labels?: Labels;
}

export interface Counter {
  add(value?: number, labels?: Labels): void;
}

export interface Gauge {
  set(value: number, labels?: Labels): void;
}

export interface Histogram {
  observe(value: number, labels?: Labels): void;
}

/** Metrics that the host exposes. Asking for the same name twice yields the same metric. */
export interface Metrics {
  counter(options: MetricOptions): Counter;
  gauge(options: MetricOptions): Gauge;
  /** Read whenever somebody asks for it: what is read then is all there is of it. Cheap and synchronous. */
  observedGauge(options: MetricOptions, read: () => Iterable<Sample>): void;
  histogram(options: MetricOptions & { readonly buckets: readonly number[] }): Histogram;
}

/**
 * A listening socket that the host owns, so that it can outlive the process: connections which
 * arrive while nobody accepts are kept waiting, not refused.
 */
export interface ListenTarget {
  /** The bound address, `127.0.0.1:8090`, with the real port where `0` was asked for. */
  readonly address: string;
  readonly port: number;
  /**
   * Begins to hand over connections, those first that already wait. Call it once. The sockets are
   * paused; `server.emit('connection', socket)` makes a `node:http` server serve them.
   */
  accept(onConnection: (socket: Socket) => void): void;
  /** Stops handing over connections. Open ones are the caller's to close. Idempotent. */
  close(): Promise<void>;
}

/** An HTTP handler on web-standard types, such as a Hono app's `fetch`. */
export type FetchHandler = (request: Request) => Response | Promise<Response>;

/** Everything a provider may use of its host. */
export interface ProviderHost {
  /** Stable name of this host, for people and for the forge. */
  readonly hostName: string;
  /** A directory that exists, is durable and is private to this provider. */
  readonly stateDir: string;
  readonly pool: VmPool;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY` and their lower-case forms, as the host has them. */
  readonly proxyEnv: Readonly<Record<string, string | undefined>>;
  /**
   * Opens, or takes over, the socket of that name. Rejects with an error of code `address_in_use`
   * or `address_unavailable` that says what to do.
   */
  listen(name: string, address: string): Promise<ListenTarget>;
  /** The status has changed: tell whoever watches. Cheap; call it freely. */
  changed(): void;
  /** A job has ended: its last row, for the history. Once per job. */
  jobEnded(row: JobRow): void;
}
