/**
 * The lane of the small calls. A runner's log and its updates, in the form in which runners usually send
 * them, are read and answered without Node's HTTP server, which takes several times the CPU for it. Any
 * other request leaves the lane, byte by byte as it came, and its connection with it, for that server.
 */

import type { Socket } from 'node:net';
import type { GuestRequest, GuestResponse } from './guest-call.ts';
import type { GuestConnection } from './guests.ts';
import type { Limits } from './limits.ts';
import { refusals } from './refusals.ts';
import { readSmallCall, type SmallCallHead } from './small-call.ts';
import { SmallResponse } from './small-response.ts';

export interface LaneServices {
  readonly limits: Limits;
  /** Monotonic ms. */
  monotonic(): number;
  /** Whether a live machine has that token, and may have this connection: no one else's bodies are kept. */
  own(connection: GuestConnection, vmToken: string): boolean;
  /** Answers a call that has come whole. */
  answer(
    connection: GuestConnection,
    head: SmallCallHead,
    incoming: GuestRequest,
    outgoing: GuestResponse,
  ): void;
  /** Takes over a connection, with what it has sent last. */
  leave(socket: Socket, bytes: Buffer): void;
}

/** All connections that are in it. */
export class Lane {
  readonly #services: LaneServices;
  readonly #members = new Set<Member>();

  constructor(services: LaneServices) {
    this.#services = services;
  }

  enter(socket: Socket, connection: GuestConnection): void {
    const member: Member = new Member(socket, connection, this.#services, () => {
      this.#members.delete(member);
    });
    this.#members.add(member);
    socket.resume();
  }

  /** To be called now and then: ends what does not move. */
  sweep(): void {
    const now = this.#services.monotonic();
    for (const member of this.#members) member.endIfIdle(now);
  }
}

class Member {
  readonly #socket: Socket;
  readonly #connection: GuestConnection;
  readonly #services: LaneServices;
  readonly #left: () => void;
  readonly #onData = (data: Buffer): void => this.#read(data);
  // A host may keep it half open.
  readonly #onEnd = (): void => void this.#socket.end();
  readonly #onClose = (): void => {
    this.#left();
    this.#outgoing?.over();
  };
  #bytes: Buffer = NOTHING;
  #head: SmallCallHead | null = null;
  #outgoing: SmallResponse | null = null;
  #calls = 0;
  /** Since when the guest could have gone on. */
  #idleSince: number;

  constructor(
    socket: Socket,
    connection: GuestConnection,
    services: LaneServices,
    left: () => void,
  ) {
    this.#socket = socket;
    this.#connection = connection;
    this.#services = services;
    this.#left = left;
    this.#idleSince = services.monotonic();
    socket.on('data', this.#onData);
    socket.on('end', this.#onEnd);
    socket.on('close', this.#onClose);
    socket.on('error', ignore);
  }

  endIfIdle(now: number): void {
    if (this.#outgoing !== null) return;
    // A body that takes its time is Node's, and has limits there.
    if (this.#head !== null) {
      this.#leave();
      return;
    }
    const { headersMs, keepAliveMs } = this.#services.limits;
    const idleMs = now - this.#idleSince;
    const isBetweenCalls = this.#calls > 0 && this.#bytes.length === 0;
    if (isBetweenCalls && idleMs >= keepAliveMs) this.#socket.destroy();
    if (!isBetweenCalls && idleMs >= headersMs) this.#connection.refuse(refusals[408]);
  }

  #read(data: Buffer): void {
    // A call before the one before it is answered: no runner does that.
    if (this.#outgoing !== null) {
      this.#connection.cutOff();
      return;
    }
    if (this.#bytes.length === 0) {
      this.#bytes = data;
      this.#idleSince = this.#services.monotonic();
    } else {
      this.#bytes = Buffer.concat([this.#bytes, data]);
    }
    if (this.#head === null) {
      const head = readSmallCall(this.#bytes, this.#services.limits);
      if (head === 'more') return;
      if (head === 'other' || !this.#services.own(this.#connection, head.vmToken)) {
        this.#leave();
        return;
      }
      this.#head = head;
    }
    const missing = this.#head.headBytes + this.#head.bodyBytes - this.#bytes.length;
    if (missing < 0) this.#leave();
    else if (missing === 0) this.#answer(this.#head);
  }

  #answer(head: SmallCallHead): void {
    const { limits, monotonic } = this.#services;
    const socket = this.#socket;
    const { method, url, headers, rawHeaders } = head;
    const incoming: GuestRequest = {
      httpVersion: '1.1',
      method,
      url,
      headers,
      rawHeaders,
      complete: true,
      get destroyed() {
        return socket.destroyed;
      },
      body: this.#bytes.subarray(head.headBytes),
    };
    this.#head = null;
    this.#bytes = NOTHING;
    this.#calls += 1;
    const outgoing = new SmallResponse(socket, limits.keepAliveMs);
    this.#outgoing = outgoing;
    if (!this.#connection.begin(incoming, outgoing)) return;
    outgoing.once('close', () => {
      this.#outgoing = null;
      this.#idleSince = monotonic();
      // Who does not read the answers is not read either.
      if (!socket.writableNeedDrain) return;
      socket.pause();
      socket.once('drain', () => socket.resume());
    });
    this.#services.answer(this.#connection, head, incoming, outgoing);
  }

  #leave(): void {
    this.#left();
    const socket = this.#socket;
    socket.off('data', this.#onData).off('end', this.#onEnd);
    socket.off('close', this.#onClose).off('error', ignore);
    socket.pause();
    this.#services.leave(socket, this.#bytes);
  }
}

function ignore(): void {
  // Its `close` follows.
}

const NOTHING: Buffer = Buffer.alloc(0);
