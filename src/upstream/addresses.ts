/** Which of a name's addresses a connection tries first: one that did not answer waits behind the others. */

import dns from 'node:dns';
import type { LookupFunction, Socket } from 'node:net';
import type { Clock } from '../lib/clock.ts';

/** How long each address but the last has. Node's own 250 ms give up one that is far away, or whose first packet was lost. */
export const ADDRESS_MS = 2000;

/** An address that did not answer is tried last for so long: without it, each connection would wait for it anew. */
const LAST_FOR_MS = 10 * 60_000;

export class Addresses {
  readonly #clock: Clock;
  /** Monotonic ms until which each is tried last. */
  readonly #last = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The system's, in that order. */
  readonly lookup: LookupFunction = (hostname, options, found) => {
    dns.lookup(hostname, options, (error, addresses, family) => {
      if (error === null && Array.isArray(addresses)) {
        found(
          null,
          addresses.toSorted((a, b) => this.#rank(a.address) - this.#rank(b.address)),
        );
      } else {
        found(error, addresses, family);
      }
    });
  };

  /** Learns of the attempts of a connection that is being made. */
  watch(socket: Socket): void {
    const putLast = (address: string): void => {
      this.#last.set(address, this.#clock.monotonic() + LAST_FOR_MS);
    };
    socket.on('connectionAttemptTimeout', putLast);
    socket.on('connectionAttemptFailed', putLast);
    socket.once('connect', () => void this.#last.delete(socket.remoteAddress ?? ''));
  }

  #rank(address: string): 0 | 1 {
    const until = this.#last.get(address);
    if (until === undefined) return 0;
    if (this.#clock.monotonic() < until) return 1;
    this.#last.delete(address);
    return 0;
  }
}
