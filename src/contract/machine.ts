/** What a provider sees of the host's pool: room, reservations and machines. */

import type { JsonValue, Secret } from './values.ts';

/** A kind of machine from the host's configuration. Immutable. */
export interface MachineType {
  /** Its key under `machines`, such as `debian`. */
  readonly name: string;
  /** The memory that one machine of this type counts for, in bytes. */
  readonly ramBytes: number;
  /** As gitlab-runner and Go name it: `amd64`, `arm64`. */
  readonly architecture: string;
  /** The host's loopback as guests see it: `10.0.2.2` behind QEMU's user network, else `127.0.0.1`. */
  readonly hostAddress: string;
}

/** Why a reservation was refused; `code` of the error with which `reserve` rejects. */
export type Refusal = 'unknown_machine_type' | 'never_fits' | 'draining' | 'aborted';

/** A wish for room in the pool. */
export interface RoomRequest {
  /** Key of a machine type. */
  readonly machineType: string;
  /** True where a job already waits for the machine; false to look for a job with room in hand. */
  readonly firm: boolean;
  /** Why, in a few words for people: `runner build: looking for a job`. */
  readonly purpose: string;
  /** A job is already ours (its second boot): served before all others, even while draining. */
  readonly claimed?: true;
  /**
   * For a machine that is booted before there is a job for it, at once: granted only where nobody waits for that room,
   * and asked back (`wanted`) as soon as somebody does. Not firm, not claimed.
   */
  readonly warm?: true;
  /**
   * Of a speculative request: how often its provider would ask its forge, in ms. After it found no job, room that
   * others wait for is left to them for at least as long. Default: 3 s.
   */
  readonly intervalMs?: number;
  /** Takes the request back while it waits. After the grant it does nothing: the caller releases. */
  readonly signal: AbortSignal;
  /** Told each time the reason for waiting changes, in words for people. */
  onWaiting?(reason: string): void;
}

/** Memory that counts as used. */
export interface Room {
  /** As it was when the room was granted; a reload does not change it. */
  readonly machineType: MachineType;
  /** Whether a job is bound to this room, or has been; a machine's outlives a restart of the host. */
  readonly firm: boolean;
  /**
   * Who waits for this room at the moment. Also `firm` while no job may begin in it: its machine type waits for a new
   * image, the host is paused.
   */
  readonly wanted: 'no' | 'speculative' | 'firm';
  /** Calls the listener whenever `wanted` has changed; returns the function that ends this. */
  onWanted(listener: () => void): () => void;
  /** There is a job now: this room is no longer asked to yield. */
  makeFirm(): void;
}

/** Granted room without a machine. Ends by exactly one of `boot` and `release`. */
export interface Reservation extends Room {
  /**
   * Turns the room into a machine. Returns at once and never throws for a fault of the machine:
   * whatever goes wrong is told by `Machine.ended`. Throws only when called on room that has ended.
   */
  boot(spec: BootSpec): Machine;
  /**
   * Gives the room back. Idempotent; does nothing after `boot`. Speculative room was held to ask a forge: `failed`
   * says that it could not be asked, so that asking again for the next runner is of no use either.
   */
  release(ask?: 'no-job' | 'failed'): void;
}

/** What a machine is to be booted with. */
export interface BootSpec {
  /** The identity of machine, run directory and journal entry; `[a-z0-9-]`, at most 63 characters. */
  readonly runnerName: string;
  /** Values for the template's placeholders, by name. Secrets are written to the guest, never logged. */
  readonly substitutions: Readonly<Record<string, string | Secret>>;
  /** Durable before the machine is spawned; immutable; handed back after a restart of the host. */
  readonly metadata: JsonValue;
}

/** The states of a machine, by Forrest's names. */
export type MachineState =
  | 'requested'
  | 'registering'
  | 'registered'
  | 'starting'
  | 'waiting'
  | 'running'
  | 'stopping'
  | 'stopped';

/** One ephemeral machine. A warm machine is speculative room. */
export interface Machine extends Room {
  readonly runnerName: string;
  readonly state: MachineState;
  readonly metadata: JsonValue;
  /** A machine of its type that is booted now is another one: its image, template or settings have changed since. */
  readonly outdated?: boolean;
  /** When the machine was running (wall clock, ms since the epoch), or null while it is not yet. */
  readonly bootedAt: number | null;
  /** Tells the host what only the provider can know: the runner called, has a job, is done. */
  report(event: 'online' | 'busy' | 'done'): void;
  /** Whether this run's disk may become the machine image; known only once a job is claimed. */
  allowPersist(allowed: boolean): Promise<void>;
  /**
   * Powers the machine down, then kills it; one that is not firm has had no job and may be killed at once.
   * Idempotent; the first reason is the one recorded.
   */
  stop(reason: string): void;
  /**
   * Settles exactly once, never rejects: from then on the machine can serve its job no more. Its memory
   * becomes free just after, so that a request made at once may take its place before others do.
   */
  readonly ended: Promise<MachineOutcome>;
}

/** How a machine ended. */
export interface MachineOutcome {
  readonly cause: 'powered-off' | 'crashed' | 'stopped' | 'boot-failed' | 'time-limit' | 'unknown';
  /** The cause in a sentence for people, without secrets. */
  readonly detail: string;
  /** Of the process that was the machine, where it is known. */
  readonly exitCode: number | null;
  /** The last bytes of its console, at most 64 KiB; may hold a job's secrets. */
  readonly consoleTail: Uint8Array;
  /** Whether its disk became the machine image. */
  readonly persisted: boolean;
}

/** The host's memory, shared by all providers. One view per provider. */
export interface VmPool {
  /** All configured machine types, by name; a new map after each reload. */
  machineTypes(): ReadonlyMap<string, MachineType>;
  /**
   * Waits for room in the provider's turn. Rejects with an error whose `code` is a {@link Refusal}.
   * The request counts from this call on; its `signal` takes it back.
   */
  reserve(request: RoomRequest): Promise<Reservation>;
  /**
   * The forge has said (a webhook) that a job may wait now for a machine of that type: it may be looked for
   * at once, although none was found a moment ago. Grants nothing by itself; call it freely.
   */
  expectJob(machineType: string): void;
  /**
   * This provider's machines. Complete before the provider's `start()`: those are included that were
   * adopted from an earlier run, and those that ended while the host was down (`ended` is settled).
   */
  machines(): readonly Machine[];
}
