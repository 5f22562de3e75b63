/** What one machine, and all of them, may take of us: each number with its reason. */

import { readFileSync } from 'node:fs';

/** Bytes, counts and ms. */
export interface Limits {
  /** Open at once, in all: hundreds of machines with a few each, and half of what the process may open. */
  readonly connections: number;
  /**
   * Of these, such as have not made a call with a known VM token: the oldest goes when one more comes.
   * Machines behind QEMU's user network all have one address, so nothing else tells them apart.
   */
  readonly unknownConnections: number;
  /** Per machine: a runner keeps 2, its helpers 1 each; parallel transfers go to object storage. */
  readonly connectionsPerVm: number;
  /** New ones per second of one machine: each costs as much as several calls, and a runner keeps its own. */
  readonly connectionsPerSecond: number;
  /** So many at once before that rate holds. */
  readonly connectionBurst: number;
  /** A runner sends about ten. */
  readonly headers: number;
  /** Of all headers of a request together: a runner's have a few hundred bytes. */
  readonly headerBytes: number;
  /** From a connection's, or a request's, begin to the end of its headers: time for a starved guest. */
  readonly headersMs: number;
  /** Path and query: a runner's longest has 300 bytes. */
  readonly targetBytes: number;
  /** A connection may idle as long as the official runner keeps it: 90 s, and a little more. */
  readonly keepAliveMs: number;
  /** Calls per second of one machine. A runner makes one each 3 s, at its end a handful at once. */
  readonly callsPerSecond: number;
  /** So many at once before that rate holds. */
  readonly callBurst: number;
  /**
   * How long a call or connection too many waits for its 429, at least; twice as long at most, unread: who
   * does not obey it is slowed to `connectionsPerVm` calls in that time, which costs the other machines
   * next to nothing.
   */
  readonly floodDelayMs: number;
  /**
   * The body of a JSON call, as GitLab itself takes it on `jobs/request`; a runner's has about 1 KiB. To read one
   * takes up to 1 ms, in which nobody else is answered, and `callsPerSecond` of them may come.
   */
  readonly jsonBytes: number;
  /** For that body to come whole: it is sent at once. */
  readonly jsonMs: number;
  /**
   * A body that does not move, in either direction, while we could take or give more of it: longer than a
   * guest is stopped for a snapshot or waits for a slow disk.
   */
  readonly idleMs: number;
  /** Between looks at what does not move, and at headers that do not come. */
  readonly checkEveryMs: number;
  /** After an answer that ends a connection, what still comes is thrown away for so long: a reset would cost the guest the answer. */
  readonly lingerMs: number;
}

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const KIB = 1024;

export const DEFAULT_LIMITS: Limits = Object.freeze({
  connections: 4096,
  unknownConnections: 2048,
  connectionsPerVm: 64,
  connectionsPerSecond: 50,
  connectionBurst: 100,
  headers: 64,
  headerBytes: 16 * KIB,
  headersMs: 30 * SECOND,
  targetBytes: 2 * KIB,
  keepAliveMs: 95 * SECOND,
  callsPerSecond: 100,
  callBurst: 50,
  floodDelayMs: 2000,
  jsonBytes: 32 * KIB,
  jsonMs: 30 * SECOND,
  idleMs: 5 * MINUTE,
  checkEveryMs: 5 * SECOND,
  lingerMs: 500,
});

/** Of the files that the process may open: as much for guests, as much for GitLab, half for the host. */
const SHARE_OF_FILES = 1 / 4;

/** The limits, lowered where this process may not open that many files. */
export function effectiveLimits(limits: Limits, openFiles: number = openFilesLimit()): Limits {
  const connections = Math.min(limits.connections, Math.floor(openFiles * SHARE_OF_FILES));
  const unknownConnections = Math.min(limits.unknownConnections, Math.ceil(connections / 2));
  return { ...limits, connections, unknownConnections };
}

/** Linux tells; elsewhere the defaults hold. */
function openFilesLimit(): number {
  try {
    const found = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
    return found === undefined ? Number.POSITIVE_INFINITY : Number(found);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
